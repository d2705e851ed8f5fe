"""Stage 2: run the teacher once over every view, and keep what it says.

    fpd cache-heatmaps -w work/demo

In: the data set, `teacher/`. Out: `heatmaps.zarr`. Only shards that are missing are made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..data.readers import load
from ..data.samples import SampleSet
from ..pipeline.recipe import Recipe
from ..pipeline.store import Layout, StoreWriter, make_manifest, store_files
from ..pipeline.teaching import answers, asker, make_shard
from ..pipeline.training.feed import Key, make_loader, stored_views
from ..pipeline.training.loop import Interrupted, stop_requested
from ..pipeline.training.train import load_model
from ..pipeline.workdir import WorkDir, sha256

log = logging.getLogger("fpd")

STOPPED = "cache-heatmaps stopped; whole shards are kept, the same command makes the rest"

SHARDS_IN_FLIGHT = 2
"""Shards that wait to be written while the teacher is on the next one."""


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    overwrite: bool = False,
    only_views: range | None = None,
) -> dict[str, Any]:
    """Fill the store, or what is missing of it.

    Args:
        overwrite: remove a store that is there first.
        only_views: leave other view numbers to somebody else.

    Returns:
        Sizes and errors: "views", "samples", "written" (shards), "bytes", "float16_bytes",
        "bytes_per_view", "measured".

    Raises:
        ValueError: there is no finished teacher, the store was made for something else, or another
            process is writing it.
        Interrupted: after a signal; whole shards are kept.
    """
    check_teacher(work)
    samples = load(recipe.data, "train")
    manifest = make_manifest(recipe, samples, sha256(work.teacher.weights))
    files = store_files(work, recipe)
    with files.locked():
        if overwrite and files.exists():
            files.remove()
        writer = StoreWriter(files, manifest, recipe.store.views, work.root, samples=samples)
        missing = [
            task
            for task in writer.coverage().missing
            if only_views is None or task[0] in only_views
        ]
        if missing:
            log.info("caching %d of %d shards", len(missing), len(writer.layout.tasks()))
            network = load_model(work.teacher, writer.layout.joints, device)
            fill(writer, missing, network, recipe, samples, device)
        found = writer.finish()
    return {
        "views": recipe.store.views,
        "samples": len(samples),
        "written": len(missing),
        "bytes": found.bytes(),
        "bytes_per_view": found.bytes() / max(1, found.samples()),
        "float16_bytes": writer.layout.float16_bytes
        * found.samples()
        // (recipe.store.views * len(samples)),
        "measured": found.measured(),
    }


def check_teacher(work: WorkDir) -> None:
    """Refuse to go on without a teacher.

    Raises:
        ValueError: naming the command that trains one.
    """
    if not work.teacher.finished:
        raise ValueError(
            f"{work.teacher.path} has no finished teacher: run `fpd run teacher -w {work.root}`"
        )


def fill(
    writer: StoreWriter,
    tasks: Sequence[tuple[int, int]],
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
) -> None:
    """Make shards: one loader reads ahead, the teacher answers, a thread writes behind.

    Raises:
        Interrupted: after a signal.
    """
    layout, size = writer.layout, recipe.store.batch
    keys = [batch for view, shard in tasks for batch in _batches(layout, view, shard, size)]
    loader = make_loader(stored_views(recipe, samples), keys, recipe.loader, device)
    total = sum(len(layout.rows(shard)) for _, shard in tasks)
    mirror_joints = samples.skeleton.mirror if recipe.store.mirror_averaged else None
    said = answers(asker(network, device, mirror_joints), loader, recipe.store.max_error)
    writing: list[Future[None]] = []
    with (
        stop_requested() as stop,
        tqdm(total=total, desc="cache-heatmaps", unit="view", leave=False, disable=None) as bar,
        ThreadPoolExecutor(1, "shard-writer") as writers,
    ):
        for view, shard in tasks:
            parts = []
            for _ in _batches(layout, view, shard, size):
                if stop.is_set():
                    raise Interrupted(STOPPED)
                parts.append(next(said))
                bar.update(len(parts[-1]["peaks"]))
            writing.append(writers.submit(_write, writer, view, shard, parts))
            if len(writing) > SHARDS_IN_FLIGHT:
                writing.pop(0).result()
        for future in writing:
            future.result()
        if stop.is_set():
            raise Interrupted(STOPPED)


def _write(writer: StoreWriter, view: int, shard: int, parts: list[dict[str, Any]]) -> None:
    writer.write(make_shard(view, shard, parts))


def _batches(layout: Layout, view: int, shard: int, size: int) -> list[list[Key]]:
    """A shard's views, cut the same way whatever else is missing: the same bytes every time."""
    rows = layout.rows(shard)
    return [[(i, view) for i in rows[start : start + size]] for start in range(0, len(rows), size)]
