"""Data loading for a student: our loader against other projects' loaders on the same views.

    python benchmarks/feed.py [--data datasets] [--views 128] [--batch 32] [--rounds 7] [--json OUT]

    fpd               uint8 crops with the teacher's heatmaps as stored; JPEGs decoded at reduced
                      scale where the crop allows it; the rest is left to the training device
    HRNet             full decoding, warp, float32 normalization, targets drawn with NumPy; no
                      teacher. The paper's authors use this loader too (`_loaders.py`)
    HRNet, heatmaps   the same, with the teacher's heatmaps as raw float16 from a memory-mapped file
    pytorch-pose      float images from the start, NumPy and Pillow

256 x 256 crops, 64 x 64 heatmaps, 14 joints, half of the views flipped, batches collated by
PyTorch. All loaders make the same crops, which is checked first. Photographs of three kinds, all in
the page cache: LSP (cropped around the person), LSPET, and MPII, whose first images are used again
and again under other augmentations. Without these data sets, synthetic images are written as JPEGs.

Everything runs on one core. `in process` is the work alone; `by a worker` is done by a worker
process on that same core and handed over through shared memory, as in training. `device` is what is
left to the training device, timed on that same core, which is where it runs on a machine without a
GPU; `with device` includes it. Views per second are medians of rounds in which the rows take turns.
A second table has the milliseconds per view of each part of our loader's work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from _common import (
    CPU,
    SIGMA_PX,
    Case,
    Results,
    ShardFactory,
    format_number,
    make_parser,
    measure_rates,
    medians,
    minimal_manifest,
    print_table,
    use_one_core,
    write_results,
)
from _loaders import HRNetViews, HRNetViewsWithHeatmaps, Key, PytorchPoseViews
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from fpd.data.augmentation import Augmentation, affine_23, transform
from fpd.data.datasets import Data, load
from fpd.data.heatmap_codec import encode, flip_heatmaps
from fpd.data.io.images import REDUCED_FLAGS, ImageFolder
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.data.views import Geometry, Views, crop_image
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store import StoreReader, StoreWriter, decompress, open_storage
from fpd.pipeline.training.dataset import DistillationViews

GEOMETRY = Geometry()
SHARD_SAMPLES = 128
MIN_SECONDS = 0.1  # of a part of the work, per round
TARGET_RATIO = 3  # of our rate to those of the other loaders
MIN_CORRELATION = 0.8  # of crops that show the same content with other colors and interpolation
MPII_BOX_PX = 1.25 * 200  # a box's side is `scale` times this (HRNet)
MPII_SHIFT_PX = 15  # and its center is moved down by `scale` times this (HRNet)
MPII_TO_LSP = (0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9)


class LoaderCase(NamedTuple):
    """A data set that makes views, and the work on a batch that it leaves to the device."""

    dataset: Any
    device_work: Callable[[Any], object] | None = None


def main() -> None:
    arguments = parse_arguments()
    use_one_core()
    rates, profiles, descriptions = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        sample_sets = load_photographs(arguments.data, Path(folder), arguments.views)
        for kind, samples in sample_sets.items():
            views = Views(samples, GEOMETRY, Augmentation(flip=False), seed=0)
            cases = make_cases(Path(folder) / kind, views)
            check_same_crops(cases)
            keys = [(index, 0, index % 2 == 1) for index in range(len(samples))]
            batches = in_batches(keys, arguments.batch)
            descriptions[kind] = describe(views)
            print(f"\n{kind}: {descriptions[kind]}")
            rates[kind] = measure_loaders(cases, batches, arguments.rounds)
            profiles[kind] = profile(views, cases["fpd"].dataset, batches, arguments.rounds)
            print_rates(rates[kind])
            print_profile(profiles[kind], rates[kind]["fpd"])
    write_results(
        arguments.json,
        "feed",
        {"loaders": rates, "profile": profiles, "photographs": descriptions},
        views=arguments.views,
        batch_size=arguments.batch,
    )


def load_photographs(root: Path, folder: Path, count: int) -> dict[str, SampleSet]:
    """Sample sets of `count` samples, by the kind of their photographs."""
    if not (root / "lspet" / "joints.mat").is_file():
        print(f"no data sets at {root} (--data): using synthetic images")
        return {"synthetic": write_synthetic(folder, count)}
    lsp, lspet = (
        load(Data(reader=reader, root=root, validation=0), "train") for reader in ("lsp", "lspet")
    )
    return {
        "LSP": lsp.take(np.linspace(0, len(lsp) - 1, count).astype(int)),
        "LSPET": lspet.take(np.linspace(0, len(lspet) - 1, count).astype(int)),
        "MPII": load_mpii(root, count),
    }


def write_synthetic(folder: Path, count: int) -> SampleSet:
    """Synthetic samples, their images written as JPEG files."""
    samples = synthetic_samples("train", count)
    names = [f"{index}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        image, _ = samples.images.read(index, 1.0)
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return replace(samples, images=ImageFolder(folder, names))


def load_mpii(root: Path, count: int) -> SampleSet:
    """MPII's validation samples, repeated under new ids, with the joints that LSP has."""
    annotations = json.loads((root / "mpii" / "annot" / "valid.json").read_text())
    joints = np.array([entry["joints"] for entry in annotations])[:, MPII_TO_LSP] - 1.0
    labeled = np.array([entry["joints_vis"] for entry in annotations])[:, MPII_TO_LSP, None]
    scale = np.array([entry["scale"] for entry in annotations])
    center = np.array([entry["center"] for entry in annotations]) - 1.0
    center[:, 1] += MPII_SHIFT_PX * scale
    indices = np.arange(count) % len(annotations)
    return SampleSet(
        name="mpii",
        skeleton=LSP,
        images=ImageFolder(root / "mpii" / "images", [entry["image"] for entry in annotations]),
        ids=tuple(f"mpii/{index}" for index in range(count)),
        image_N=indices,
        joints_NK2=np.where(labeled, joints, np.nan)[indices],
        center_N2=center[indices],
        side_N=MPII_BOX_PX * scale[indices],
        normalizer_N=np.full(count, np.nan),
    )


