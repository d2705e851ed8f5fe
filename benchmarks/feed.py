"""Data loading for a student: our loader against other projects' loaders on the same views.

    python benchmarks/feed.py [--data datasets] [--kinds LSP LSPET MPII] [--views 128]
                              [--stored-views 8] [--batch 32] [--rounds 7] [--json OUT]

    fpd, portable     crops and the teacher's heatmaps from a portable store
    fpd               the same with crops cut from photographs; JPEGs decoded at reduced scale where
                      the crop allows it; what follows is left to the training device
    HRNet             full decoding, warp, float32 normalization, targets drawn with NumPy; no
                      teacher. The paper's authors use this loader too (`_loaders.py`)
    HRNet, heatmaps   the same, with the teacher's heatmaps as raw float16 from a memory-mapped file
    pytorch-pose      float images from the start, NumPy and Pillow

    WebDataset, MosaicML Streaming, FFCV
                      the portable store's crops and heatmaps in these libraries' formats, each
                      where it is installed (`_formats.py`)

256 x 256 crops, 64 x 64 heatmaps, 14 joints, half of the views flipped. All loaders make the same
crops, which is checked first. Photographs of three kinds, all in the page cache: LSP (cropped
around the person), LSPET, and MPII, whose first images are used again and again under other
augmentations. Without these data sets, synthetic images are written as JPEGs. An epoch takes each
photograph once, and all stored views in random order from a store.

Everything runs on one core. `in process` is the work alone; `by a worker` is done by a worker
process on that same core and handed over through shared memory, as in training. `device` is what is
left to the training device, timed on that same core, which is where it runs on a machine without a
GPU; `with device` includes it. Views per second are medians of rounds in which the rows take turns.
Further tables have the milliseconds per view of each part of our two loaders' work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from _feed_parts import GEOMETRY, Part, image_path, photograph_parts, portable_parts, read_image
from _formats import FORMATS, Shape, StoredView
from _loaders import HRNetViews, HRNetViewsWithHeatmaps, Key, PytorchPoseViews
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from fpd.data.datasets import load
from fpd.data.heatmap_codec import encode, flip_heatmaps
from fpd.data.io.images import ImageFolder
from fpd.data.io.jpeg import encode_jpeg
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import SampleSet
from fpd.data.sections import Augmentation, Data
from fpd.data.skeletons import LSP
from fpd.data.views import Views
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store import Shard, StoreReader, StoreWriter, decompress, open_storage
from fpd.pipeline.store.splits import StoredViews
from fpd.pipeline.store.writer import LabeledCrops
from fpd.pipeline.training.dataset import DistillationViews

KINDS = ("LSP", "LSPET", "MPII")
SHARD_SAMPLES = 128
MIN_SECONDS = 0.1  # of a part of the work, per round
CROP_QUALITY = 90  # of JPEGs
PREFETCH_BATCHES = 4
TARGET_RATIO = 3  # of our rate to those of the other loaders
PORTABLE_RATIOS = {"LSP": 4, "MPII": 8}  # of the portable store's to HRNet's
MAX_PIXEL_DIFFERENCE = 16  # of the same JPEG, by libjpeg-turbo's accurate and fast transforms
MIN_CORRELATION = 0.8  # of crops that show the same content with other colors and interpolation
MPII_BOX_PX = 1.25 * 200  # a box's side is `scale` times this (HRNet)
MPII_SHIFT_PX = 15  # and its center is moved down by `scale` times this (HRNet)
MPII_TO_LSP = (0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 8, 9)


class LoaderCase(NamedTuple):
    """A loader of views.

    Attributes:
        in_process: an epoch of batches in each iteration, made by this process.
        by_worker: the same, made by another process.
        dataset: where the loader is PyTorch's, what it loads from.
        device_work: the work on a batch that is left to the device.
    """

    in_process: Iterable[Any]
    by_worker: Iterable[Any]
    dataset: Any = None
    device_work: Callable[[Any], object] | None = None


@dataclass(frozen=True)
class CollatedBatches:
    """The batches of a map-style data set, made by this process."""

    dataset: Any
    batches: Sequence[Sequence[Key]]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield collate(self.dataset, batch)


def torch_case(
    dataset: Any,
    batches: Sequence[Sequence[Key]],
    device_work: Callable[[Any], object] | None = None,
    *,
    reuse_memory: bool = False,
) -> LoaderCase:
    """A map-style data set behind PyTorch's loader."""
    by_worker = make_loader(
        dataset, batches, CPU, workers=1, prefetch=PREFETCH_BATCHES, reuse_memory=reuse_memory
    )
    return LoaderCase(CollatedBatches(dataset, batches), by_worker, dataset, device_work)


