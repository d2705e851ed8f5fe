"""Filling a store: throughput relative to the teacher's forward passes alone.

    python benchmarks/store_write.py [--teachers 2x64 8x256] [--views 384 64] [--rounds 3]
        [--threads 1] [--json OUT]

For each teacher: views per second of `fpd cache-heatmaps` (synthetic images read and cropped by a
worker process; heatmaps encoded after each forward pass, compressed and written by a thread), and
of the same network's forward passes alone on the same batches in memory, with as many threads for
PyTorch. The two take turns; `share` is the median of their ratio. A second core is needed for
reading and writing. The time of each kind of work alone follows, per view: only encoding and
measuring its error take place between forward passes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from _common import (
    CPU,
    HEATMAP_PX,
    TimedTeacher,
    hourglass,
    make_parser,
    median_ratio,
    print_results,
    synthetic_recipe,
    write_results,
)
from torch import Tensor

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.caching.encode import encode_batches, encoding_error, make_shard, take_canaries
from fpd.pipeline.caching.fill import fill
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.models.predictor import HeatmapPredictor, make_predictor
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store import Shard, StoreWriter, compress, make_manifest, open_storage
from fpd.pipeline.store.writer import encode_shard

BATCH_SIZE = 8
CROP_PX = 4 * HEATMAP_PX
SHARDS = 4


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)
    results = {
        size: measure_teacher(size, views, arguments.rounds)
        for size, views in zip(arguments.teachers, arguments.views, strict=True)
    }
    print_results("teacher", results)
    write_results(arguments.json, "store_write", results, threads=arguments.threads)


def measure_teacher(size: str, views: int, rounds: int) -> dict[str, float]:
    """One row of the table."""
    recipe = synthetic_recipe(
        samples=views,
        crop_px=CROP_PX,
        store={
            "views": 1,
            "batch_size": BATCH_SIZE,
            "shard_samples": views // SHARDS,  # without padding
            "flip_averaged": False,  # one forward pass per view
        },
        loader={"workers": 1},
    )
    samples = load(recipe.data, "train")
    joints = samples.skeleton.num_joints
    teacher = TimedTeacher(hourglass(size), joints, BATCH_SIZE, HEATMAP_PX).eval()
    teacher.to(memory_format=torch.channels_last)  # as `load_model` does
    predictor = make_predictor(teacher, CPU, None)
    batches = list(loader(recipe, samples))
    bare_rates, fill_rates = [], []
    for _ in range(1 + rounds):
        bare_rates.append(views / seconds(lambda: predict_all(predictor, batches)))
        fill_rates.append(views / fill_seconds(predictor, recipe, samples))
    return {
        "filling, views/s": statistics.median(fill_rates[1:]),
        "bare, views/s": statistics.median(bare_rates[1:]),
        "share, %": 100 * median_ratio(fill_rates[1:], bare_rates[1:]),
    } | measure_parts(predictor, recipe, samples, batches)


def loader(recipe: Recipe, samples: SampleSet) -> Any:
    keys = [(index, 0) for index in range(len(samples))]
    return make_loader(
        stored_views(recipe, samples),
        in_batches(keys, BATCH_SIZE),
        CPU,
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    )


def fill_seconds(predictor: HeatmapPredictor, recipe: Recipe, samples: SampleSet) -> float:
    """Without creating the empty store, which takes the same time for any number of views."""
    with tempfile.TemporaryDirectory() as folder:
        writer = make_writer(Path(folder), recipe, samples)
        tasks = writer.layout.tasks()
        return seconds(lambda: fill(writer, tasks, predictor, recipe, samples, CPU))


def make_writer(folder: Path, recipe: Recipe, samples: SampleSet) -> StoreWriter:
    manifest = make_manifest(recipe, samples, "0" * 64)
    return StoreWriter(open_storage(folder / "heatmaps.zarr"), manifest, 1, folder)


def predict_all(predictor: HeatmapPredictor, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    with torch.inference_mode():
        return [predictor(batch["crop"]) for batch in batches]


def measure_parts(
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    batches: list[dict[str, Tensor]],
) -> dict[str, float]:
    """Milliseconds per view of each kind of work, and bytes per view of the heatmaps."""
    max_error = recipe.store.max_error
    heatmaps = predict_all(predictor, batches)
    encoded = [compress(maps, max_error) for maps in heatmaps]
    shard = first_shard(predictor, batches, recipe)
    views, shard_views = len(samples), len(shard.peaks_SK)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        writer = make_writer(Path(folder), recipe, samples)

        def compress_shard() -> bytes:
            return encode_shard("heatmaps", shard.heatmaps_SKYXC, writer.layout)

        work: dict[str, tuple[Callable[[], object], int]] = {
            "forward": (lambda: predict_all(predictor, batches), views),
            "reading": (lambda: list(loader(recipe, samples)), views),
            "encoding": (lambda: [compress(maps, max_error) for maps in heatmaps], views),
            "its error": (lambda: list(map(encoding_error, heatmaps, encoded)), views),
            "zstd": (compress_shard, shard_views),
            "writing": (lambda: writer.write(shard), shard_views),
        }
        milliseconds = {
            f"{name}, ms": 1e3 * seconds(run) / count for name, (run, count) in work.items()
        }
        heatmap_bytes = len(compress_shard())
    milliseconds["writing, ms"] -= milliseconds["zstd, ms"]  # which it includes
    return milliseconds | {"bytes per view": heatmap_bytes / shard_views}


def first_shard(
    predictor: HeatmapPredictor, batches: list[dict[str, Tensor]], recipe: Recipe
) -> Shard:
    rows = recipe.store.shard_samples
    parts = list(encode_batches(predictor, batches[: rows // BATCH_SIZE], recipe.store.max_error))
    canaries = [
        canary
        for number, part in enumerate(parts)
        for canary in take_canaries(part, number * BATCH_SIZE, rows)
    ]
    return make_shard(0, 0, parts, canaries)


def seconds(work: Callable[[], object]) -> float:
    return timeit.timeit(work, number=1)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--teachers", nargs="+", default=["2x64", "8x256"], help="sizes, stages x channels"
    )
    parser.add_argument(
        "--views",
        nargs="+",
        type=int,
        default=[384, 64],
        help=f"to cache for each teacher; multiples of {SHARDS * BATCH_SIZE}",
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    arguments = parser.parse_args()
    if len(arguments.views) != len(arguments.teachers):
        parser.error("expected as many --views as --teachers")
    if any(views % (SHARDS * BATCH_SIZE) for views in arguments.views):
        parser.error(f"expected --views to be multiples of {SHARDS * BATCH_SIZE}")
    return arguments


if __name__ == "__main__":
    main()
