"""Share of a training run's time that is spent waiting for data, and what the loader can deliver.

    python benchmarks/waiting.py [--data FOLDER] [--reader lsp] [--student 4x128] [--crop 256]
        [--batch 32] [--epochs 4] [--device cpu|cuda] [--workers 8 16] [--sources N ...]
        [--json OUT]

A student is trained in three ways, by the project's own stages with the default number of loader
processes: on labels from photographs; distilled, with the heatmaps of an untrained teacher in a
store and crops cut from photographs; and from a portable store (--sources 0, 1 and 2). `waiting` is
the share of time between steps in which no batch was ready, `epoch` the mean time of an epoch; both
without the first epoch, in which the loader's processes start.

`loader, N` is what the loader alone delivers with N processes, in views per second: batches are
moved to the device, and no network is run. Without `--data`, photographs are synthetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from _common import hourglass, make_parser, print_results, synchronize, write_results

from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe, apply_overrides, stored_views
from fpd.pipeline.runtime.device import loader_workers
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store.match import open_store, views_of
from fpd.pipeline.training.dataset import DistillationViews, LabeledViews
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student, teacher

LOADER_SECONDS = 1.0
"""Least time for which a loader alone is measured."""

SOURCES = ("photographs, labels", "photographs, heatmaps", "portable store")


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        work = WorkDir(Path(folder) / "work")
        recipe = make_recipe(arguments)
        work.keep(recipe)
        teacher.run(work, recipe, device)
        settings = {
            key: value
            for key, value in vars(arguments).items()
            if key not in ("json", "data", "sources")
        }
        results = {}
        for source in (SOURCES[number] for number in arguments.sources):
            results[source] = measure(source, work, recipe, arguments)
            write_results(arguments.json, "waiting", results, **settings)
    print_results("source", results)


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    data: dict[str, Any] = {"reader": "synthetic", "synthetic": {"train": 256, "test": 8}}
    if arguments.data is not None:
        data = {"reader": arguments.reader, "root": str(arguments.data)}
    networks = {
        "teacher": {"model": {"stages": 1, "channels": 16}, "epochs": 1, "batch_size": 32},
        "student": {
            "model": hourglass(arguments.student).model_dump(),
            "epochs": arguments.epochs,
            "batch_size": arguments.batch,
        },
    }
    tree = {
        "data": data | {"validation": 0.02},
        "geometry": {"crop_px": arguments.crop},
        "monitor": {"contact_sheet_every": 0},
        **networks,
    }
    return apply_overrides(tree, ["store.views=2"])


def measure(
    source: str, work: WorkDir, recipe: Recipe, arguments: argparse.Namespace
) -> dict[str, float]:
    """One row of the table."""
    device = torch.device(arguments.device)
    name = SOURCES.index(source)
    overrides = [f"store.location={json.dumps(str(work.root / f'{name}.zarr'))}"]
    overrides += ["store.portable=true"] if source == "portable store" else []
    overrides += ["student.alpha=0.0"] if source == "photographs, labels" else []
    recipe = apply_overrides(recipe.model_dump(mode="json"), overrides)
    if recipe.student.alpha:
        heatmaps.run(work, recipe, device)
    student.run(work, recipe, device, name=f"student-{name}")
    metrics = work.student(f"student-{name}").metrics.read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in metrics][1:]
    return {
        "views/s": statistics.median(row["images_per_s"] for row in rows),
        "waiting, %": 100 * statistics.median(row["data_wait_fraction"] for row in rows),
        "epoch, s": statistics.median(row["seconds"] for row in rows),
        "processes": loader_workers(None, device),
    } | {
        f"loader, {workers}": loader_rate(work, recipe, workers, device)
        for workers in arguments.workers
    }


def loader_rate(work: WorkDir, recipe: Recipe, workers: int, device: torch.device) -> float:
    """Views per second that arrive on the device."""
    samples = load(recipe.data, "train")
    dataset: Any = LabeledViews(stored_views(recipe, samples))
    if recipe.student.alpha:
        store, _ = open_store(work, recipe, samples, teacher=None)
        dataset = DistillationViews(views_of(recipe, samples, store), store)
    keys = [(index, view) for view in range(recipe.store.views) for index in range(len(samples))]
    batches = in_batches(keys, recipe.student.batch_size)
    loader = make_loader(
        dataset,
        batches,
        device,
        workers=workers,
        prefetch=recipe.loader.prefetch,
        reuse_memory=True,
    )
    take_all(loader, device)  # starts the processes
    views, start = 0, time.perf_counter()
    while time.perf_counter() - start < LOADER_SECONDS:
        views += take_all(loader, device)
    return views / (time.perf_counter() - start)


def take_all(loader: Any, device: torch.device) -> int:
    """Move all batches to the device; returns the number of views."""
    views = 0
    for batch in loader:
        views += len(move(batch, device)["crop"])
    synchronize(device)
    return views


def move(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    return {key: values.to(device, non_blocking=True) for key, values in batch.items()}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder that contains the data set")
    parser.add_argument("--reader", default="lsp", help="of the data set")
    parser.add_argument("--student", default="4x128", help="stages x channels")
    parser.add_argument("--crop", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--batch", type=int, default=32, help="views per step")
    parser.add_argument("--epochs", type=int, default=4, help="of each student, 2 or more")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="device")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[8, 16], help="loader processes to measure"
    )
    numbers = range(len(SOURCES))
    parser.add_argument(
        "--sources", type=int, nargs="+", default=numbers, choices=numbers, help="to measure"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
