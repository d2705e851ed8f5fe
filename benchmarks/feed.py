"""Feeding a student: our loader beside the same views made as other people's loaders make them.

    python benchmarks/feed.py [--views 128] [--batch 32] [--rounds 7] [--json OUT]

    fpd             crops as uint8 with the teacher's maps as stored; JPEGs decoded at reduced scale
                    where the crop allows; everything else is left to the training device
    HRNet           full decompress, warp, float32 normalize, targets drawn with NumPy; no teacher. Also
                    the loader of the paper's authors, who took it over (`_loaders.py`)
    HRNet, maps     the same with the teacher's maps as raw float16 from a memory-mapped file
    pytorch-pose    floats from the start, NumPy and Pillow

256 x 256 crops, 64 x 64 maps, 14 joints, half of the views mirrored, the same crops for all (they
are compared first), batches collated by PyTorch. Photographs of three kinds, all in the page cache:
LSP (cut around the person), LSPET, and the five MPII photographs at hand, again and again in other
augmentation; without `../shared/data`, drawn figures, written as JPEGs.

All on one core. `in process` is the work alone; `by a worker` has it done by a worker process on
that same core and handed over through shared memory, as in training. `device` is what is left to
the training device, timed on that same core too: on a machine without a GPU it does not vanish, and
`with it` has all of it. Views a second: medians of rounds in which the rows take turns. Then where
our time goes, a view.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from _common import (
    Content,
    Results,
    manifest,
    medians,
    number,
    options,
    print_table,
    rates,
    use_one_core,
    write_json,
)
from _loaders import HRNetViews, HRNetWithMaps, Key, PytorchPoseViews
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from fpd.data.augmentation import Augmentation, affine_23, transform
from fpd.data.datasets import Data, load
from fpd.data.heatmap_codec import encode, flip_heatmaps
from fpd.data.io.images import REDUCED_FLAGS, ImageFolder, _read_bytes
from fpd.data.readers.synthetic.people import synthetic_people
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.data.views import Geometry, Views, cut
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime.loader import make_loader
from fpd.pipeline.store import Shard, StoreReader, StoreWriter, decompress, files_at
from fpd.pipeline.training.dataset import DistillationViews

REAL = Path(__file__).parents[2] / "shared" / "data"
CPU = torch.device("cpu")
GEOMETRY = Geometry()
SIGMA_PX = 2.0
SHARD = 128
SECONDS = 0.1  # of a part of the work, a round
TARGET = 3  # times the rate of the other loaders
LIKENESS = 0.8  # correlation of crops that show the same, in other colors and cut otherwise
MPII_BOX = 1.25 * 200  # pixels a unit of `scale`, as HRNet widens it
MPII_DOWN_PX = 15  # and moves the center, a unit of `scale`
MPII_AS_LSP = (0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9)


class Side(NamedTuple):
    """A way to make batches, and what it leaves to the device."""

    views: Any
    device: Callable[[Any], object] | None = None


def main() -> None:
    arguments = options(__doc__, views=128, batch=32, rounds=7)
    use_one_core()
    results, profiles, about = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, people in photographs(Path(folder), arguments.views).items():
            views = Views(people, GEOMETRY, Augmentation(flip=False), seed=0)
            sides = make_sides(Path(folder) / kind, views)
            check_same_crops(sides)
            keys = [(index, 0, index % 2 == 1) for index in range(len(people))]
            size = arguments.batch
            batches = [keys[start : start + size] for start in range(0, len(keys), size)]
            about[kind] = describe(views)
            print(f"\n{kind}: {about[kind]}")
            results[kind] = measure(sides, batches, arguments.rounds)
            profiles[kind] = profile(views, sides["fpd"], batches, arguments.rounds)
            print_results(results[kind])
            print_profile(profiles[kind], results[kind]["fpd"])
    everything = {"sides": results, "profile": profiles, "photographs": about}
    write_json(arguments.json, "feed", everything, views=arguments.views, batch=arguments.batch)


def photographs(folder: Path, count: int) -> dict[str, SampleSet]:
    """People on photographs of each kind, by its name."""
    if not (REAL / "lspet" / "joints.mat").is_file():
        print(f"{REAL} is not there: drawn figures instead")
        return {"figures": drawn(folder, count)}
    lsp, lspet = (
        load(Data(reader=reader, root=REAL, validation=0), "train") for reader in ("lsp", "lspet")
    )
    return {
        "LSP": lsp.take(np.linspace(0, len(lsp) - 1, count).astype(int)),
        "LSPET": lspet.take(np.linspace(0, len(lspet) - 1, count).astype(int)),
        "MPII": mpii(count),
    }


def drawn(folder: Path, count: int) -> SampleSet:
    """Figures as JPEG files."""
    people = synthetic_people("train", count)
    names = [f"{index}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        image, _ = people.images.read(index, 1.0)
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return replace(people, images=ImageFolder(folder, names))


def mpii(count: int) -> SampleSet:
    """The MPII people at hand, as if each were many; the joints that LSP has, too."""
    annotated = json.loads((REAL / "mpii" / "annot" / "valid.json").read_text())
    joints = np.array([person["joints"] for person in annotated])[:, MPII_AS_LSP] - 1.0
    labeled = np.array([person["joints_vis"] for person in annotated])[:, MPII_AS_LSP, None]
    scale = np.array([person["scale"] for person in annotated])
    center = np.array([person["center"] for person in annotated]) - 1.0
    center[:, 1] += MPII_DOWN_PX * scale
    who = np.arange(count) % len(annotated)
    return SampleSet(
        name="mpii",
        skeleton=LSP,
        images=ImageFolder(REAL / "mpii" / "images", [person["image"] for person in annotated]),
        ids=tuple(f"mpii/{index}" for index in range(count)),
        image_N=who,
        joints_NK2=np.where(labeled, joints, np.nan)[who],
        center_N2=center[who],
        side_N=MPII_BOX * scale[who],
        normalizer_N=np.full(count, np.nan),
    )


def make_sides(folder: Path, views: Views) -> dict[str, Side]:
    """Every way to make these views; the teacher's maps are written where it wants them."""
    writer, maps = write_targets(folder, views)
    ours = DistillationViews(views, StoreReader(writer.files, writer.layout))
    return {
        "fpd": Side(ours, finish),
        "HRNet": Side(HRNetViews(views)),
        "HRNet, maps": Side(HRNetWithMaps(views, maps), lambda batch: batch[-1].float()),
        "pytorch-pose": Side(PytorchPoseViews(views)),
    }


