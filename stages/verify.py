"""Beside the stages: verify a heatmap store and repair its missing and damaged shards.

    fpd verify-cache -w work/demo --samples 256
    fpd verify-cache -w work/demo --deep --repair

Reads the data set, `heatmaps.zarr`, and the teacher (without one, stored heatmaps are not compared
with its output). Writes, with `repair`, the shards that were missing or damaged.

Shape letters: B stored views in a batch, P augmentation parameters.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch

from ..data.datasets import Split
from ..data.samples import SampleSet
from ..data.sections import STORE_READER
from ..pipeline.caching.compare import ROUNDING, differences
from ..pipeline.caching.fill import fill
from ..pipeline.caching.fill_splits import fill_splits, samples_by_split
from ..pipeline.caching.inputs import StoreInputs
from ..pipeline.config.recipe import Recipe, stored_views
from ..pipeline.models.predictor import input_crop, teacher_input
from ..pipeline.runtime.loader import make_loader
from ..pipeline.runtime.text import pluralize
from ..pipeline.store import (
    CachedHeatmaps,
    Layout,
    Storage,
    StoreReader,
    StoreWriter,
    check_canaries,
    check_manifest,
    coverage,
    make_manifest,
    open_storage,
    read_manifest,
    served_layout,
)
from ..pipeline.store.data_card import write_data_card
from ..pipeline.store.dataset import load_samples, portable_store
from ..pipeline.store.manifest import STORED_SPLITS, ManifestError, has_shards
from ..pipeline.store.match import views_of
from ..pipeline.store.restore import restored_group, restored_manifest
from ..pipeline.store.schema import SPLIT_RECEIPTS, receipt_name
from ..pipeline.store.storage import StoragePart
from ..pipeline.store.verify import (
    CheckedView,
    Examination,
    SampleView,
    Verification,
    examine_store,
    spread,
)
from ..pipeline.teachers import CodeNotAllowed, HeatmapSource, expected_entry, find_teacher
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

COPY_AGAIN = (
    "to repair it takes the photographs: copy the store again from where it was made, or repair it "
    "there"
)
"""What mends a portable store where there is no data set."""

LEAST_COMPARED = 16
"""Views that are compared with the teacher's output before a lost manifest is restored."""


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    sample_count: int = 64,
    deep: bool = False,
    repair: bool = False,
    allow_code: bool = False,
) -> Verification:
    """Verify a store; with `repair`, make its missing and damaged shards again first.

    Args:
        sample_count: stored views of single samples to compare with the live teacher's output.
        deep: read every file and compare it with its receipt; otherwise only file sizes are
            checked, and the content of the `sample_count` views.
        repair: needs the teacher if a shard is missing or damaged.
        allow_code: run teachers that the recipe names as Python code (`package.module:factory`).

    Raises:
        ValueError: there is no store, it was made for another run or from other pixels, another
            process is writing it, or a repair needs a teacher that is missing.
        Interrupted: a repair was stopped by a signal; finished shards are kept.
    """
    store = open_storage(work.store_location(recipe))
    manifest_is_lost = _manifest_is_lost(store, work, recipe, repair=repair)
    samples = _load_samples(work, recipe)
    layout = None if manifest_is_lost else _check_store(store, work, recipe, samples)
    teacher = _find_teacher(
        work, recipe, samples, needed=sample_count > 0 or repair, allow_code=allow_code
    )
    inputs = None if teacher is None else StoreInputs(teacher, recipe, samples, device)
    not_compared = _why_not_compared(inputs)
    if layout is None:
        _restore_manifest(store, work, recipe, inputs, sample_count)
        layout = _check_store(store, work, recipe, samples)

    examine = partial(
        examine_store,
        store,
        layout,
        sample_count=sample_count,
        parameters=stored_views(recipe, samples).parameters if deep else None,
    )
    before = after = examine()
    if manifest_is_lost:  # restored, but without what `finish` writes into it
        before.damaged_metadata["zarr.json"] = store.read("zarr.json")
    if repair and before.is_damaged:
        _repair(store, work, recipe, samples, before, inputs)
        after = examine()
    compared_views = None
    if inputs is not None and not_compared is None:
        compared_views = _compare_with_teacher(
            after.cached_heatmaps, inputs, StoreReader(store, layout)
        )
    return Verification(
        location=str(store),
        work=work.command_options(recipe),
        layout=layout,
        ids=tuple(samples.ids),
        damaged_metadata=sorted(before.damaged_metadata),
        damages=before.damages,
        repaired=before.is_damaged and not after.is_damaged,
        compared_views=compared_views,
        not_compared=not_compared,
        bound=recipe.store.max_error + ROUNDING,
        deep=deep,
    )


