"""Making shards: one loader reads ahead, the teacher encode_batches, a thread writes behind.

That is one process's way. Of `encode_shards` and `next_shard`, tasks on a cluster are made, too
(`cluster/`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from ...data.samples import SampleSet
from ...data.views import Views
from ..config.recipe import Recipe, stored_views
from ..models.predictor import HeatmapPredictor
from ..runtime.interrupt import Interrupted, Stop, stop_requested
from ..runtime.loader import Key, make_loader
from ..store import Layout, Shard, StoreWriter
from ..store.canaries import Canary
from .encode import Columns, encode_batches, make_shard, take_canaries

STOPPED = "caching stopped; whole shards are kept, the same command makes the rest"

SHARDS_IN_FLIGHT = 2
"""Shards that wait to be written while the teacher is on the next one."""


def fill(
    writer: StoreWriter,
    tasks: Sequence[tuple[int, int]],
    predictor: HeatmapPredictor,
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
    layout = writer.layout
    total = sum(len(layout.rows(shard)) for _, shard in tasks)
    writing: list[Future[None]] = []
    with (
        stop_requested() as stop,
        tqdm(total=total, desc="cache-heatmaps", unit="view", leave=False, disable=None) as bar,
        ThreadPoolExecutor(1, "shard-writer") as writers,
    ):
        said = _watched(encode_shards(layout, tasks, predictor, recipe, samples, device), bar, stop)
        for view, shard in tasks:
            content = next_shard(said, layout, view, shard)
            writing.append(writers.submit(writer.write, content))
            if len(writing) > SHARDS_IN_FLIGHT:
                writing.pop(0).result()
        for future in writing:
            future.result()
        if stop.is_set():
            raise Interrupted(STOPPED, stop.signal)


def encode_shards(
    layout: Layout,
    tasks: Sequence[tuple[int, int]],
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    reading_threads: int = 0,
) -> Iterator[Columns]:
    """The teacher's answers to all views of some shards, batch by batch (see `answers`).

    Args:
        tasks: (view, shard) of each.
        reading_threads: threads that read ahead; none: the recipe's loader reads.
    """
    size = recipe.store.batch_size
    keys = [batch for view, shard in tasks for batch in _batches(layout, view, shard, size)]
    views = stored_views(recipe, samples)
    loader: Iterable[Mapping[str, Tensor]] = (
        read_in_threads(views, keys, reading_threads)
        if reading_threads
        else make_loader(
            views, keys, device, workers=recipe.loader.workers, prefetch=recipe.loader.prefetch
        )
    )
    return encode_batches(predictor, loader, recipe.store.max_error)


def read_in_threads(
    views: Views, batches: Iterable[list[Key]], threads: int
) -> Iterator[Mapping[str, Tensor]]:
    """The same batches as a loader's, in order, each read by one of several threads.

    For processes of many threads, such as Dask's workers: a loader's processes, forked there, were
    seen to hang. OpenCV lets other threads run while it decodes and warps.
    """
    waiting = iter(batches)
    with ThreadPoolExecutor(threads, "reader") as readers:
        ahead = deque(readers.submit(_read, views, keys) for keys in islice(waiting, threads + 1))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(readers.submit(_read, views, keys) for keys in islice(waiting, 1))
        finally:
            for future in ahead:
                future.cancel()


def _read(views: Views, keys: list[Key]) -> Mapping[str, Tensor]:
    batch: Mapping[str, Tensor] = default_collate([views[key] for key in keys])
    return batch


def next_shard(said: Iterator[Columns], layout: Layout, view: int, shard: int) -> Shard:
    """Put the next answers together, as many as a shard has."""
    parts: list[Columns] = []
    canaries: list[Canary] = []
    rows, done = len(layout.rows(shard)), 0
    while done < rows:
        parts.append(next(said))
        canaries += take_canaries(parts[-1], done, rows)
        done += len(parts[-1]["peaks"])
    return make_shard(view, shard, parts, canaries)


def _watched(said: Iterable[Columns], bar: tqdm[Any], stop: Stop) -> Iterator[Columns]:
    """The same encode_batches, pluralize, up to a signal."""
    for columns in said:
        bar.update(len(columns["peaks"]))
        yield columns
        if stop.is_set():
            raise Interrupted(STOPPED, stop.signal)


def _batches(layout: Layout, view: int, shard: int, size: int) -> list[list[Key]]:
    """A shard's views, cut the same way whatever else is missing: the same bytes every time."""
    rows = layout.rows(shard)
    return [[(i, view) for i in rows[start : start + size]] for start in range(0, len(rows), size)]
