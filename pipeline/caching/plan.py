"""Size and time of a heatmap store, and when it pays off, before anything is written.

A pilot run of a few dozen views through teacher and encoder measures bytes and seconds per view.
The rest is arithmetic:

    bytes              = existing + missing views x bytes per view (+ padding, receipts, metadata;
                         in a portable store, + samples of its splits x bytes per sample)
    seconds            = missing views x caching time per view
    break-even epochs  = views x (caching time per view / teacher time per view)

The last compares with running the teacher online: one pass (two if flip-averaged) per sample and
epoch of every student. Filling the cache takes `views` passes per sample, once, and the time to
read, encode and compress them.

Whichever store the recipe asks for, the plan has the size of both: with heatmaps alone, and
portable, beside that of the photographs, and the time in which a student loads an epoch's views.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from ...data.samples import SampleSet
from ..config.recipe import Recipe, apply_overrides
from ..runtime.text import format_bytes
from ..store import make_manifest, open_storage
from ..store.manifest import Manifest
from ..workdir import WorkDir
from .fill_splits import samples_by_split
from .inputs import StoreInputs
from .photographs import Photographs, measure_photographs, read_all_splits
from .pilot import Pilot, run_pilot
from .space import (
    StoreStatus,
    added_bytes,
    empty_status,
    empty_store_bytes,
    free_bytes,
    inspect_existing,
)


@dataclass(frozen=True)
class Row:
    """A store with some number of views.

    Attributes:
        bytes: of the whole store, existing shards included.
        heatmaps_bytes, portable_bytes: of the store without crops and with them, and with the
            samples of its splits; one of them is `bytes`.
        added_bytes, seconds: to write what is missing.
        break_even_epochs: epochs of students after which the cache has paid off.
    """

    views: int
    bytes: int
    heatmaps_bytes: int
    portable_bytes: int
    added_bytes: int
    seconds: float
    break_even_epochs: float


@dataclass(frozen=True)
class Plan:
    """Size and time of a store, by its number of views.

    Attributes:
        status: of the existing store.
        other_status: of a new store that is portable if the recipe's is not, and vice versa.
        recipe_views: the recipe's `store.views`.
        epochs: of the student that is trained longest, which sees at most as many views.
        free_bytes: on the disk of the store; None: unknown.
        metadata_bytes: size of an empty store; 0 if the store exists.
        other_metadata_bytes: of an empty store of the other kind.
        samples: number of views in a student's epoch.
        is_portable: whether the recipe's store is.
        photographs: that the samples of all splits are cut from; None: they are not files.
    """

    pilot: Pilot
    status: StoreStatus
    other_status: StoreStatus
    recipe_views: int
    epochs: int
    free_bytes: int | None
    metadata_bytes: int
    other_metadata_bytes: int
    samples: int
    is_portable: bool
    photographs: Photographs | None

    def row(self, views: int) -> Row:
        """Compute size and time of the store with a number of views."""
        missing = self.status.missing(views)
        added = (
            self.metadata_bytes
            + added_bytes(missing, self.pilot.sizes, self.status.layout)
            + self.status.missing_split_bytes(self.pilot.split_sizes)
        )
        total, other = self.status.bytes + added, self._other_bytes(views)
        return Row(
            views=views,
            bytes=total,
            heatmaps_bytes=other if self.is_portable else total,
            portable_bytes=total if self.is_portable else other,
            added_bytes=added,
            seconds=missing.samples * self.pilot.cache_s,
            break_even_epochs=break_even_epochs(views, self.pilot.cache_s, self.pilot.teacher_s),
        )

    def _other_bytes(self, views: int) -> int:
        """Size of a new store of the other kind."""
        status = self.other_status
        return (
            self.other_metadata_bytes
            + added_bytes(status.missing(views), self.pilot.other_sizes, status.layout)
            + status.missing_split_bytes(self.pilot.split_sizes)
        )

    def epoch_s(self, seconds_per_view: float) -> float:
        """Seconds in which a student's loader loads an epoch, by those of a view in one process."""
        return self.samples * seconds_per_view / max(1, self.pilot.workers)

    def break_even(self, row: Row) -> tuple[int, int]:
        """The student and the epoch, both counted from 1, at whose end the cache has paid off."""
        epochs = max(1, math.ceil(round(row.break_even_epochs, 6)))  # 3.0000000001 is 3
        student, epoch = divmod(epochs - 1, self.epochs)
        return student + 1, epoch + 1

    def choose(self, budget_bytes: int) -> int:
        """The largest number of views that fits into a budget.

        It is at most the students' epochs, and at least the number of views in the store.

        Raises:
            ValueError: one view of each sample does not fit.
        """
        fitting = bisect_right(
            range(1, self.epochs + 1), budget_bytes, key=lambda views: self.row(views).bytes
        )
        views = max(fitting, self.status.coverage.complete_views)
        if not views:
            raise ValueError(
                f"expected a budget for at least one view of all "
                f"{self.status.layout.samples} samples, {format_bytes(self.row(1).bytes)}; got "
                f"{format_bytes(budget_bytes)}: raise --budget, or store.max_error for smaller "
                "views"
            )
        return views


