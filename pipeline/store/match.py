"""Opens a store if it holds what a run needs."""

from __future__ import annotations

from ...data.samples import SampleSet
from ..config.recipe import Recipe, stored_views
from ..workdir import WorkDir
from .canaries import check_canaries
from .coverage import check_complete
from .manifest import (
    Manifest,
    TeacherEntry,
    check_manifest,
    make_manifest,
    read_manifest,
    served_layout,
)
from .reader import StoreReader
from .storage import Storage, open_storage


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet, teacher: TeacherEntry
) -> tuple[StoreReader, Manifest]:
    """A reader of the recipe's store, and its manifest, if the store holds what a run needs.

    Args:
        samples: of the run.
        teacher: what the manifest must state about the teacher (`teachers.expected_entry`).

    Raises:
        ValueError: the store is missing or incomplete, or was made for another run or from other
            pixels; the message names the command that repairs it.
    """
    storage = existing_store(work, recipe)
    work_options = work.command_options(recipe)
    manifest = read_manifest(storage)
    expected = make_manifest(recipe, samples, teacher)
    check_manifest(storage, expected, manifest, work_options)
    layout = served_layout(expected, manifest, recipe.store.views)
    check_complete(storage, layout, work_options)
    check_canaries(storage, layout, stored_views(recipe, samples), manifest, work_options)
    return StoreReader(storage, layout, work_options), manifest


def existing_store(work: WorkDir, recipe: Recipe) -> Storage:
    """The storage of the recipe's store.

    Raises:
        ValueError: there is no store.
    """
    storage = open_storage(work.store_location(recipe))
    if not storage.exists():
        raise ValueError(
            f"{storage} is missing: run `fpd cache-heatmaps -w {work.command_options(recipe)}`"
        )
    return storage
