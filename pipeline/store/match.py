"""Whether a store holds what a run needs."""

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
from .storage import Files, store_files


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet, teacher: TeacherEntry
) -> tuple[StoreReader, Manifest]:
    """The recipe's store and its manifest, if it holds what a run needs.

    Args:
        samples: of the run.
        teacher: what the manifest must state of the teacher (`teachers.expected_entry`).

    Raises:
        ValueError: the store is missing, was made for another run, is incomplete, or was made from
            other pixels; the message names the command that repairs it.
    """
    files = existing_store(work, recipe)
    found = read_manifest(files)
    expected = make_manifest(recipe, samples, teacher)
    check_manifest(files, expected, found, work.named(recipe))
    layout = served_layout(expected, found, recipe.store.views)
    check_complete(files, layout, work.named(recipe))
    check_canaries(files, layout, stored_views(recipe, samples), found, work.named(recipe))
    return StoreReader(files, layout, work.named(recipe)), found


def existing_store(work: WorkDir, recipe: Recipe) -> Files:
    """Where the recipe's store lies.

    Raises:
        ValueError: there is none.
    """
    files = store_files(work, recipe)
    if not files.exists():
        raise ValueError(f"{files} is missing: run `fpd cache-heatmaps -w {work.named(recipe)}`")
    return files