def break_even_epochs(views: int, cache_s: float, teacher_s: float) -> float:
    """Epochs of students after which the teacher would have taken as long online as the caching.

    Args:
        cache_s: seconds to cache a view.
        teacher_s: seconds of the teacher's passes over a view.

    Returns:
        views x cache_s / teacher_s.
    """
    return views * cache_s / teacher_s


def make_plan(
    work: WorkDir, inputs: StoreInputs, manifest: Manifest, *, overwrite: bool = False
) -> Plan:
    """Inspect the existing store, if any, and run a pilot.

    Args:
        overwrite: plan for a new store, which replaces the existing one.

    Raises:
        ValueError: the existing store was made for another run.
    """
    recipe, samples = inputs.recipe, inputs.samples
    storage = open_storage(work.store_location(recipe))
    all_splits = read_all_splits(recipe, samples)
    splits = _stored_splits(recipe, samples, all_splits)
    status = inspect_existing(
        storage,
        manifest,
        samples,
        work.command_options(recipe),
        splits=splits if recipe.store.portable else None,
        overwrite=overwrite,
    )
    other = _of_other_kind(recipe)
    other_manifest = make_manifest(other, samples, inputs.teacher.entry)
    other_status = empty_status(other_manifest, splits if other.store.portable else {})
    free = free_bytes(storage)
    return Plan(
        pilot=run_pilot(inputs, status.layout),
        status=status,
        other_status=other_status,
        recipe_views=recipe.store.views,
        epochs=student_epochs(recipe),
        free_bytes=None if free is None else free + status.freed_bytes,
        metadata_bytes=0 if status.bytes else empty_store_bytes(status, manifest),
        other_metadata_bytes=empty_store_bytes(other_status, other_manifest),
        samples=len(samples),
        is_portable=recipe.store.portable,
        photographs=measure_photographs(all_splits),
    )


def _of_other_kind(recipe: Recipe) -> Recipe:
    """The recipe with a portable store if it has none, and vice versa."""
    store = recipe.store.model_copy(update={"portable": not recipe.store.portable})
    return recipe.model_copy(update={"store": store})


def _stored_splits(
    recipe: Recipe, samples: SampleSet, all_splits: Mapping[str, SampleSet]
) -> Mapping[str, SampleSet]:
    """The samples in the groups of a portable store.

    Args:
        all_splits: those that the data set has; if the recipe's store is portable, all that it is
            to have must exist.
    """
    if recipe.store.portable:
        return samples_by_split(recipe, samples)
    names = {"train", *(() if recipe.data.reader == "folder" else recipe.store.splits)}
    return {name: held for name, held in all_splits.items() if name in names}


def student_epochs(recipe: Recipe) -> int:
    """Epochs of the student that is trained longest, among the distilled ones if there are any."""
    students = [recipe.student_named(name) for name in recipe.student_names]
    distilled = [student for student in students if student.alpha > 0]
    return max(student.epochs for student in distilled or students)


def keep_views(work: WorkDir, views: int) -> None:
    """Set `store.views` in the work directory's own recipe."""
    recipe = apply_overrides(work.read_kept(), [f"store.views={views}"])
    work.write_kept(recipe.model_dump(mode="json"))
