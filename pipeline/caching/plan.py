"""Size and time of a heatmap store, and when it pays off, before anything is written.

A pilot run of a few dozen views through teacher and encoder measures bytes and seconds per view.
The rest is arithmetic:

    bytes              = existing + missing views x bytes per view (+ padding, receipts, metadata)
    seconds            = missing views x caching time per view
    break-even epochs  = views x (caching time per view / teacher time per view)

The last compares with running the teacher online: one pass (two if flip-averaged) per sample and
epoch of every student. Filling the cache takes `views` passes per sample, once, and the time to
read, encode and compress them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import torch

from ...data.samples import SampleSet
from ..config.recipe import Recipe, apply_overrides
from ..runtime.text import format_bytes
from ..store import open_storage
from ..store.manifest import Manifest
from ..teachers import HeatmapSource
from ..workdir import WorkDir
from .pilot import Pilot, run_pilot
from .space import StoreStatus, added_bytes, empty_store_bytes, free_bytes, inspect_existing


@dataclass(frozen=True)
class Row:
    """A store with some number of views.

    Attributes:
        bytes: of the whole store, existing shards included.
        added_bytes, seconds: to write what is missing.
        break_even_epochs: epochs of students after which the cache has paid off.
    """

    views: int
    bytes: int
    added_bytes: int
    seconds: float
    break_even_epochs: float


@dataclass(frozen=True)
class Plan:
    """Size and time of a store, by its number of views.

    Attributes:
        status: of the existing store.
        recipe_views: the recipe's `store.views`.
        epochs: of the student that is trained longest, which sees at most as many views.
        free_bytes: on the disk of the store; None: unknown.
        metadata_bytes: size of an empty store; 0 if the store exists.
    """

    pilot: Pilot
    status: StoreStatus
    recipe_views: int
    epochs: int
    free_bytes: int | None
    metadata_bytes: int

    def row(self, views: int) -> Row:
        """Compute size and time of the store with a number of views."""
        missing = self.status.missing(views)
        added = self.metadata_bytes + added_bytes(missing, self.pilot.sizes, self.status.layout)
        return Row(
            views=views,
            bytes=self.status.bytes + added,
            added_bytes=added,
            seconds=missing.samples * self.pilot.cache_s,
            break_even_epochs=break_even_epochs(views, self.pilot.cache_s, self.pilot.teacher_s),
        )

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
    work: WorkDir,
    recipe: Recipe,
    samples: SampleSet,
    manifest: Manifest,
    source: HeatmapSource,
    device: torch.device,
    *,
    overwrite: bool = False,
) -> Plan:
    """Inspect the existing store, if any, and run a pilot.

    Args:
        overwrite: plan for a new store, which replaces the existing one.

    Raises:
        ValueError: the existing store was made for another run.
    """
    storage = open_storage(work.store_location(recipe))
    work_options = work.command_options(recipe)
    status = inspect_existing(storage, manifest, samples, work_options, overwrite=overwrite)
    free = free_bytes(storage)
    return Plan(
        pilot=run_pilot(source.predictor(device), recipe, samples, status.layout, device),
        status=status,
        recipe_views=recipe.store.views,
        epochs=student_epochs(recipe),
        free_bytes=None if free is None else free + status.freed_bytes,
        metadata_bytes=0 if status.bytes else empty_store_bytes(status.layout, manifest),
    )


def student_epochs(recipe: Recipe) -> int:
    """Epochs of the student that is trained longest, among the distilled ones if there are any."""
    students = [recipe.student_named(name) for name in recipe.student_names]
    distilled = [student for student in students if student.alpha > 0]
    return max(student.epochs for student in distilled or students)


def keep_views(work: WorkDir, views: int) -> None:
    """Set `store.views` in the work directory's own recipe."""
    recipe = apply_overrides(work.read_kept(), [f"store.views={views}"])
    work.write_kept(recipe.model_dump(mode="json"))
