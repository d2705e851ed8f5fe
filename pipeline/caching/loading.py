"""How long a student's loader takes for a view: from photographs, and from stored crops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import uuid4

from torch.utils.data import default_collate

from ...data.io.jpeg import decode_jpeg
from ...data.samples import SampleSet
from ...data.views import Views
from ..config.recipe import Recipe
from ..runtime.loader import Key, in_batches
from ..store import Layout, Storage, StoreReader, open_storage, write_shard
from .encode import Columns, make_shard, take_canaries

PASSES = 3
"""Passes over the views, of which the fastest counts: other processes can only slow one down."""

LoadRow = Callable[[int], dict[str, Any]]


class Loading(NamedTuple):
    """Seconds per view of a loader in one process, heatmaps included.

    Attributes:
        photographs_s: with crops cut from photographs, which were read from the disk before.
        crops_s: with crops from a portable store, in memory.
    """

    photographs_s: float
    crops_s: float


def measure_loading(
    recipe: Recipe, samples: SampleSet, keys: Sequence[Key], joined: Columns, layout: Layout
) -> Loading:
    """Load the views of a pilot both ways, in batches, in this process.

    Args:
        keys: of the views in `joined`.
        joined: the encoded views, with crops.
        layout: of a portable store.
    """
    views = Views(samples, recipe.geometry, recipe.stored_augmentation, recipe.store.seed)
    rows = len(keys)
    layout = replace(
        layout, views=1, segments=(rows,), shard_samples=min(rows, layout.shard_samples)
    )
    with _memory_store(joined, layout) as storage:
        reader = StoreReader(storage, layout, check_digests=False, own_layout=True)

        def from_photographs(row: int) -> dict[str, Any]:
            return {**views[keys[row]], **reader.read(0, row)._asdict()}

        def from_crops(row: int) -> dict[str, Any]:
            crop = decode_jpeg(reader.read_crop(0, row), layout.crop_px)
            joints = reader.read_row("joints", 0, row)
            return {"crop": crop, "joints": joints, **reader.read(0, row)._asdict()}

        batches = in_batches(range(rows), recipe.store.batch_size)
        from_crops(rows - 1)  # opens the shard
        seconds = [_fastest_pass(load, batches) for load in (from_photographs, from_crops)]
    return Loading(*(total / rows for total in seconds))


def _fastest_pass(load: LoadRow, batches: Sequence[Sequence[int]]) -> float:
    passes = []
    for _ in range(PASSES):
        start = time.perf_counter()
        for batch in batches:
            default_collate([load(row) for row in batch])
        passes.append(time.perf_counter() - start)
    return min(passes)


@contextmanager
def _memory_store(joined: Columns, layout: Layout) -> Iterator[Storage]:
    """The shards of encoded views, in the memory of this process."""
    storage = open_storage(f"memory://fpd-pilot-{uuid4().hex}")
    try:
        for view, shard in layout.tasks():
            rows = layout.rows(shard)
            part = {name: values[rows.start : rows.stop] for name, values in joined.items()}
            canaries = take_canaries(part, 0, len(rows))
            write_shard(storage, layout, make_shard(view, shard, [part], canaries))
        yield storage
    finally:
        for name in storage.sizes(""):
            storage.delete(name)
