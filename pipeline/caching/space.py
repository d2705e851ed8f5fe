"""What is missing of a store, and whether it fits on the disk."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import MemoryStore

from ...data.samples import SampleSet
from ..runtime.text import format_bytes
from ..store import (
    Coverage,
    Layout,
    Storage,
    check_manifest,
    coverage,
    layout_of,
    open_storage,
    read_manifest,
    served_layout,
    stored_layout,
)
from ..store.manifest import STORED_SPLITS, Manifest, split_layout, with_added
from ..store.schema import create_arrays
from ..store.storage import StoragePart
from ..workdir import WorkDir
from .inputs import StoreInputs
from .pilot import (
    Sizes,
    SplitSizes,
    Stopwatch,
    encode_all,
    measure_sizes,
    measure_split_sizes,
    pilot_keys,
)

RECEIPT_BYTES = 4096
"""A receipt takes 3 to 4 kB, most of it for the thumbnails of its canaries."""


@dataclass(frozen=True)
class MissingParts:
    """What is missing of a store.

    Attributes:
        samples: number of views of single samples.
        shards: number of shards.
    """

    samples: int
    shards: int


@dataclass(frozen=True)
class StoreStatus:
    """What exists of a store.

    Attributes:
        coverage: of the view numbers that the store has room for.
        bytes: size of all files of the store.
        freed_bytes: size of the old store that will be removed first.
        splits: coverage of the groups of samples that a portable store is to have, by split.
    """

    coverage: Coverage
    bytes: int
    freed_bytes: int = 0
    splits: Mapping[str, Coverage] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        return self.coverage.layout

    def missing(self, views: int, only_views: Container[int] | None = None) -> MissingParts:
        """What is missing of the first `views` view numbers, or of some of them."""
        numbers = {v for v in range(views) if only_views is None or v in only_views}
        missing_shards = [shard for view, shard in self.coverage.missing if view in numbers]
        new_views = sum(view >= self.layout.views for view in numbers)
        return MissingParts(
            samples=sum(len(self.layout.rows(shard)) for shard in missing_shards)
            + new_views * self.layout.samples,
            shards=len(missing_shards) + new_views * self.layout.shards,
        )

    def missing_split_bytes(self, sizes: SplitSizes) -> int:
        """Bytes that writing the missing samples of all splits adds to the store."""
        return sum(
            added_bytes(missing_of(split), sizes.of(split.layout), split.layout)
            for split in self.splits.values()
        )


def missing_of(present: Coverage) -> MissingParts:
    """What is missing of a layout."""
    rows = [len(present.layout.rows(shard)) for _, shard in present.missing]
    return MissingParts(samples=sum(rows), shards=len(rows))


def inspect_existing(
    storage: Storage,
    manifest: Manifest,
    samples: SampleSet,
    work_options: str,
    *,
    splits: Mapping[str, SampleSet] | None = None,
    overwrite: bool = False,
) -> StoreStatus:
    """Inspect what exists of the store that a manifest describes.

    Args:
        work_options: what follows `-w` in the commands of messages.
        splits: the samples of each split that a portable store is to have; None: none.
        overwrite: the existing store will be removed.

    Raises:
        ValueError: the existing store was made for another run.
    """
    splits = splits or {}
    existing_bytes = sum(storage.sizes("").values()) if storage.exists() else 0
    if overwrite or not existing_bytes:
        return replace(empty_status(manifest, splits), freed_bytes=existing_bytes)
    extended = with_added(manifest, read_manifest(storage, work_options), samples)
    check_manifest(storage, manifest, extended, work_options)
    layout = served_layout(manifest, extended, stored_layout(storage, work_options).views)
    present_splits = {
        name: coverage(StoragePart(storage, name), split)
        for name, split in split_layouts(extended, splits).items()
    }
    return StoreStatus(coverage(storage, layout), existing_bytes, splits=present_splits)


def empty_status(manifest: Manifest, splits: Mapping[str, SampleSet]) -> StoreStatus:
    """The status of a store that is yet to be made.

    Args:
        splits: the samples of each split that a portable store is to have; empty for another.
    """
    present_splits = {
        name: _nothing_of(layout) for name, layout in split_layouts(manifest, splits).items()
    }
    return StoreStatus(_nothing_of(layout_of(manifest, 1)), 0, splits=present_splits)


def _nothing_of(layout: Layout) -> Coverage:
    return Coverage(layout, layout.tasks(), [])


def split_layouts(manifest: Manifest, splits: Mapping[str, SampleSet]) -> dict[str, Layout]:
    """The layout of each split's group in a portable store.

    Args:
        manifest: of the store; which samples of the splits it has does not matter.
    """
    counts = {name: {"samples": len(samples)} for name, samples in splits.items()}
    return {name: split_layout(manifest | {STORED_SPLITS: counts}, name) for name in splits}


def added_bytes(missing: MissingParts, sizes: Sizes, layout: Layout) -> int:
    """Bytes that writing the missing parts adds to a store."""
    padding_rows = missing.shards * layout.shard_samples - missing.samples
    return round(
        missing.samples * sizes.view + padding_rows * sizes.padding + missing.shards * sizes.receipt
    )


def upper_bound_sizes(layout: Layout) -> Sizes:
    """The sizes if nothing can be compressed, padding included."""
    arrays = layout.specs.values()
    raw_bytes = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in arrays)
    view_bytes = 1.01 * raw_bytes + 256  # an incompressible frame is a little longer than its data
    return Sizes(view_bytes, view_bytes, RECEIPT_BYTES)


def stored_sizes(stored: Coverage) -> Sizes:
    """The sizes of a store's complete shards; that of a view includes its share of the padding."""
    return Sizes(stored.bytes() / stored.samples(), 0, RECEIPT_BYTES)