def main() -> None:
    arguments = parse_arguments()
    use_one_core()
    rates, profiles, descriptions = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        sample_sets = load_photographs(
            arguments.data, Path(folder), arguments.views, arguments.kinds
        )
        for kind, samples in sample_sets.items():
            views = Views(samples, GEOMETRY, Augmentation(flip=False), seed=0)
            subfolder = Path(folder) / kind
            subfolder.mkdir()
            cases = photograph_cases(subfolder, views, arguments.batch)
            check_same_crops(cases)
            stored = store_cases(subfolder, views, arguments.stored_views, arguments.batch)
            check_same_batches(stored, len(views))
            cases = stored | cases
            descriptions[kind] = describe(views)
            print(f"\n{kind}: {descriptions[kind]}")
            rates[kind] = measure_loaders(cases, arguments.rounds)
            parts = {
                "fpd": photograph_parts(views, cases["fpd"].dataset),
                "fpd, portable": portable_parts(cases["fpd, portable"].dataset),
            }
            profiles[kind] = {
                name: profile(cases[name], parts[name], arguments.rounds) for name in parts
            }
            print_rates(rates[kind], kind)
            for name, times in profiles[kind].items():
                print_profile(name, times, rates[kind][name])
    write_results(
        arguments.json,
        "feed",
        {"loaders": rates, "profile": profiles, "photographs": descriptions},
        views=arguments.views,
        stored_views=arguments.stored_views,
        batch_size=arguments.batch,
    )


def load_photographs(
    root: Path, folder: Path, count: int, kinds: Sequence[str] = KINDS
) -> dict[str, SampleSet]:
    """Sample sets of `count` samples, by the kind of their photographs."""
    if not (root / "lspet" / "joints.mat").is_file():
        print(f"no data sets at {root} (--data): using synthetic images")
        return {"synthetic": write_synthetic(folder, count)}
    return {kind: load_kind(kind, root, count) for kind in kinds}


def load_kind(kind: str, root: Path, count: int) -> SampleSet:
    if kind == "MPII":
        return load_mpii(root, count)
    reader: Literal["lsp", "lspet"] = "lsp" if kind == "LSP" else "lspet"
    samples = load(Data(reader=reader, root=root, validation=0), "train")
    return samples.take(np.linspace(0, len(samples) - 1, count).astype(int))


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


def photograph_cases(folder: Path, views: Views, batch_size: int) -> dict[str, LoaderCase]:
    """The loaders of view 0, after writing the teacher's heatmaps where they read them."""
    writer, heatmaps = write_teacher_heatmaps(folder, views)
    ours = DistillationViews(views, StoreReader(writer.storage, writer.layout))
    with_heatmaps = HRNetViewsWithHeatmaps(views, heatmaps)
    batches = in_batches([(i, 0, i % 2 == 1) for i in range(len(views))], batch_size)
    return {
        "fpd": torch_case(ours, batches, work_on_device, reuse_memory=True),
        "HRNet": torch_case(HRNetViews(views), batches),
        "HRNet, heatmaps": torch_case(with_heatmaps, batches, lambda batch: batch[-1].float()),
        "pytorch-pose": torch_case(PytorchPoseViews(views), batches),
    }