def write_targets(folder: Path, views: Views) -> tuple[StoreWriter, NDArray[np.float16]]:
    """Maps like a teacher's: in a store, and as float16 (samples, K, H, W) in a mapped file."""
    folder.mkdir()
    people, joints = views.samples, views.samples.skeleton.num_joints
    wanted = manifest(len(people), SHARD) | {"joints": list(people.skeleton.joints)}
    writer = StoreWriter(files_at(folder / "heatmaps.zarr"), wanted, 1, folder)
    content = Content(pool_views=128)
    shape = (len(people), joints, GEOMETRY.heatmap_px, GEOMETRY.heatmap_px)
    maps = np.memmap(folder / "heatmaps.f16", np.float16, "w+", shape=shape)
    for _, shard in writer.layout.tasks():
        rows = writer.layout.rows(shard)
        dealt = content.shard(0, shard, rows)
        coded = [c[:, :joints] for c in (dealt.heatmaps_SKYXC, dealt.steps_SK, dealt.peaks_SK)]
        parameters = np.array([views.parameters(index, 0) for index in rows])
        writer.write(Shard(0, shard, *coded, parameters, measured=dealt.measured))
        coefficients, steps = (torch.from_numpy(values) for values in coded[:2])
        maps[rows.start : rows.stop] = decompress(coefficients, steps, GEOMETRY.heatmap_px).numpy()
    writer.finish()
    return writer, maps


def finish(batch: dict[str, Tensor]) -> None:
    """What of our view is made on the device (`objective.py`)."""
    for part in DEVICE_PARTS.values():
        part(batch)


def teachers_maps(batch: dict[str, Tensor]) -> Tensor:
    maps = decompress(batch["coefficients"], batch["steps"], GEOMETRY.heatmap_px)
    return torch.where(
        batch["mirrored"][:, None, None, None], flip_heatmaps(maps, LSP.flip_indices), maps
    )


DEVICE_PARTS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "normalize": lambda batch: normalize(batch["crop"], CPU),
    "targets": lambda batch: encode(batch["joints"], GEOMETRY.heatmap_px, SIGMA_PX),
    "teacher's maps": teachers_maps,
}