def empty_store_bytes(status: StoreStatus, manifest: Manifest) -> int:
    """Size of a new store's metadata and basis."""
    total = len(json.dumps(manifest, indent=2))
    for layout in (status.layout, *(split.layout for split in status.splits.values())):
        objects: dict[str, Any] = {}
        create_arrays(MemoryStore(objects), layout)
        total += sum(map(len, objects.values()))
    return total


def free_bytes(storage: Storage) -> int | None:
    """Free space on the disk of a store; None: unknown, as it is behind a URL."""
    if not storage.is_local:
        return None
    path = Path(os.path.realpath(str(storage)))
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def check_space(
    work: WorkDir,
    inputs: StoreInputs,
    manifest: Manifest,
    *,
    splits: Mapping[str, SampleSet] | None = None,
    overwrite: bool = False,
    only_views: Container[int] | None = None,
) -> None:
    """Check, before the first byte is written or removed, that the disk has enough space.

    An upper bound from the arrays' shapes mostly settles it. Otherwise, the sizes of existing
    shards are used, or, for a new store, those of one batch that the teacher is run on.

    Args:
        splits: the samples of each split that a portable store is to have; None: none.

    Raises:
        ValueError: there is too little space; the message says what is needed, and what helps.
    """
    recipe, samples = inputs.recipe, inputs.samples
    storage = open_storage(work.store_location(recipe))
    free = free_bytes(storage)
    if free is None:
        return
    work_options = work.command_options(recipe)
    status = inspect_existing(
        storage, manifest, samples, work_options, splits=splits, overwrite=overwrite
    )
    missing, layout = status.missing(recipe.store.views, only_views), status.layout
    free += status.freed_bytes
    if added_bytes(missing, upper_bound_sizes(layout), layout) + _most_split_bytes(status) <= free:
        return
    are_measured = all(c.receipts or not c.missing for c in status.splits.values())
    if status.coverage.receipts and are_measured:
        needed = added_bytes(missing, stored_sizes(status.coverage), layout) + sum(
            added_bytes(missing_of(split), stored_sizes(split), split.layout)
            for split in status.splits.values()
            if split.missing
        )
    else:
        one_batch = pilot_keys(len(samples), recipe.store.batch_size)[:1]
        stopwatch = Stopwatch(inputs.device)
        joined = encode_all(inputs, one_batch, stopwatch)
        sizes, _ = measure_sizes(joined, layout, stopwatch)
        split_sizes = measure_split_sizes(joined, recipe, samples, one_batch[0], layout)
        needed = added_bytes(missing, sizes, layout) + status.missing_split_bytes(split_sizes)
    check_fits(storage, needed, free, work_options)


def _most_split_bytes(status: StoreStatus) -> int:
    """An upper bound of `missing_split_bytes`."""
    return sum(
        added_bytes(missing_of(split), upper_bound_sizes(split.layout), split.layout)
        for split in status.splits.values()
    )


def check_fits(storage: Storage, needed_bytes: int, free: int | None, work_options: str) -> None:
    """Check that a number of bytes fits into the free space.

    Args:
        free: in bytes; None: unknown, in which case nothing is checked.
        work_options: what follows `-w` in the commands of messages.

    Raises:
        ValueError: it does not; the message says what is needed, and what helps.
    """
    if free is not None and needed_bytes > free:
        raise ValueError(
            f"expected {format_bytes(needed_bytes)} of free space for {storage}, found "
            f"{format_bytes(free)}: choose fewer views (`fpd cache-heatmaps -w {work_options} "
            "--plan` shows what they take, --budget SIZE chooses them), a larger store.max_error, "
            "or another location with --store"
        )