def make_cases(folder: Path, views: Views) -> dict[str, LoaderCase]:
    """Every loader of these views, after writing the teacher's heatmaps where it reads them."""
    writer, heatmaps = write_teacher_heatmaps(folder, views)
    ours = DistillationViews(views, StoreReader(writer.storage, writer.layout))
    return {
        "fpd": LoaderCase(ours, work_on_device),
        "HRNet": LoaderCase(HRNetViews(views)),
        "HRNet, heatmaps": LoaderCase(
            HRNetViewsWithHeatmaps(views, heatmaps), lambda batch: batch[-1].float()
        ),
        "pytorch-pose": LoaderCase(PytorchPoseViews(views)),
    }


def write_teacher_heatmaps(folder: Path, views: Views) -> tuple[StoreWriter, NDArray[np.float16]]:
    """The same teacher-like heatmaps in a store, and as float16 (samples, K, H, W) in a file."""
    folder.mkdir()
    samples, joints = views.samples, views.samples.skeleton.num_joints
    manifest = minimal_manifest(len(samples), SHARD_SAMPLES)
    manifest["joints"] = list(samples.skeleton.joints)
    writer = StoreWriter(open_storage(folder / "heatmaps.zarr"), manifest, 1, folder)
    factory = ShardFactory(pool_views=128)
    shape = (len(samples), joints, GEOMETRY.heatmap_px, GEOMETRY.heatmap_px)
    heatmaps = np.memmap(folder / "heatmaps.f16", np.float16, "w+", shape=shape)
    for _, number in writer.layout.tasks():
        rows = writer.layout.rows(number)
        shard = factory.make(0, number, rows)
        coefficients = shard.heatmaps_SKYXC[:, :joints]
        steps = shard.steps_SK[:, :joints]
        parameters = np.array([views.parameters(index, 0) for index in rows])
        writer.write(
            replace(
                shard,
                heatmaps_SKYXC=coefficients,
                steps_SK=steps,
                peaks_SK=shard.peaks_SK[:, :joints],
                parameters_SP=parameters,
            )
        )
        decoded = decompress(
            torch.from_numpy(coefficients), torch.from_numpy(steps), GEOMETRY.heatmap_px
        )
        heatmaps[rows.start : rows.stop] = decoded.numpy()
    writer.finish()
    return writer, heatmaps


def decode_heatmaps(batch: dict[str, Tensor]) -> Tensor:
    heatmaps = decompress(batch["coefficients"], batch["steps"], GEOMETRY.heatmap_px)
    flipped = flip_heatmaps(heatmaps, LSP.flip_indices)
    return torch.where(batch["flipped"][:, None, None, None], flipped, heatmaps)


DEVICE_PARTS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "normalize crops": lambda batch: normalize(batch["crop"], CPU),
    "encode labels": lambda batch: encode(batch["joints"], GEOMETRY.heatmap_px, SIGMA_PX),
    "decode heatmaps": decode_heatmaps,
}


def work_on_device(batch: dict[str, Tensor]) -> None:
    """The part of making our views that the training device does (`training/objective.py`)."""
    for part in DEVICE_PARTS.values():
        part(batch)


