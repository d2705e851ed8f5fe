"""Stage 2: run the teacher once over every view, and keep what it says.

    fpd cache-heatmaps -w work/demo
    fpd cache-heatmaps -w work/demo --workers 4

In: the data set, `teacher/`, or the teachers that the recipe names. Out: `heatmaps.zarr`. Only
shards that are missing are made.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Any

import torch

from ..data.datasets import load
from ..data.samples import SampleSet
from ..pipeline.caching.driver import fill_on_cluster
from ..pipeline.caching.fill import fill
from ..pipeline.caching.plan import check_space
from ..pipeline.caching.worker import make_job
from ..pipeline.config.recipe import Recipe
from ..pipeline.runtime.dask_cluster import Workers, check_reachable
from ..pipeline.store import Coverage, Files, StoreWriter, make_manifest, store_files
from ..pipeline.teachers import HeatmapSource, compatibility_warnings, load_teacher
from ..pipeline.teachers.resolve import check_teacher
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    overwrite: bool = False,
    only_views: Container[int] | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Fill the store, or what is missing of it.

    Args:
        overwrite: remove a store that is there first.
        only_views: leave other view numbers to somebody else.
        workers: who makes the shards; none given: this process, on `device`.

    Returns:
        Sizes and errors: "views", "samples", "written" (shards), "bytes", "float16_bytes",
        "bytes_per_view", "encoding_error".

    Raises:
        ValueError: there is no finished teacher, the store was made for something else, another
            process is writing it, there is not enough free space, or workers could not be had or
            failed.
        Interrupted: after a signal; whole shards are kept.
    """
    check_teacher(work, recipe)
    samples = load(recipe.data, "train")
    source = load_teacher(work.teacher, recipe, samples.skeleton)
    manifest = make_manifest(recipe, samples, source.entry)
    for remark in compatibility_warnings(source.entry, recipe, samples.skeleton):
        log.info("%s", remark)
    files = store_files(work, recipe)
    with files.locked():
        check_space(
            work,
            recipe,
            samples,
            manifest,
            source,
            device,
            overwrite=overwrite,
            only_views=only_views,
        )
        work.keep_setting(recipe, "store", "teachers")
        if overwrite and files.exists():
            if workers is not None:
                check_reachable(workers, recipe.cluster)  # while nothing is lost yet
            files.remove()
        writer = StoreWriter(
            files, manifest, recipe.store.views, work.named(recipe), samples=samples
        )
        missing = [
            task
            for task in writer.coverage().missing
            if only_views is None or task[0] in only_views
        ]
        if missing:
            log.info("caching %d of %d shards", len(missing), len(writer.layout.tasks()))
            _make(work, recipe, samples, device, source, writer, missing, workers)
        found = writer.finish()
        _check_seen(files, missing, found)
    return {
        "views": recipe.store.views,
        "samples": len(samples),
        "written": len(missing),
        **_sizes(recipe.store.views * len(samples), writer.layout.float16_bytes, found),
        "encoding_error": found.measured(),
    }


def _make(
    work: WorkDir,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    source: HeatmapSource,
    writer: StoreWriter,
    missing: list[tuple[int, int]],
    workers: Workers | None,
) -> None:
    """Have shards made: by this process, or by a cluster's workers."""
    if workers is None:
        fill(writer, missing, source.predictor(device), recipe, samples, device)
        return
    writer.end_audit()
    job = make_job(work, recipe, writer.files, writer.manifest, workers)
    fill_on_cluster(workers, recipe.cluster, job, writer.layout, missing)


def _sizes(views: int, float16_bytes: int, found: Coverage) -> dict[str, float]:
    """Bytes of what is there of so many views, and what it would take in float16."""
    there = found.samples()
    return {
        "bytes": found.bytes(),
        "bytes_per_view": found.bytes() / max(1, there),
        "float16_bytes": float16_bytes * there // views,
    }


def _check_seen(files: Files, made: list[tuple[int, int]], found: Coverage) -> None:
    """Refuse to call a store done that does not show what was written to it."""
    unseen = set(made) & set(found.missing)
    if unseen:
        raise ValueError(
            f"{files} does not show {len(unseen)} of {len(made)} shards that were written. Over a "
            "network, other machines' files may show late: give the same command in a minute; it "
            "looks again, and makes what is missing then"
        )
