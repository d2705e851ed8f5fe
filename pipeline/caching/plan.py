"""What a heatmap store will take and whether it pays, before anything is written.

A *pilot* of a few dozen views through the real teacher and encoder gives bytes and seconds a view;
the rest is arithmetic:

    total   = what is there + missing views x bytes a view (+ padding, receipts, metadata)
    time    = missing views x cache time a view
    epochs until the cache has paid = views x (cache time a view / teacher time a view)

The last is against running the teacher online, which is one pass (two where answers are averaged
with their mirrored twin) a person and epoch of each student; filling the cache is `views` passes a
person, once, and what reading, encoding and compressing add to them.
"""

from __future__ import annotations

import json
import math
import shutil
from bisect import bisect_right
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zarr.storage import MemoryStore

from ...data.samples import SampleSet
from ..config.recipe import Recipe, apply_overrides
from ..runtime.files import read_json, write_json
from ..runtime.text import format_bytes
from ..store import (
    Coverage,
    Files,
    Layout,
    check_manifest,
    coverage,
    layout_of,
    read_manifest,
    served_layout,
    store_files,
    stored_layout,
)
from ..store.manifest import Manifest, with_added
from ..store.schema import create_arrays, specs
from ..teachers import HeatmapSource
from ..workdir import WorkDir
from .pilot import Pilot, Sizes, Stopwatch, encode_all, measure_sizes, pilot_keys, run_pilot

RECEIPT_BYTES = 4096
"""A receipt takes 3 to 4 kB, most of them its canaries' thumbnails."""


@dataclass(frozen=True)
class Need:
    """What is missing of a store."""

    samples: int  # views of single samples
    shards: int


@dataclass(frozen=True)
class StoreStatus:
    """What is there of a store, looked at and not touched.

    Attributes:
        found: of the view numbers that the store has room for.
        bytes: size of everything in it.
        freed_bytes: what removing an old store gives back first.
    """

    found: Coverage
    bytes: int
    freed_bytes: int = 0

    @property
    def layout(self) -> Layout:
        return self.found.layout

    def need(self, views: int, only_views: Container[int] | None = None) -> Need:
        """What is missing of the first `views` view numbers, or of some of them."""
        wanted = {v for v in range(views) if only_views is None or v in only_views}
        partly = [shard for view, shard in self.found.missing if view in wanted]
        more = sum(view >= self.layout.views for view in wanted)
        return Need(
            sum(len(self.layout.rows(shard)) for shard in partly) + more * self.layout.samples,
            len(partly) + more * self.layout.shards,
        )


def inspect_existing(
    files: Files, manifest: Manifest, samples: SampleSet, work: object, *, overwrite: bool = False
) -> StoreStatus:
    """What is there of the store that a manifest calls for.

    Args:
        overwrite: what is there will be removed.

    Raises:
        ValueError: what is there was made for something else.
    """
    there = sum(files.sizes("").values()) if files.exists() else 0
    if overwrite or not there:
        layout = layout_of(manifest, 1)
        return StoreStatus(Coverage(layout, layout.tasks(), []), 0, freed_bytes=there)
    found = read_manifest(files)
    extended = with_added(manifest, found, samples)
    check_manifest(files, manifest, extended, work)
    layout = served_layout(manifest, extended, stored_layout(files).views)
    return StoreStatus(coverage(files, layout), there)


def added_bytes(need: Need, sizes: Sizes, layout: Layout) -> int:
    """Bytes that writing what is missing adds."""
    padding = need.shards * layout.shard_samples - need.samples
    return round(need.samples * sizes.view + padding * sizes.blank + need.shards * sizes.receipt)


def most_sizes(layout: Layout) -> Sizes:
    """What views take at most: nothing can be compressed, and padding is no smaller."""
    columns = specs(layout.joints, layout.heatmap_px).values()
    raw = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in columns)
    at_most = 1.01 * raw + 256  # an incompressible frame is a little longer than its content
    return Sizes(at_most, at_most, RECEIPT_BYTES)


def found_sizes(found: Coverage) -> Sizes:
    """What views took, their shards' padding included, where shards are there."""
    return Sizes(found.bytes() / found.samples(), 0, RECEIPT_BYTES)


def empty_store_bytes(layout: Layout, manifest: Manifest) -> int:
    """Size of a store's metadata and basis."""
    objects: dict[str, Any] = {}
    create_arrays(MemoryStore(objects), layout)
    return sum(map(len, objects.values())) + len(json.dumps(manifest, indent=2))


def break_even_epochs(views: int, cache_s: float, teacher_s: float) -> float:
    """Epochs of students after which filling the cache took no longer than asking online.

    Args:
        cache_s: seconds to cache a view.
        teacher_s: seconds of the teacher's passes over a view.

    Returns:
        views x cache_s / teacher_s.
    """
    return views * cache_s / teacher_s


@dataclass(frozen=True)
class Row:
    """A store of so many views.

    Attributes:
        bytes: of the whole store, what is there included.
        added_bytes, seconds: of what is missing.
        paid_epochs: epochs of students until the cache has paid for itself.
    """

    views: int
    bytes: int
    added_bytes: int
    seconds: float
    paid_epochs: float


