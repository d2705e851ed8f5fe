"""Filling a store beside the bare teacher: what reading, encoding and writing cost on top.

    python benchmarks/store_write.py [--rounds 3] [--threads 1] [--json OUT]

Per teacher: views a second of `fpd cache-heatmaps` (drawn figures read and cut by a worker process,
asked about, encoded, compressed and written by a thread), and of the same network's forward passes
alone, on the same batches, already in memory, with as many threads for PyTorch. They take turns;
`share` is the median of the first as a part of the second. It takes a second core: what is read and
written beside the teacher needs one. The time of each kind of work on its own is printed too, a
view: only `encoding` and `its error` are done where the teacher runs, between its passes. The
networks are not trained, so their answers are replaced with heatmaps like a trained teacher's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from _common import heatmaps_like_a_teachers, number, options, print_table, write_json
from torch import Tensor, nn

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.caching.encode import answers, cost, make_shard, take_canaries
from fpd.pipeline.caching.fill import fill
from fpd.pipeline.config.recipe import Recipe, apply_overrides, stored_views
from fpd.pipeline.models.hourglass import HourglassSettings
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.runtime.loader import make_loader
from fpd.pipeline.store import StoreWriter, compress, files_at, make_manifest
from fpd.pipeline.store.writer import encode_shard

CPU = torch.device("cpu")
BATCH = 8

# Stages, channels, views: fewer of a slow one.
TEACHERS = ((2, 64, 384), (8, 256, 64))


class Teacher(nn.Module):
    """A network of which the time counts, and not the answer."""

    def __init__(self, model: HourglassSettings, joints: int) -> None:
        super().__init__()
        self.network = model.build(joints)
        self.answer_BKHW = heatmaps_like_a_teachers(BATCH)[:, :joints]

    def forward(self, inputs: Tensor) -> list[Tensor]:
        self.network(inputs)
        return [self.answer_BKHW[: len(inputs)]]


def main() -> None:
    arguments = options(__doc__, rounds=3, threads=1)
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(0)
    results = {
        f"{stages} x {channels}": measure(stages, channels, views, arguments.rounds)
        for stages, channels, views in TEACHERS
    }
    columns = list(next(iter(results.values())))
    print_table(
        ["teacher", *columns],
        [[name, *(number(row[column]) for column in columns)] for name, row in results.items()],
    )
    write_json(arguments.json, "store_write", results, threads=arguments.threads)


def measure(stages: int, channels: int, views: int, rounds: int) -> dict[str, float]:
    """One teacher's figures."""
    recipe = recipe_for(views)
    samples = load(recipe.data, "train")
    network = Teacher(
        HourglassSettings(stages=stages, channels=channels), samples.skeleton.num_joints
    ).eval()
    network.to(memory_format=torch.channels_last)  # as `load_model` places it
    batches = list(loader(recipe, samples))
    filled: list[float] = []
    bare: list[float] = []
    for _ in range(rounds + 1):
        bare.append(views / seconds(lambda: ask_all(network, batches)))
        filled.append(views / fill_seconds(network, recipe, samples))
    rates = {
        "cached, views/s": statistics.median(filled[1:]),
        "bare, views/s": statistics.median(bare[1:]),
        "share, %": 100
        * statistics.median(a / b for a, b in zip(filled[1:], bare[1:], strict=True)),
    }
    return rates | costs(network, recipe, samples, batches)


def recipe_for(views: int) -> Recipe:
    """Drawn figures at 256 px, as many as there are views to be cached."""
    return apply_overrides(
        {
            "data": {
                "reader": "synthetic",
                "validation": 0.0,
                "synthetic": {"train": views, "test": 1},
            },
            "geometry": {"crop_px": 256},
            "store": {"views": 1, "batch": BATCH, "shard_samples": views // 4},  # no padding
            "loader": {"workers": 1},
        },
        [],
    )


def loader(recipe: Recipe, samples: SampleSet) -> Any:
    keys = [(index, 0) for index in range(len(samples))]
    batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    return make_loader(
        stored_views(recipe, samples),
        batches,
        CPU,
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    )


def fill_seconds(network: nn.Module, recipe: Recipe, samples: SampleSet) -> float:
    """Without making the store, which happens once however many views there are."""
    with tempfile.TemporaryDirectory() as folder:
        writer = new_writer(Path(folder), recipe, samples)
        tasks = writer.layout.tasks()
        mirror = samples.skeleton.flip_indices if recipe.flip_averaged else None
        predictor = make_predictor(network, CPU, mirror)
        return seconds(lambda: fill(writer, tasks, predictor, recipe, samples, CPU))


def new_writer(folder: Path, recipe: Recipe, samples: SampleSet) -> StoreWriter:
    manifest = make_manifest(recipe, samples, "0" * 64)
    return StoreWriter(files_at(folder / "heatmaps.zarr"), manifest, 1, folder)


def ask_all(network: nn.Module, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    predictor = make_predictor(network, CPU, None)
    with torch.inference_mode():
        return [predictor(batch["crop"]) for batch in batches]


def costs(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    batches: list[dict[str, Tensor]],
) -> dict[str, float]:
    """Milliseconds a view of each kind of work, on what this teacher says."""
    said = ask_all(network, batches)
    coded = [compress(heatmaps, recipe.store.max_error) for heatmaps in said]
    parts = list(answers(make_predictor(network, CPU, None), batches, recipe.store.max_error))
    rows = recipe.store.shard_samples
    del parts[rows // BATCH :]
    canaries = [c for i, part in enumerate(parts) for c in take_canaries(part, i * BATCH, rows)]
    shard = make_shard(0, 0, parts, canaries)
    views = len(samples)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        writer = new_writer(Path(folder), recipe, samples)
        work: dict[str, Callable[[], object]] = {
            "teacher": lambda: ask_all(network, batches),
            "reading": lambda: list(loader(recipe, samples)),
            "encoding": lambda: [compress(maps, recipe.store.max_error) for maps in said],
            "its error": lambda: [cost(*pair) for pair in zip(said, coded, strict=True)],
            "zstd": lambda: encode_shard("heatmaps", shard.heatmaps_SKYXC, writer.layout),
            "writing": lambda: writer.write(shard),
        }
        of_a_shard = ("zstd", "writing")
        taken = {
            name: 1e3 / (rows if name in of_a_shard else views) * seconds(run)
            for name, run in work.items()
        }
    taken["writing"] -= taken["zstd"]  # it does both
    return {f"{name}, ms": value for name, value in taken.items()} | {
        "bytes a view": len(encode_shard("heatmaps", shard.heatmaps_SKYXC, writer.layout)) / rows
    }


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