def check_same_crops(cases: dict[str, LoaderCase]) -> None:
    """Check that all loaders show the same sample in the same place.

    Raises:
        RuntimeError: they do not, so their rates cannot be compared.
    """
    for key in [(index, 0, bool(index % 2)) for index in range(4)]:
        ours = cases["fpd"].dataset[key]
        hrnet_crop, _, _, hrnet_meta = cases["HRNet"].dataset[key]
        pytorch_pose_crop, _, pytorch_pose_meta = cases["pytorch-pose"].dataset[key]
        others = {
            "HRNet": (hrnet_crop, GEOMETRY.to_heatmap(hrnet_meta["joints"][:, :2])),
            "pytorch-pose": (pytorch_pose_crop, pytorch_pose_meta["tpts"][:, :2].numpy()),
        }
        for name, (crop, joints) in others.items():
            similarity = correlation(ours["crop"].reshape(-1, 3).T, crop.numpy().reshape(3, -1))
            distance_px = np.nanmedian(abs(joints - ours["joints"]))
            if similarity < MIN_CORRELATION or distance_px > 0.5:
                raise RuntimeError(
                    f"{name}, view {key}: expected the same crop as ours, got a correlation of "
                    f"{similarity:.2f} and joints {distance_px:.2f} heatmap pixels apart"
                )


def correlation(crop: NDArray[Any], other: NDArray[Any]) -> float:
    """Mean over the color channels of two crops, (3, pixels): brightness does not matter."""
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(crop, other, strict=True)]))


def describe(views: Views) -> str:
    """The typical size of the photographs."""
    samples = views.samples
    sizes = np.array([samples.images.size(int(image)) for image in samples.image_N])
    paths = [image_path(views, index) for index in range(len(samples))]
    kilobytes = np.median([path.stat().st_size for path in paths]) / 1e3
    reduced = np.mean([read_image(views, index).reduction > 1 for index in range(len(samples))])
    width, height = np.median(sizes, axis=0)
    return (
        f"medians: {width:.0f} x {height:.0f} pixels, {kilobytes:.0f} kB, person's box "
        f"{np.median(samples.side_N):.0f} pixels; {100 * reduced:.0f} % of the crops decoded at "
        "reduced scale"
    )


def image_path(views: Views, index: int) -> Path:
    return Path(views.samples.images.locate(views.samples[index].image))


def measure_loaders(
    cases: dict[str, LoaderCase], batches: Sequence[Sequence[Key]], rounds: int
) -> Results:
    """Views per second, milliseconds per view left to the device, and bytes per view."""
    first_batches = {name: collate(case.dataset, batches[0]) for name, case in cases.items()}
    loading: dict[str, Case] = {}
    for name, case in cases.items():
        loader = make_loader(case.dataset, batches, CPU, workers=1, prefetch=4)
        loading[name] = partial(load_in_process, case.dataset, batches)
        loading[f"{name}, by a worker"] = partial(load_by_worker, loader)
    device: dict[str, Case] = {
        name: partial(run_device_work, case.device_work, first_batches[name], len(batches[0]))
        for name, case in cases.items()
        if case.device_work is not None
    }
    rates = medians(measure_rates(loading, rounds))
    device_rates = medians(measure_rates(device, rounds, MIN_SECONDS))
    results: Results = {}
    for name in cases:
        by_worker = rates[f"{name}, by a worker"]
        device_s = 1 / device_rates[name] if name in device_rates else 0.0
        results[name] = {
            "in process": rates[name],
            "by a worker": by_worker,
            "device, ms": 1e3 * device_s,
            "with device": 1 / (1 / by_worker + device_s),
            "bytes per view": tensor_bytes(first_batches[name]) / len(batches[0]),
        }
    return results


def collate(dataset: Any, batch: Sequence[Key]) -> Any:
    return default_collate([dataset[key] for key in batch])


def load_in_process(dataset: Any, batches: Sequence[Sequence[Key]], _: int) -> int:
    for batch in batches:
        collate(dataset, batch)
    return sum(map(len, batches))


def load_by_worker(loader: Any, _: int) -> int:
    for _batch in loader:
        pass
    return sum(map(len, loader.batch_sampler))


def run_device_work(work: Callable[[Any], object], batch: Any, views: int, _: int) -> int:
    with torch.inference_mode():
        work(batch)
    return views


def tensor_bytes(batch: Any) -> int:
    """Bytes of all tensors in a batch, which a worker hands over and the device receives."""
    if isinstance(batch, Tensor):
        return batch.nbytes
    if isinstance(batch, dict):
        return sum(map(tensor_bytes, batch.values()))
    return sum(map(tensor_bytes, batch)) if isinstance(batch, list | tuple) else 0


