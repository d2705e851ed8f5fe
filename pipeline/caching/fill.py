"""Fills a store from this process.

`encode_shards` reads the views of all shards ahead, runs the teacher and encodes its heatmaps,
batch by batch; `collect_shard` joins a shard's batches; `fill` writes each shard in another thread
while the teacher continues. A cluster's workers use the first two as well (`worker.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from ...data.views import Views
from ..runtime.interrupt import Interrupted, Stop, stop_requested
from ..runtime.loader import Key, make_loader
from ..store import Layout, Shard, StoreWriter
from ..store.canaries import Canary
from .encode import Columns, encode_batches, make_shard, take_canaries
from .inputs import StoreInputs

STOPPED = "caching stopped; complete shards are kept, the same command makes the rest"

SHARDS_IN_FLIGHT = 2
"""Shards that may wait to be written while the teacher runs on the next one."""


def fill(writer: StoreWriter, tasks: Sequence[tuple[int, int]], inputs: StoreInputs) -> None:
    """Make shards and write them, replacing any that exist.

    Shards that are complete when an error or a signal comes are still written.

    Args:
        tasks: the (view, shard) to make.

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
        batches = encode_shards(layout, tasks, inputs)
        batches = _until_stopped(batches, bar, stop)
        for view, shard in tasks:
            content = collect_shard(batches, layout, view, shard)
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
    inputs: StoreInputs,
    reading_threads: int = 0,
) -> Iterator[Columns]:
    """Read the views of some shards, run the teacher and encode its heatmaps, batch by batch.

    Args:
        tasks: (view, shard) of each; no batch has views of two shards.
        reading_threads: number of threads to read with; 0: the recipe's loader reads.

    Returns:
        The batches, in the order of the tasks (see `encode_batches`).
    """
    views, settings = inputs.views, inputs.recipe.store
    size = settings.batch_size
    keys = [batch for view, shard in tasks for batch in _batches(layout, view, shard, size)]
    batches: Iterable[Mapping[str, Tensor]]
    if reading_threads:
        batches = read_in_threads(views, keys, reading_threads)
    else:
        loader = inputs.recipe.loader
        batches = make_loader(
            views, keys, inputs.device, workers=loader.workers, prefetch=loader.prefetch
        )
    return encode_batches(inputs.predictor, batches, settings.max_error)


def read_in_threads(
    views: Views, batches: Iterable[list[Key]], threads: int
) -> Iterator[Mapping[str, Tensor]]:
    """Read the same batches as a loader, in order, each in one of several threads.

    For processes with several threads, such as Dask's workers, where a loader's forked processes
    were seen to hang. OpenCV releases the GIL while it decodes and warps.
    """
    unread = iter(batches)
    with ThreadPoolExecutor(threads, "reader") as readers:
        reading = deque(readers.submit(_read, views, keys) for keys in islice(unread, threads + 1))
        try:
            while reading:
                yield reading.popleft().result()
                reading.extend(readers.submit(_read, views, keys) for keys in islice(unread, 1))
        finally:
            for future in reading:
                future.cancel()


def _read(views: Views, keys: list[Key]) -> Mapping[str, Tensor]:
    batch: Mapping[str, Tensor] = default_collate([views[key] for key in keys])
    return batch


def collect_shard(batches: Iterator[Columns], layout: Layout, view: int, shard: int) -> Shard:
    """Take the next batches of an iterator, as many as a shard has, and join them."""
    parts: list[Columns] = []
    canaries: list[Canary] = []
    rows, done = len(layout.rows(shard)), 0
    while done < rows:
        parts.append(next(batches))
        canaries += take_canaries(parts[-1], done, rows)
        done += len(parts[-1]["peaks"])
    return make_shard(view, shard, parts, canaries)


def _until_stopped(batches: Iterable[Columns], bar: tqdm[Any], stop: Stop) -> Iterator[Columns]:
    """The same batches, counted on the progress bar, until a signal."""
    for columns in batches:
        bar.update(len(columns["peaks"]))
        yield columns
        if stop.is_set():
            raise Interrupted(STOPPED, stop.signal)


def _batches(layout: Layout, view: int, shard: int, size: int) -> list[list[Key]]:
    """Split a shard's views into batches, always alike: its bytes may depend on the batches."""
    rows = layout.rows(shard)
    return [[(i, view) for i in rows[start : start + size]] for start in range(0, len(rows), size)]