def check_same_crops(sides: dict[str, Side]) -> None:
    """All sides show the same person in the same place.

    Raises:
        RuntimeError: they do not, so their rates cannot be compared.
    """
    for key in [(index, 0, bool(index % 2)) for index in range(4)]:
        ours = sides["fpd"].views[key]
        hrnet, _, _, hrnet_meta = sides["HRNet"].views[key]
        floats, _, floats_meta = sides["pytorch-pose"].views[key]
        hrnet_joints = GEOMETRY.to_heatmap(hrnet_meta["joints"][:, :2])
        seen = {
            "HRNet": (hrnet, hrnet_joints),
            "pytorch-pose": (floats, floats_meta["tpts"][:, :2].numpy()),
        }
        for name, (crop, joints) in seen.items():
            theirs = crop.numpy().reshape(3, -1)
            likeness = correlation(ours["crop"].reshape(-1, 3).T, theirs)
            apart_px = np.nanmedian(abs(joints - ours["joints"]))
            if likeness < LIKENESS or apart_px > 0.5:
                raise RuntimeError(
                    f"{name}, view {key}: not our crop (correlation {likeness:.2f}, joints "
                    f"{apart_px:.2f} heatmap pixels apart)"
                )


def correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Of two crops (3, pixels), each color by itself: brighter or paler counts as the same."""
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(one, other, strict=True)]))


def describe(views: Views) -> str:
    """What the photographs are like."""
    people = views.samples
    sizes = np.array([people.images.size(int(image)) for image in people.image_N])
    kilobytes = np.median([Path(locate(views, i)).stat().st_size for i in range(len(people))]) / 1e3
    reduced = np.mean([ready(views, index).reduction > 1 for index in range(len(people))])
    width, height = np.median(sizes, axis=0)
    return (
        f"{width:.0f} x {height:.0f} pixels and {kilobytes:.0f} kB in the median, "
        f"person's box {np.median(people.side_N):.0f} pixels, {100 * reduced:.0f} % of crops "
        "decoded at reduced scale"
    )


def locate(views: Views, index: int) -> str:
    return views.samples.images.locate(views.samples[index].image)


def measure(sides: dict[str, Side], batches: list[list[Key]], rounds: int) -> Results:
    """Views a second of every side; bytes a view; milliseconds a view that the device is left."""
    first = {name: collated(side.views, batches[0]) for name, side in sides.items()}
    work: dict[str, Callable[[int], int]] = {}
    for name, side in sides.items():
        loader = make_loader(side.views, batches, CPU, workers=1, prefetch=4)
        work[name] = partial(in_process, side.views, batches)
        work[f"{name}, by a worker"] = partial(by_a_worker, loader)
    left = {
        name: partial(on_device, side.device, first[name], len(batches[0]))
        for name, side in sides.items()
        if side.device is not None
    }
    rate = medians(rates(work, rounds))
    device_rate = medians(rates(left, rounds, SECONDS))
    table: Results = {}
    for name in sides:
        device_s = 1 / device_rate[name] if name in device_rate else 0.0
        table[name] = {
            "in process": rate[name],
            "by a worker": rate[f"{name}, by a worker"],
            "device, ms": 1e3 * device_s,
            "with it": 1 / (1 / rate[f"{name}, by a worker"] + device_s),
            "bytes a view": tensor_bytes(first[name]) / len(batches[0]),
        }
    return table


def collated(views: Any, batch: list[Key]) -> Any:
    return default_collate([views[key] for key in batch])


def in_process(views: Any, batches: list[list[Key]], _: int) -> int:
    for batch in batches:
        collated(views, batch)
    return sum(map(len, batches))


def by_a_worker(loader: Any, _: int) -> int:
    for _batch in loader:
        pass
    return sum(map(len, loader.batch_sampler))


def on_device(work: Callable[[Any], object], batch: Any, views: int, _: int) -> int:
    with torch.inference_mode():
        work(batch)
    return views


def tensor_bytes(batch: Any) -> int:
    """Bytes of all tensors in a batch: what a worker hands over, and then goes to the device."""
    if isinstance(batch, Tensor):
        return batch.nbytes
    if isinstance(batch, dict):
        return sum(map(tensor_bytes, batch.values()))
    return sum(map(tensor_bytes, batch)) if isinstance(batch, list | tuple) else 0


class Ready(NamedTuple):
    """An image already read, as `Images` gives it, and what it was decoded from."""

    encoded: bytes
    image: NDArray[np.uint8]
    reduction: int

    def read(self, _index: int, _zoom: float) -> tuple[NDArray[np.uint8], int]:
        return self.image, self.reduction


def ready(views: Views, index: int) -> Ready:
    zoom = float(np.sqrt(abs(np.linalg.det(affine(views, index)[:, :2]))))
    image, reduction = views.samples.images.read(views.samples[index].image, zoom)
    return Ready(_read_bytes(Path(locate(views, index))), image, reduction)


def affine(views: Views, index: int) -> NDArray[np.float64]:
    sample = views.samples[index]
    parameters = views.parameters(index, 0)
    return affine_23(sample.center_2, sample.side_px, parameters, GEOMETRY.crop_px)


def profile(views: Views, side: Side, batches: list[list[Key]], rounds: int) -> dict[str, float]:
    """Milliseconds a view of each part of our work, each on its own over all views."""
    indices = range(len(views))
    images = [ready(views, index) for index in indices]
    affines = [affine(views, index) for index in indices]
    samples = [views.samples[index] for index in indices]
    paths = [Path(locate(views, index)) for index in indices]
    plain = [views[index, 0] for index in indices]
    made = [side.views[key] for batch in batches for key in batch]

    def place(index: int) -> object:
        moved = transform(affine(views, index), samples[index].joints_K2)
        return GEOMETRY.to_heatmap(moved)

    parts: dict[str, Callable[[int], object]] = {
        "file": lambda i: _read_bytes(paths[i]),
        "JPEG decompress": lambda i: decoded(images[i]),
        "warp": lambda i: cut(images[i], samples[i], affines[i], GEOMETRY.crop_px),
        "parameters, labels": place,
        "flip_heatmaps": lambda i: views.mirrored(plain[i]) if i % 2 else None,
        "cached target": lambda i: side.views.store.read(0, i),
    }
    cases: dict[str, Callable[[int], int]] = {
        name: partial(one_by_one, part, len(views)) for name, part in parts.items()
    }
    cases["in process, all"] = partial(in_process, side.views, batches)
    size = len(batches[0])
    cases["collate"] = lambda _: len(default_collate(made[:size])["index"])
    batch = default_collate(made[:size])
    for name, work in DEVICE_PARTS.items():
        cases[f"device: {name}"] = partial(on_device, work, batch, size)
    found = medians(rates(cases, rounds, SECONDS))
    return {name: 1e3 / rate for name, rate in found.items()}


def decoded(image: Ready) -> object:
    flags = REDUCED_FLAGS[image.reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(image.encoded, np.uint8), flags)


def one_by_one(work: Callable[[int], object], count: int, _: int) -> int:
    for index in range(count):
        work(index)
    return count


def print_results(results: Results) -> None:
    """Each side with how many times ours is of it."""
    rated = ("in process", "by a worker", "with it")
    rows = []
    for name, row in results.items():
        cells = [
            f"{row[column]:,.0f} ({results['fpd'][column] / row[column]:.2f} x)" for column in rated
        ]
        rows.append([name, *cells, f"{row['device, ms']:.2f}", number(row["bytes a view"])])
    print_table(["views/s (fpd is)", *rated, "device, ms a view", "bytes a view"], rows)
    for name in ("HRNet", "pytorch-pose"):
        times = results["fpd"]["by a worker"] / results[name]["by a worker"]
        verdict = "met" if times >= TARGET else "missed"
        print(f"target {TARGET} x {name}, by a worker: {times:.2f} x, {verdict}")


def print_profile(parts: dict[str, float], ours: dict[str, float]) -> None:
    """Where our time goes: parts, what they leave unexplained, and what a worker adds."""
    left = {name: value for name, value in parts.items() if name.startswith("device")}
    own = {name: value for name, value in parts.items() if name not in left}
    whole = own.pop("in process, all")
    more = {
        "between them": whole - sum(own.values()),
        "in process, all": whole,
        "handing over": 1e3 / ours["by a worker"] - 1e3 / ours["in process"],
    }
    rows = (own | more | left).items()
    print_table(["fpd", "ms a view"], [[name, f"{value:.3f}"] for name, value in rows])


if __name__ == "__main__":
    main()
