"""Opens a store if it holds what a run needs."""

from __future__ import annotations

from ...data.samples import SampleSet
from ...data.views import TeacherCrop, Views
from ..config.recipe import Recipe, stored_views
from ..workdir import WorkDir
from .canaries import check_canaries
from .coverage import check_complete
from .disk_cache import with_disk_cache
from .location import open_storage
from .manifest import (
    Manifest,
    TeacherEntry,
    check_manifest,
    has_shards,
    make_manifest,
    read_manifest,
    served_layout,
)
from .reader import StoreReader, has_own_layout
from .schema import Layout
from .splits import StoredViews
from .storage import Storage


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet, teacher: TeacherEntry | None
) -> tuple[StoreReader, Manifest]:
    """A reader of the recipe's store, and its manifest, if the store holds what a run needs.

    Args:
        samples: of the run.
        teacher: what the manifest must state about the teacher (`teachers.expected_entry`); None:
            the run does not use its heatmaps.

    Raises:
        ValueError: the store is missing or incomplete, or was made for another run or from other
            pixels; the message names the command that repairs it.
    """
    storage = existing_store(work, recipe)
    work_options = work.command_options(recipe)
    manifest = read_manifest(storage, work_options)
    expected = make_manifest(recipe, samples, manifest["teacher"] if teacher is None else teacher)
    check_manifest(storage, expected, manifest, work_options)
    layout = served_layout(expected, manifest, recipe.store.views)
    _check_metadata(storage, layout, work_options)
    check_complete(storage, layout, work_options)
    reader = StoreReader(storage, layout, work_options)
    views = views_of(recipe, samples, reader)
    check_canaries(storage, layout, views, manifest, work_options)
    return reader, manifest


def views_of(
    recipe: Recipe, samples: SampleSet, reader: StoreReader, teacher_crop: TeacherCrop | None = None
) -> Views:
    """The views that a store's heatmaps are of: read from it, if it is portable, or cut again.

    Args:
        teacher_crop: as in `stored_views`; such crops are always cut from photographs.
    """
    views = stored_views(recipe, samples, teacher_crop)
    return StoredViews(views, reader) if reader.layout.crop_px and teacher_crop is None else views


def _check_metadata(storage: Storage, layout: Layout, work_options: str) -> None:
    """Refuse a store whose arrays have other types, chunks or codecs than fpd writes."""
    try:
        is_own = has_own_layout(storage, layout)
    except (OSError, ValueError, RecursionError):
        is_own = False
    if not is_own:
        raise ValueError(
            f"{storage} has damaged metadata (zarr.json of an array); repair it with "
            f"`fpd verify-cache -w {work_options} --repair`"
        )


def existing_store(work: WorkDir, recipe: Recipe) -> Storage:
    """The storage of the recipe's store, whose manifest can be read; with the recipe's disk cache.

    Raises:
        ValueError: there is no store, or its manifest is damaged.
    """
    storage = open_storage(work.store_location(recipe))
    work_options = work.command_options(recipe)
    if not storage.exists() and not has_shards(storage):
        raise ValueError(f"{storage} is missing: run `fpd cache-heatmaps -w {work_options}`")
    read_manifest(storage, work_options)
    return with_disk_cache(storage, recipe.loader.cache_dir, recipe.loader.cache_bytes)
