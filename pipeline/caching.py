"""Making shards: one loader reads ahead, the teacher answers, a thread writes behind."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import nn
from tqdm import tqdm

from ..data.samples import SampleSet
from .recipe import Recipe
from .stopping import Interrupted, stop_requested
from .store import Layout, StoreWriter
from .store.canaries import Canary
from .teaching import Columns, answers, asker, make_shard, take_canaries
from .training.feed import Key, make_loader, stored_views

STOPPED = "caching stopped; whole shards are kept, the same command makes the rest"

SHARDS_IN_FLIGHT = 2
"""Shards that wait to be written while the teacher is on the next one."""


def fill(
    writer: StoreWriter,
    tasks: Sequence[tuple[int, int]],
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
) -> None:
    """Make shards, whatever is there of them.

    However it ends, shards that the teacher was done with are written first.

    Args:
        tasks: (view, shard) of each.

    Raises:
        Interrupted: after a signal.
        OSError: a shard cannot be written; those before it are kept.
    """
    layout, size = writer.layout, recipe.store.batch
    keys = [batch for view, shard in tasks for batch in _batches(layout, view, shard, size)]
    loader = make_loader(stored_views(recipe, samples), keys, recipe.loader, device)
    total = sum(len(layout.rows(shard)) for _, shard in tasks)
    mirror_joints = samples.skeleton.mirror if recipe.mirror_averaged else None
    said = answers(asker(network, device, mirror_joints), loader, recipe.store.max_error)
    writing: list[Future[None]] = []
    with (
        stop_requested() as stop,
        tqdm(total=total, desc="cache-heatmaps", unit="view", leave=False, disable=None) as bar,
        ThreadPoolExecutor(1, "shard-writer") as writers,
    ):
        for view, shard in tasks:
            parts: list[Columns] = []
            canaries: list[Canary] = []
            rows = len(layout.rows(shard))
            for first_row in range(0, rows, size):
                if stop.is_set():
                    raise Interrupted(STOPPED, stop.signal)
                parts.append(next(said))
                canaries += take_canaries(parts[-1], first_row, rows)
                bar.update(len(parts[-1]["peaks"]))
            writing.append(writers.submit(_write, writer, view, shard, parts, canaries))
            if len(writing) > SHARDS_IN_FLIGHT:
                writing.pop(0).result()
        for future in writing:
            future.result()
        if stop.is_set():
            raise Interrupted(STOPPED, stop.signal)


def _write(
    writer: StoreWriter, view: int, shard: int, parts: list[Columns], canaries: list[Canary]
) -> None:
    writer.write(make_shard(view, shard, parts, canaries))


def _batches(layout: Layout, view: int, shard: int, size: int) -> list[list[Key]]:
    """A shard's views, cut the same way whatever else is missing: the same bytes every time."""
    rows = layout.rows(shard)
    return [[(i, view) for i in rows[start : start + size]] for start in range(0, len(rows), size)]