def store_cases(
    folder: Path, views: Views, stored_views: int, batch_size: int
) -> dict[str, LoaderCase]:
    """The loaders of stored crops: ours, and those of the libraries that are installed."""
    stored, writer = write_portable_store(folder / "portable.zarr", views, stored_views)
    reader = StoreReader(writer.storage, writer.layout)
    ours = DistillationViews(StoredViews(views, reader), reader)
    order = np.random.default_rng(0).permutation(len(stored)).tolist()
    keys = [(i % len(views), i // len(views), i % 2 == 1) for i in order]
    cases = {
        "fpd, portable": torch_case(
            ours, in_batches(keys, batch_size), work_on_device, reuse_memory=True
        )
    }
    shape = Shape(
        GEOMETRY.crop_px,
        GEOMETRY.heatmap_px,
        stored[0].coefficients.shape,
        views.samples.skeleton.flip_indices,
    )
    for name, library in FORMATS.items():
        if not library.is_installed:
            print(f"{name}: left out, as {library.module} is not installed")
            continue
        subfolder = folder / name
        subfolder.mkdir()
        library.write(subfolder, stored, shape)
        in_process, by_worker = (
            library.read(subfolder, shape, batch_size, workers) for workers in (0, 1)
        )
        cases[name] = LoaderCase(in_process, by_worker, device_work=work_on_device)
    return cases


def write_portable_store(
    location: Path, views: Views, stored_views: int
) -> tuple[list[StoredView], StoreWriter]:
    """A portable store of these samples; its views one after the other, and its writer."""
    manifest = feed_manifest(views)
    manifest |= {"crops": {"format": "jpeg", "quality": CROP_QUALITY, "splits": []}, "splits": {}}
    manifest["geometry"]["crop_px"] = GEOMETRY.crop_px
    writer = StoreWriter(open_storage(location), manifest, stored_views, location.parent)
    factory = ShardFactory(pool_views=128)
    stored: list[StoredView] = []
    for view, number in writer.layout.tasks():
        rows = writer.layout.rows(number)
        shard = make_shard(factory, views, view, number, rows)
        cut = [views[index, view] for index in rows]
        jpegs = [encode_jpeg(item["crop"], CROP_QUALITY) for item in cut]
        joints = np.array([item["joints"] for item in cut])
        writer.write(replace(shard, labeled_crops=LabeledCrops(jpegs, joints)))
        stored += [
            StoredView(item["crop"], jpeg, *maps, item["joints"])
            for item, jpeg, *maps in zip(
                cut, jpegs, shard.heatmaps_SKYXC, shard.steps_SK, shard.peaks_SK, strict=True
            )
        ]
    writer.finish()
    return stored, writer


def feed_manifest(views: Views) -> dict[str, Any]:
    """The least that a store of these samples needs."""
    manifest = minimal_manifest(len(views), SHARD_SAMPLES)
    return manifest | {"joints": list(views.samples.skeleton.joints)}


def make_shard(
    factory: ShardFactory, views: Views, view: int, number: int, rows: Sequence[int]
) -> Shard:
    """A shard with the parameters of these views, and as many joints."""
    joints = views.samples.skeleton.num_joints
    shard = factory.make(view, number, rows)
    return replace(
        shard,
        heatmaps_SKYXC=shard.heatmaps_SKYXC[:, :joints],
        steps_SK=shard.steps_SK[:, :joints],
        peaks_SK=shard.peaks_SK[:, :joints],
        parameters_SP=np.array([views.parameters(index, view) for index in rows]),
    )


def write_teacher_heatmaps(folder: Path, views: Views) -> tuple[StoreWriter, NDArray[np.float16]]:
    """The same teacher-like heatmaps in a store, and as float16 (samples, K, H, W) in a file."""
    samples, joints = views.samples, views.samples.skeleton.num_joints
    writer = StoreWriter(open_storage(folder / "heatmaps.zarr"), feed_manifest(views), 1, folder)
    factory = ShardFactory(pool_views=128)
    shape = (len(samples), joints, GEOMETRY.heatmap_px, GEOMETRY.heatmap_px)
    heatmaps = np.memmap(folder / "heatmaps.f16", np.float16, "w+", shape=shape)
    for _, number in writer.layout.tasks():
        rows = writer.layout.rows(number)
        shard = make_shard(factory, views, 0, number, rows)
        writer.write(shard)
        coefficients, steps = map(torch.from_numpy, (shard.heatmaps_SKYXC, shard.steps_SK))
        decoded = decompress(coefficients, steps, GEOMETRY.heatmap_px)
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


def check_same_batches(cases: dict[str, LoaderCase], samples: int) -> None:
    """Check that the loaders of stored views return what ours does.

    Raises:
        RuntimeError: they do not, so their rates cannot be compared.
    """
    ours = cases["fpd, portable"].dataset
    for name, case in cases.items():
        if case.dataset is not None:
            continue
        batch = first_batch(case.in_process)
        for row, index in enumerate(batch["index"].tolist()):
            expected = ours[index % samples, index // samples, index % 2 == 1]
            for key in (batch.keys() & expected.keys()) - {"index"}:
                found, wanted = batch[key][row].numpy(), np.asarray(expected[key])
                difference = np.nanmax(abs(found.astype(float) - wanted.astype(float)))
                if difference > (MAX_PIXEL_DIFFERENCE if key == "crop" else 0):
                    raise RuntimeError(
                        f"{name}, view {index}: expected the same {key} as ours, got one that "
                        f"differs by {difference:.3g}"
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


def measure_loaders(cases: dict[str, LoaderCase], rounds: int) -> Results:
    """Views per second, milliseconds per view left to the device, and bytes per view."""
    first_batches = {name: first_batch(case.in_process) for name, case in cases.items()}
    loading: dict[str, Case] = {}
    for name, case in cases.items():
        loading[name] = partial(load_epoch, case.in_process)
        loading[f"{name}, by a worker"] = partial(load_epoch, case.by_worker)
    device: dict[str, Case] = {
        name: partial(run_device_work, case.device_work, first_batches[name])
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
            "bytes per view": tensor_bytes(first_batches[name]) / batch_views(first_batches[name]),
        }
    return results


def first_batch(batches: Iterable[Any]) -> Any:
    """A copy of the first batch: a loader may use its memory again."""
    return next(deepcopy(batch) for batch in batches)


def batch_views(batch: Any) -> int:
    return len(batch["index"] if isinstance(batch, dict) else batch[0])


def collate(dataset: Any, batch: Sequence[Key]) -> Any:
    return default_collate([dataset[key] for key in batch])


def load_epoch(batches: Iterable[Any], _: int) -> int:
    return sum(batch_views(batch) for batch in batches)


def run_device_work(work: Callable[[Any], object], batch: Any, _: int) -> int:
    with torch.inference_mode():
        work(batch)
    return batch_views(batch)


def tensor_bytes(batch: Any) -> int:
    """Bytes of all tensors in a batch, which a worker hands over and the device receives."""
    if isinstance(batch, Tensor):
        return batch.nbytes
    if isinstance(batch, dict):
        return sum(map(tensor_bytes, batch.values()))
    return sum(map(tensor_bytes, batch)) if isinstance(batch, list | tuple) else 0


def profile(case: LoaderCase, parts: dict[str, Part], rounds: int) -> dict[str, float]:
    """Milliseconds per view of each part of our loader's work, each timed on all samples."""
    assert isinstance(case.in_process, CollatedBatches)
    first_items = [case.dataset[key] for key in case.in_process.batches[0]]
    batch = default_collate(first_items)
    cases: dict[str, Case] = {
        name: partial(run_for_each, part, len(case.dataset.views)) for name, part in parts.items()
    }
    cases["collate"] = lambda _: len(default_collate(first_items)["index"])
    cases["in process, all"] = partial(load_epoch, case.in_process)
    for name, work in DEVICE_PARTS.items():
        cases[f"device: {name}"] = partial(run_device_work, work, batch)
    rates = medians(measure_rates(cases, rounds, MIN_SECONDS))
    return {name: 1e3 / rate for name, rate in rates.items()}


def run_for_each(work: Callable[[int], object], count: int, _: int) -> int:
    for index in range(count):
        work(index)
    return count


def print_rates(results: Results, kind: str) -> None:
    """Print each loader's rates, and the ratio of ours to each."""
    columns = ("in process", "by a worker", "with device")
    rows = []
    for name, row in results.items():
        cells = [
            f"{row[column]:,.0f} ({results['fpd, portable'][column] / row[column]:.2f} x)"
            for column in columns
        ]
        device_ms, view_bytes = f"{row['device, ms']:.2f}", format_number(row["bytes per view"])
        rows.append([name, *cells, device_ms, view_bytes])
    head = ["views/s (portable / this)", *columns, "device, ms per view", "bytes per view"]
    print_table(head, rows)
    targets = [("fpd", name, TARGET_RATIO) for name in ("HRNet", "pytorch-pose")]
    if kind in PORTABLE_RATIOS:
        targets.append(("fpd, portable", "HRNet", PORTABLE_RATIOS[kind]))
    targets += [("fpd, portable", name, 1) for name in FORMATS if name in results]
    for ours, theirs, target in targets:
        ratio = results[ours]["by a worker"] / results[theirs]["by a worker"]
        verdict = "met" if ratio >= target else "missed"
        print(f"target: {ours}, {target} x {theirs}; by a worker, {ratio:.2f} x: {verdict}")


def print_profile(loader_name: str, parts: dict[str, float], our_rates: dict[str, float]) -> None:
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
    print_table([loader_name, "ms per view"], [[name, f"{value:.3f}"] for name, value in rows])


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("datasets"), help="folder with lsp, lspet and mpii"
    )
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="of photographs")
    parser.add_argument("--views", type=int, default=128, help="of each kind of photograph")
    parser.add_argument("--stored-views", type=int, default=8, help="of each of them in a store")
    parser.add_argument("--batch", type=int, default=32, help="views per batch")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