def _load_samples(work: WorkDir, recipe: Recipe) -> SampleSet:
    """The training samples.

    Raises:
        ValueError: as `load_samples`; where they are the store's own, only a copy repairs them.
    """
    if recipe.data.reader != STORE_READER:
        return load_samples(work, recipe, "train")
    portable_store(work, recipe)  # its errors name what is to be done
    try:
        return load_samples(work, recipe, "train")
    except ValueError as error:
        reason = str(error).partition("; repair it with")[0]
        raise ValueError(f"{reason}; {COPY_AGAIN}") from None


def _find_teacher(
    work: WorkDir, recipe: Recipe, samples: SampleSet, *, needed: bool, allow_code: bool
) -> HeatmapSource | None:
    """The teacher to compare with and to repair with; None: its files are missing.

    Args:
        needed: whether it will be run, so that code that is not allowed cannot be left out.

    Raises:
        ValueError: it cannot be loaded, or is code that is not allowed.
    """
    try:
        return find_teacher(work.teacher, recipe, samples.skeleton, allow_code=allow_code)
    except CodeNotAllowed as error:
        if needed:
            raise ValueError(f"{error}; --samples 0 checks the files alone") from None
        return None


def _why_not_compared(inputs: StoreInputs | None) -> str | None:
    """Why stored heatmaps are not compared with the teacher's output; None: they are."""
    if inputs is None:
        return "none in the work directory"
    has_own_crops = input_crop(inputs.predictor) is not None
    if has_own_crops and inputs.recipe.data.reader == STORE_READER:
        return "its own crops are cut from photographs"
    return None


def _manifest_is_lost(store: Storage, work: WorkDir, recipe: Recipe, *, repair: bool) -> bool:
    """Whether the manifest is to be restored.

    Raises:
        ValueError: there is no store, or its manifest is damaged and `repair` is not set or cannot
            restore it.
    """
    work_options = work.command_options(recipe)
    if not store.exists() and not has_shards(store):
        raise ValueError(f"{store} is missing: run `fpd cache-heatmaps -w {work_options}`")
    try:
        read_manifest(store, work_options)
    except ManifestError as error:
        if recipe.data.reader == STORE_READER:
            reason = str(error).partition("; restore its manifest")[0]
            raise ValueError(f"{reason}; {COPY_AGAIN}") from None
        if repair and has_shards(store):
            return True
        raise
    return False


def _restore_manifest(
    store: Storage,
    work: WorkDir,
    recipe: Recipe,
    inputs: StoreInputs | None,
    sample_count: int,
) -> None:
    """Write the manifest again, after comparing views with the teacher's output.

    Raises:
        ValueError: there is no teacher, or the shards are not its heatmaps of this run's views.
    """
    if inputs is None:
        location = ", ".join(recipe.store.teachers) or work.teacher.path
        raise ValueError(
            f"{store} has no manifest, and {location} no finished teacher to compare its shards "
            "with: restore the teacher that made the store, and run the same command again"
        )
    work_options = work.command_options(recipe)
    samples = inputs.samples
    expected = make_manifest(recipe, samples, inputs.teacher.entry)
    held_out: tuple[Split, ...] = ("validation", "test")
    for split in held_out:
        if StoragePart(store, split).has_any(""):
            expected[STORED_SPLITS][split] = load_samples(work, recipe, split).fingerprint()
    manifest, layout = restored_manifest(store, expected, samples, recipe.store.views)
    missing = set(coverage(store, layout).missing)
    complete = [task for task in layout.tasks() if task not in missing]
    reader = StoreReader(store, layout, work_options, own_layout=True)
    count = max(sample_count, LEAST_COMPARED)
    cached_heatmaps = _read_intact(reader, spread(layout, complete, count))
    compared = _compare_with_teacher(cached_heatmaps, inputs, reader)
    wrong = sum(not view.error <= recipe.store.max_error + ROUNDING for view in compared)
    if wrong or (complete and not compared):
        what = "none of its views can be read"
        if wrong:
            what = f"{wrong} of {len(compared)} views do not match the teacher's output"
        raise ValueError(
            f"{store} has no manifest, and {what}: it was made for another run; move it away, and "
            f"make a new one with `fpd cache-heatmaps -w {work_options}`"
        )
    views = views_of(recipe, samples, reader)
    check_canaries(store, layout, views, manifest, work_options, readable_only=True)
    with store.locked():
        store.write("zarr.json", restored_group(manifest, layout))


