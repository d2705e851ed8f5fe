"""Filling a store: throughput relative to the teacher's forward passes alone.

    python benchmarks/store_write.py [--teachers 2x64 8x256] [--views 384 64] [--rounds 3]
        [--batch 8] [--workers 1] [--device cpu|cuda] [--threads 1] [--json OUT]

For each teacher: views per second of `fpd cache-heatmaps` (synthetic images read and cropped by
worker processes; heatmaps encoded after each forward pass, compressed and written by a thread), and
of the same network's forward passes alone on the same batches in memory, with as many threads for
PyTorch. The two take turns; `share` is the median of their ratio, and `steady` that of the rate
between the end of the first shard and that of the last, without what only a run's start and end
take: starting processes, and writing a shard while the teacher has nothing left to do. On a CPU, a
second core is needed for reading and writing.

The time of each kind of work alone follows, per view: only encoding and measuring its error take
place between forward passes, on the teacher's device.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from _common import (
    HEATMAP_PX,
    NetworkTeacher,
    TimedTeacher,
    hourglass,
    make_parser,
    median_ratio,
    print_results,
    synchronize,
    synthetic_recipe,
    write_results,
)
from torch import Tensor

from fpd.data.datasets import load
from fpd.pipeline.caching.encode import encode_batches, encoding_error, make_shard, take_canaries
from fpd.pipeline.caching.fill import fill
from fpd.pipeline.caching.inputs import StoreInputs
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store import Shard, StoreWriter, compress, make_manifest, open_storage
from fpd.pipeline.store.writer import encode_shard

CROP_PX = 4 * HEATMAP_PX
SHARDS = 8


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)
    results = {
        size: measure_teacher(size, views, arguments)
        for size, views in zip(arguments.teachers, arguments.views, strict=True)
    }
    print_results("teacher", results)
    settings = {key: value for key, value in vars(arguments).items() if key != "json"}
    write_results(arguments.json, "store_write", results, **settings)


def measure_teacher(size: str, views: int, arguments: argparse.Namespace) -> dict[str, float]:
    """One row of the table."""
    batch_size, device = arguments.batch, torch.device(arguments.device)
    recipe = synthetic_recipe(
        samples=views,
        crop_px=CROP_PX,
        store={
            "views": 1,
            "batch_size": batch_size,
            "shard_samples": views // SHARDS,  # without padding
            "flip_averaged": False,  # one forward pass per view
        },
        loader={"workers": arguments.workers},
    )
    samples = load(recipe.data, "train")
    joints = samples.skeleton.num_joints
    teacher = TimedTeacher(hourglass(size), joints, batch_size, HEATMAP_PX).eval()
    filling = Filling(NetworkTeacher(teacher), recipe, samples, device)
    batches = list(filling.loader())
    bare_rates, fill_rates, steady_rates = [], [], []
    for _ in range(1 + arguments.rounds):
        bare_rates.append(views / filling.seconds(lambda: filling.predict_all(batches)))
        whole, steady = filling.fill_rates()
        fill_rates.append(whole)
        steady_rates.append(steady)
    return {
        "filling, views/s": statistics.median(fill_rates[1:]),
        "bare, views/s": statistics.median(bare_rates[1:]),
        "share, %": 100 * median_ratio(fill_rates[1:], bare_rates[1:]),
        "steady, %": 100 * median_ratio(steady_rates[1:], bare_rates[1:]),
    } | filling.measure_parts(batches)


class Filling(StoreInputs):
    """A store to fill, one view of each sample."""

    def seconds(self, work: Callable[[], object]) -> float:
        """The time of some work, until the device has finished."""

        def finished() -> None:
            work()
            synchronize(self.device)

        return timeit.timeit(finished, number=1)

    def loader(self) -> Any:
        keys = [(index, 0) for index in range(len(self.samples))]
        return make_loader(
            self.views,
            in_batches(keys, self.recipe.store.batch_size),
            self.device,
            workers=self.recipe.loader.workers,
            prefetch=self.recipe.loader.prefetch,
        )

    def fill_rates(self) -> tuple[float, float]:
        """Views per second of a whole run, and from the first shard's end to the last one's.

        Without creating the empty store, which takes the same time for any number of views.
        """
        ends: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            writer = self.make_writer(Path(folder))
            tasks, write = writer.layout.tasks(), writer.write

            def write_and_note(content: Shard) -> None:
                write(content)
                ends.append(time.perf_counter())

            writer.write = write_and_note  # type: ignore[method-assign]
            seconds = self.seconds(lambda: fill(writer, tasks, self))
        views = len(self.samples)
        return views / seconds, views * (SHARDS - 1) / SHARDS / (ends[-1] - ends[0])

    def make_writer(self, folder: Path) -> StoreWriter:
        manifest = make_manifest(self.recipe, self.samples, self.teacher.entry)
        return StoreWriter(open_storage(folder / "heatmaps.zarr"), manifest, 1, folder)

    def predict_all(self, batches: list[dict[str, Tensor]]) -> list[Tensor]:
        with torch.inference_mode():
            return [self.predictor(batch["crop"]) for batch in batches]

    def measure_parts(self, batches: list[dict[str, Tensor]]) -> dict[str, float]:
        """Milliseconds per view of each kind of work, and bytes per view of the heatmaps."""
        max_error = self.recipe.store.max_error
        heatmaps = self.predict_all(batches)
        encoded = [compress(maps, max_error) for maps in heatmaps]
        shard = self.first_shard(batches)
        views, shard_views = len(self.samples), len(shard.peaks_SK)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            writer = self.make_writer(Path(folder))

            def compress_shard() -> bytes:
                return encode_shard("heatmaps", shard.heatmaps_SKYXC, writer.layout)

            work: dict[str, tuple[Callable[[], object], int]] = {
                "forward": (lambda: self.predict_all(batches), views),
                "reading": (lambda: list(self.loader()), views),
                "encoding": (lambda: [compress(maps, max_error) for maps in heatmaps], views),
                "its error": (lambda: list(map(encoding_error, heatmaps, encoded)), views),
                "zstd": (compress_shard, shard_views),
                "writing": (lambda: writer.write(shard), shard_views),
            }
            milliseconds = {
                f"{name}, ms": 1e3 * self.seconds(run) / count
                for name, (run, count) in work.items()
            }
            heatmap_bytes = len(compress_shard())
        milliseconds["writing, ms"] -= milliseconds["zstd, ms"]  # which it includes
        return milliseconds | {"bytes per view": heatmap_bytes / shard_views}

    def first_shard(self, batches: list[dict[str, Tensor]]) -> Shard:
        rows, batch_size = self.recipe.store.shard_samples, self.recipe.store.batch_size
        first = batches[: rows // batch_size]
        parts = list(encode_batches(self.predictor, first, self.recipe.store.max_error))
        canaries = [
            canary
            for number, part in enumerate(parts)
            for canary in take_canaries(part, number * batch_size, rows)
        ]
        return make_shard(0, 0, parts, canaries)


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
        help=f"to cache for each teacher; multiples of {SHARDS} batches",
    )
    parser.add_argument("--batch", type=int, default=8, help="views in a forward pass")
    parser.add_argument("--workers", type=int, default=1, help="processes that read")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="the teacher's")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads")
    arguments = parser.parse_args()
    if len(arguments.views) != len(arguments.teachers):
        parser.error("expected as many --views as --teachers")
    multiple = SHARDS * arguments.batch
    if any(views % multiple for views in arguments.views):
        parser.error(f"expected --views to be multiples of {multiple}")
    return arguments


if __name__ == "__main__":
    main()
