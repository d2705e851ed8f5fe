"""Stage 2: run the teacher once over every view and store its heatmaps.

    fpd cache-heatmaps -w work/demo
    fpd cache-heatmaps -w work/demo --workers 4

Reads the data set and the teacher: `teacher/`, or the external teachers that the recipe names.
Writes `heatmaps.zarr`.

A *view* is one augmented crop of a training sample; each sample has `store.views` of them, numbered
from 0. A *shard* holds one view number of `store.shard_samples` consecutive samples: it is one file
an array, written whole, and counts only with the receipt that is written after it. So the command
may be stopped at any moment; run again, it makes the missing shards alone.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import torch

from ..data.datasets import load
from ..data.samples import SampleSet
from ..pipeline.caching.driver import fill_on_cluster
from ..pipeline.caching.fill import fill
from ..pipeline.caching.fill_splits import fill_splits, samples_by_split
from ..pipeline.caching.inputs import StoreInputs
from ..pipeline.caching.space import check_space
from ..pipeline.caching.spot_check import make_spot_checker
from ..pipeline.caching.worker import Job, make_job
from ..pipeline.config.recipe import Recipe
from ..pipeline.runtime.dask_cluster import Workers, check_reachable
from ..pipeline.store import Coverage, Storage, StoreWriter, make_manifest, open_storage
from ..pipeline.store.data_card import write_data_card
from ..pipeline.store.manifest import Manifest
from ..pipeline.teachers import compatibility_warnings, load_teacher
from ..pipeline.teachers.resolve import check_teacher
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

KEPT_SETTINGS = (
    "teachers",
    "teacher_crops",
    "teacher_alignment",
    "portable",
    "crop_quality",
    "splits",
    "source_names",
)
"""Settings of the store that later commands in the work directory need as well."""


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    overwrite: bool = False,
    only_views: Container[int] | None = None,
    workers: Workers | None = None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Make the store's missing shards.

    Args:
        device: where the teacher runs, unless `workers` run it.
        overwrite: remove an existing store first.
        only_views: make shards of these view numbers alone; None: of all.
        workers: processes of a Dask cluster that make the shards; None: this process makes them.
        allow_code: run teachers that the recipe names as Python code (`package.module:factory`).

    Returns:
        "views" and "samples" of the store; "complete_views", how many of the views have all their
        shards; "written", the number of shards made now; "bytes",
        "bytes_per_view" and "float16_bytes" (the same maps as raw float16) of all shards that
        exist; "encoding_error", the errors measured while they were written; "portable", the number
        of samples by split in a portable store (none in another).

    Raises:
        ValueError: there is no finished teacher, the store was made for another run, another
            process is writing it, the disk has too little free space, or the Dask cluster cannot
            be reached or failed.
        Interrupted: after SIGINT or SIGTERM; finished shards are kept.
    """
    inputs, splits, manifest = _load(work, recipe, device, allow_code=allow_code)
    store = open_storage(work.store_location(recipe))
    with store.locked():  # one writing process a store
        # Check: an existing store has this manifest, the disk has space, workers can be reached.
        check_space(
            work, inputs, manifest, splits=splits, overwrite=overwrite, only_views=only_views
        )
        if overwrite and store.exists() and workers is not None:
            check_reachable(workers, recipe.cluster)  # before the existing store is removed
        for setting in KEPT_SETTINGS:
            work.keep_setting(recipe, "store", setting)
        if overwrite and store.exists():
            store.remove()
        options, samples = work.command_options(recipe), inputs.samples
        # Creates the store, or opens and if necessary enlarges it.
        writer = StoreWriter(store, manifest, recipe.store.views, options, samples=samples)
        fill_splits(store, recipe, splits, options)

        # Work and write: each missing shard, by its (view, shard) numbers.
        missing_shards = [
            (view, shard)
            for view, shard in writer.coverage().missing
            if only_views is None or view in only_views
        ]
        if missing_shards:
            log.info("caching %d of %d shards", len(missing_shards), len(writer.layout.tasks()))
            if workers is None:
                fill(writer, missing_shards, inputs)
            else:
                job = make_job(work, recipe, store, writer.manifest, workers, allow_code=allow_code)
                _fill_on_cluster(writer, missing_shards, inputs, workers, job)
        coverage = writer.finish()  # checks every shard, and writes the totals to the manifest
        _check_visible(store, missing_shards, coverage)
        write_data_card(store, recipe.store.license)  # of a complete portable store
    return _report(coverage, missing_shards, splits)


class _Loaded(NamedTuple):
    """What a store is made from.

    Attributes:
        splits: the samples of each split that a portable store is to have; {} for another.
        manifest: that the store must have: it describes all that decides the heatmaps.
    """

    inputs: StoreInputs
    splits: dict[str, SampleSet]
    manifest: Manifest


def _load(work: WorkDir, recipe: Recipe, device: torch.device, *, allow_code: bool) -> _Loaded:
    """Load data set and teacher, and log how well they fit each other.

    Raises:
        ValueError: there is no finished teacher, or one of them cannot be used.
    """
    check_teacher(work, recipe, allow_code=allow_code)  # before the data set, which takes longer
    samples = load(recipe.data, "train")
    teacher = load_teacher(work.teacher, recipe, samples.skeleton, allow_code=allow_code)
    manifest = make_manifest(recipe, samples, teacher.entry)
    splits = samples_by_split(recipe, samples) if recipe.store.portable else {}
    for warning in compatibility_warnings(teacher.entry, recipe, samples.skeleton):
        log.info("%s", warning)
    return _Loaded(StoreInputs(teacher, recipe, samples, device), splits, manifest)


def _fill_on_cluster(
    writer: StoreWriter,
    missing_shards: list[tuple[int, int]],
    inputs: StoreInputs,
    workers: Workers,
    job: Job,
) -> None:
    """Have a cluster's workers make shards, each worker after a check by this process's teacher."""
    writer.end_audit()  # until `finish`, the manifest does not call the store complete
    checker = make_spot_checker(inputs, writer.layout, missing_shards)
    fill_on_cluster(workers, inputs.recipe.cluster, job, writer.layout, missing_shards, checker)


def _check_visible(store: Storage, written: list[tuple[int, int]], coverage: Coverage) -> None:
    """Refuse to report a store as done that does not list shards written a moment ago.

    Raises:
        ValueError: naming how many are not listed.
    """
    not_listed = set(written) & set(coverage.missing)
    if not_listed:
        raise ValueError(
            f"{store} does not list {len(not_listed)} of the {len(written)} shards just written. "
            "On a network file system, files written by other machines may appear late: run the "
            "same command again in a minute; it makes the shards that are still missing"
        )


def _report(
    coverage: Coverage, written: list[tuple[int, int]], splits: Mapping[str, SampleSet]
) -> dict[str, Any]:
    """The counts, sizes and errors that `run` returns.

    Args:
        written: (view, shard) of the shards made now.
    """
    layout, existing_views = coverage.layout, coverage.samples()
    return {
        "views": layout.views,
        "samples": layout.samples,
        "complete_views": layout.views - len({view for view, _ in coverage.missing}),
        "written": len(written),
        "bytes": coverage.bytes(),
        "bytes_per_view": coverage.bytes() / max(1, existing_views),
        "float16_bytes": layout.float16_bytes * existing_views // (layout.views * layout.samples),
        "encoding_error": coverage.encoding_error(),
        "portable": {name: len(held) for name, held in splits.items()},
    }