def _read_intact(reader: StoreReader, views: list[SampleView]) -> dict[SampleView, CachedHeatmaps]:
    """Those of some views that can be read."""
    cached_heatmaps: dict[SampleView, CachedHeatmaps] = {}
    for view, index in views:
        with suppress(ValueError):
            cached_heatmaps[view, index] = reader.read(view, index)
    return cached_heatmaps


def _check_store(store: Storage, work: WorkDir, recipe: Recipe, samples: SampleSet) -> Layout:
    """Check manifest and canaries, and return the part of the store that this run uses.

    Raises:
        ValueError: it was made for another run or from other pixels.
    """
    work_options = work.command_options(recipe)  # what follows `-w` in the messages' commands
    manifest = read_manifest(store, work_options)
    expected = _expected_manifest(work, recipe, samples, manifest)
    check_manifest(store, expected, manifest, work_options)
    layout = served_layout(expected, manifest, recipe.store.views)
    views = views_of(recipe, samples, StoreReader(store, layout, work_options))
    check_canaries(store, layout, views, manifest, work_options, readable_only=True)
    return layout


def _expected_manifest(
    work: WorkDir, recipe: Recipe, samples: SampleSet, manifest: dict[str, Any]
) -> dict[str, Any]:
    """The manifest that this run needs. Without a teacher to compare with, `manifest`'s own teacher
    is taken as the right one.
    """
    return make_manifest(recipe, samples, expected_entry(work.teacher, recipe, manifest))


def _repair(
    store: Storage,
    work: WorkDir,
    recipe: Recipe,
    samples: SampleSet,
    examination: Examination,
    inputs: StoreInputs | None,
) -> None:
    """Write damaged metadata again, and have the teacher make damaged shards again.

    Raises:
        ValueError: a shard is to be made again, and there is no teacher.
    """
    damaged_shards = sorted({(d.view, d.shard) for d in examination.damages if not d.split})
    damaged_splits = sorted({(d.split, d.shard) for d in examination.damages if d.split})
    if recipe.data.reader == STORE_READER and (damaged_shards or damaged_splits):
        raise ValueError(
            f"{store} has {pluralize(len(damaged_shards) + len(damaged_splits), 'damaged shard')}; "
            f"{COPY_AGAIN}"
        )
    if damaged_shards and inputs is None:
        location = ", ".join(recipe.store.teachers) or work.teacher.path
        raise ValueError(
            f"{location} has no finished teacher to make "
            f"{pluralize(len(damaged_shards), 'shard')} of {store} again: restore the teacher that "
            "made the store, and run the same command again"
        )
    with store.locked():
        for name, content in examination.damaged_metadata.items():
            store.write(name, content)
        manifest = _expected_manifest(work, recipe, samples, read_manifest(store))
        writer = StoreWriter(
            store, manifest, recipe.store.views, work.command_options(recipe), samples=samples
        )
        for split, shard in damaged_splits:
            StoragePart(store, split).delete(receipt_name(0, shard, SPLIT_RECEIPTS))
        if damaged_splits:
            splits = samples_by_split(recipe, samples)
            fill_splits(store, recipe, splits, work.command_options(recipe))
        if inputs is not None and damaged_shards:
            log.info(
                "making %d of %d shards again", len(damaged_shards), len(writer.layout.tasks())
            )
            fill(writer, damaged_shards, inputs)
        writer.finish()
        write_data_card(store, recipe.store.license)


def _compare_with_teacher(
    cached_heatmaps: dict[SampleView, CachedHeatmaps],
    inputs: StoreInputs,
    reader: StoreReader,
) -> list[CheckedView]:
    """Run the teacher on stored views and compare; the largest errors first."""
    recipe, samples, predictor = inputs.recipe, inputs.samples, inputs.predictor
    views = views_of(recipe, samples, reader, input_crop(predictor))
    keys = [(index, view) for view, index in cached_heatmaps]
    batch_size = recipe.store.batch_size
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    loader = make_loader(
        views,
        batches,
        inputs.device,
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    )
    checked_views: list[CheckedView] = []
    with torch.inference_mode():
        for batch_keys, batch in zip(batches, loader, strict=True):
            stored = [cached_heatmaps[view, index] for index, view in batch_keys]
            error_B, displacement_B = differences(stored, predictor(*teacher_input(batch)))
            stored_parameters_BP = torch.from_numpy(np.stack([view.parameters for view in stored]))
            same_crop_B = (stored_parameters_BP == batch["parameters"]).all(dim=1)
            error_B[~same_crop_B] = torch.inf
            checked_views += [
                CheckedView(view, samples.ids[index], error, displacement)
                for (index, view), error, displacement in zip(
                    batch_keys, error_B.tolist(), displacement_B.tolist(), strict=True
                )
            ]
    return sorted(checked_views, key=lambda checked: -checked.error)