@dataclass(frozen=True)
class DecodedImage:
    """An image with its encoded bytes; stands in for `SampleSet.images`."""

    encoded: bytes
    image: NDArray[np.uint8]
    reduction: int

    def read(self, _index: int, _zoom: float) -> tuple[NDArray[np.uint8], int]:
        return self.image, self.reduction

    def decode(self) -> object:
        flags = REDUCED_FLAGS[self.reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(self.encoded, np.uint8), flags)


def read_image(views: Views, index: int) -> DecodedImage:
    zoom = float(np.sqrt(abs(np.linalg.det(make_affine(views, index)[:, :2]))))
    image, reduction = views.samples.images.read(views.samples[index].image, zoom)
    return DecodedImage(image_path(views, index).read_bytes(), image, reduction)


def make_affine(views: Views, index: int) -> NDArray[np.float64]:
    sample = views.samples[index]
    parameters = views.parameters(index, 0)
    return affine_23(sample.center_2, sample.side_px, parameters, GEOMETRY.crop_px)


def profile(
    views: Views, dataset: DistillationViews, batches: Sequence[Sequence[Key]], rounds: int
) -> dict[str, float]:
    """Milliseconds per view of each part of our loader's work, each timed on all views."""
    indices = range(len(views))
    images = [read_image(views, index) for index in indices]
    affines = [make_affine(views, index) for index in indices]
    samples = [views.samples[index] for index in indices]
    paths = [image_path(views, index) for index in indices]
    unflipped = [views[index, 0] for index in indices]
    first_items = [dataset[key] for key in batches[0]]
    first_batch = default_collate(first_items)

    def transform_labels(index: int) -> object:
        crop_joints = transform(make_affine(views, index), samples[index].joints_K2)
        return GEOMETRY.to_heatmap(crop_joints)

    parts: dict[str, Callable[[int], object]] = {
        "read file": lambda i: paths[i].read_bytes(),
        "decode JPEG": lambda i: images[i].decode(),
        "warp": lambda i: crop_image(images[i], samples[i], affines[i], GEOMETRY.crop_px),
        "parameters, labels": transform_labels,
        "flip": lambda i: views.flipped(unflipped[i]) if i % 2 else None,
        "read heatmaps": lambda i: dataset.store.read(0, i),
    }
    cases: dict[str, Case] = {
        name: partial(run_for_each, part, len(views)) for name, part in parts.items()
    }
    cases["collate"] = lambda _: len(default_collate(first_items)["index"])
    cases["in process, all"] = partial(load_in_process, dataset, batches)
    for name, work in DEVICE_PARTS.items():
        cases[f"device: {name}"] = partial(run_device_work, work, first_batch, len(first_items))
    rates = medians(measure_rates(cases, rounds, MIN_SECONDS))
    return {name: 1e3 / rate for name, rate in rates.items()}


def run_for_each(work: Callable[[int], object], count: int, _: int) -> int:
    for index in range(count):
        work(index)
    return count


def print_rates(results: Results) -> None:
    """Print each loader's rates, and the ratio of ours to each."""
    columns = ("in process", "by a worker", "with device")
    rows = []
    for name, row in results.items():
        cells = [
            f"{row[column]:,.0f} ({results['fpd'][column] / row[column]:.2f} x)"
            for column in columns
        ]
        device_ms, view_bytes = f"{row['device, ms']:.2f}", format_number(row["bytes per view"])
        rows.append([name, *cells, device_ms, view_bytes])
    head = ["views/s (fpd / this)", *columns, "device, ms per view", "bytes per view"]
    print_table(head, rows)
    for name in ("HRNet", "pytorch-pose"):
        ratio = results["fpd"]["by a worker"] / results[name]["by a worker"]
        verdict = "met" if ratio >= TARGET_RATIO else "missed"
        print(f"target: {TARGET_RATIO} x {name}, by a worker; measured {ratio:.2f} x: {verdict}")


def print_profile(parts: dict[str, float], our_rates: dict[str, float]) -> None:
    """Print the parts of our loader's work, the remainder, and what a worker adds."""
    device = {name: value for name, value in parts.items() if name.startswith("device")}
    loader = {name: value for name, value in parts.items() if name not in device}
    total = loader.pop("in process, all")
    sums = {
        "remainder": total - sum(loader.values()),
        "in process, all": total,
        "handing over": 1e3 / our_rates["by a worker"] - 1e3 / our_rates["in process"],
    }
    rows = (loader | sums | device).items()
    print_table(["fpd", "ms per view"], [[name, f"{value:.3f}"] for name, value in rows])


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("datasets"), help="folder with lsp, lspet and mpii"
    )
    parser.add_argument("--views", type=int, default=128, help="of each kind of photograph")
    parser.add_argument("--batch", type=int, default=32, help="views per batch")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