@dataclass(frozen=True)
class Plan:
    """What a store will take, by its number of views.

    Attributes:
        epochs: of the student that is trained longest: it never sees more views than that.
        free_bytes: where the store will lie; None: unknown.
        metadata_bytes: what a store that is yet to be made begins with.
    """

    pilot: Pilot
    stock: StoreStatus
    recipe_views: int
    epochs: int
    free_bytes: int | None
    metadata_bytes: int

    def row(self, views: int) -> Row:
        """What a number of views takes."""
        need = self.stock.need(views)
        added = self.metadata_bytes + added_bytes(need, self.pilot.sizes, self.stock.layout)
        return Row(
            views,
            self.stock.bytes + added,
            added,
            need.samples * self.pilot.cache_s,
            break_even_epochs(views, self.pilot.cache_s, self.pilot.teacher_s),
        )

    def paid_at(self, row: Row) -> tuple[int, int]:
        """(student, epoch), both from 1, at whose end a cache has paid for itself."""
        epochs = max(1, math.ceil(round(row.paid_epochs, 6)))  # 3.0000000001 is 3
        student, epoch = divmod(epochs - 1, self.epochs)
        return student + 1, epoch + 1

    def choose(self, budget: int) -> int:
        """The most views that a budget in bytes holds.

        No more than the students' epochs, no fewer than there are.

        Raises:
            ValueError: it does not hold one view of everyone.
        """
        fitting = bisect_right(range(1, self.epochs + 1), budget, key=lambda v: self.row(v).bytes)
        views = max(fitting, self.stock.found.whole_views)
        if not views:
            raise ValueError(
                f"expected a budget that holds at least one view of all "
                f"{self.stock.layout.samples} people, {format_bytes(self.row(1).bytes)}; got "
                f"{format_bytes(budget)}: raise --budget, or store.max_error for smaller views"
            )
        return views


def make_plan(
    work: WorkDir,
    recipe: Recipe,
    samples: SampleSet,
    manifest: Manifest,
    source: HeatmapSource,
    device: torch.device,
    *,
    overwrite: bool = False,
) -> Plan:
    """Run a pilot, and look at what is there.

    Raises:
        ValueError: the store that is there was made for something else.
    """
    files = store_files(work, recipe)
    stock = inspect_existing(files, manifest, samples, work.named(recipe), overwrite=overwrite)
    free = free_bytes(files)
    return Plan(
        pilot=run_pilot(source.predictor(device), recipe, samples, stock.layout, device),
        stock=stock,
        recipe_views=recipe.store.views,
        epochs=student_epochs(recipe),
        free_bytes=None if free is None else free + stock.freed_bytes,
        metadata_bytes=0 if stock.bytes else empty_store_bytes(stock.layout, manifest),
    )


def student_epochs(recipe: Recipe) -> int:
    """Epochs of the distilled student that is trained longest (of any, where none is distilled)."""
    students = [recipe.student_named(name) for name in recipe.student_names]
    distilled = [student for student in students if student.alpha > 0]
    return max(student.epochs for student in distilled or students)


def free_bytes(files: Files) -> int | None:
    """Free space where a store will lie; None: a remote place does not say."""
    if not files.is_local:
        return None
    path = Path(str(files)).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def check_space(
    work: WorkDir,
    recipe: Recipe,
    samples: SampleSet,
    manifest: Manifest,
    source: HeatmapSource,
    device: torch.device,
    *,
    overwrite: bool = False,
    only_views: Container[int] | None = None,
) -> None:
    """Refuse to begin what the disk cannot hold; before the first byte is written or removed.

    A bound from the arrays' shapes is asked first, which mostly settles it; then the shards that
    are there; then, for a new store, one batch through the teacher.

    Raises:
        ValueError: naming what is needed, what is free, and what helps.
    """
    files = store_files(work, recipe)
    free = free_bytes(files)
    if free is None:
        return
    stock = inspect_existing(files, manifest, samples, work.named(recipe), overwrite=overwrite)
    need, layout = stock.need(recipe.store.views, only_views), stock.layout
    free += stock.freed_bytes
    if added_bytes(need, most_sizes(layout), layout) <= free:
        return
    if stock.found.receipts:
        sizes = found_sizes(stock.found)
    else:
        batch, watch = pilot_keys(len(samples), recipe.store.batch_size)[:1], Stopwatch(device)
        joined = encode_all(source.predictor(device), recipe, samples, device, batch, watch)
        sizes, _ = measure_sizes(joined, layout, watch)
    refuse_too_much(files, added_bytes(need, sizes, layout), free, work.named(recipe))


def refuse_too_much(files: Files, needed: int, free: int | None, work: object) -> None:
    """Refuse to write more than there is room for.

    Raises:
        ValueError: naming what is needed, what is free, and what helps.
    """
    if free is not None and needed > free:
        raise ValueError(
            f"expected {format_bytes(needed)} of free space for {files}, found "
            f"{format_bytes(free)}: choose fewer views (`fpd cache-heatmaps -w {work} --plan` "
            "shows what they take, --budget SIZE chooses them), a larger store.max_error, or "
            "another place with --store"
        )


def keep_views(work: WorkDir, views: int) -> None:
    """Have the work directory's own recipe ask for so many views."""
    kept = apply_overrides(read_json(work.kept_recipe), [f"store.views={views}"])
    write_json(work.kept_recipe, kept.model_dump(mode="json"))
