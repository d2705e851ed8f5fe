"""Between stages: join stores of one teacher, data set and settings that were made apart.

    fpd cache-heatmaps --only-views 0-3 -w work/a      on one cluster
    fpd cache-heatmaps --only-views 4-7 -w work/b      on another
    fpd merge-caches work/a/heatmaps.zarr work/b/heatmaps.zarr -w work/joined

In: stores. Out: `heatmaps.zarr`, byte for byte the store that one run would have made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from ..pipeline.config.recipe import Recipe
from ..pipeline.runtime.interrupt import Interrupted, stop_requested
from ..pipeline.store import Files, StoreWriter, files_at, store_files, stored_layout
from ..pipeline.store.merge import Copy, common_manifest, copy_shard, plan_copies
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

STOPPED = "merge-caches stopped; whole shards are kept, the same command copies the rest"

COPIES_AT_ONCE = 8
"""Object stores answer in tens of milliseconds, many requests at a time."""


def run(work: WorkDir, recipe: Recipe, locations: Sequence[str]) -> dict[str, Any]:
    """Copy into the work directory's store what it lacks and the sources have.

    Args:
        locations: paths or fsspec URLs of stores; they are only read.

    Returns:
        "location", "views", "samples", shards "copied" now, "present" now and called for
        ("shards"), "bytes", "encoding_error".

    Raises:
        ValueError: there is no source; one is no store, differs in what decides its content, has
            other content for a shard that another has, or is damaged; another process is writing
            the target.
        Interrupted: after a signal; whole shards are kept.
    """
    if not locations:
        raise ValueError("expected at least one store to merge from, such as work/a/heatmaps.zarr")
    sources = [_source(location, work) for location in locations]
    files = store_files(work, recipe)
    with files.locked():
        there = files if files.exists() else None
        stores = sources if there is None else [there, *sources]
        manifest = common_manifest(stores)
        copies = plan_copies(sources, there)
        views = max(stored_layout(store).views for store in stores)
        writer = StoreWriter(files, manifest, views, work.named(recipe))
        log.info("copying %d of %d shards", len(copies), len(writer.layout.tasks()))
        _copy_all(copies, files)
        found = writer.finish()
    return {
        "location": str(files),
        "views": views,
        "samples": writer.layout.samples,
        "copied": len(copies),
        "present": len(found.receipts),
        "shards": found.total,
        "bytes": found.bytes(),
        "encoding_error": found.measured(),
    }


def _source(location: str, work: WorkDir) -> Files:
    files = files_at(location)
    if not files.exists():
        inside = f"{location.rstrip('/')}/{work.store.name}"
        hint = f": name the store itself, {inside}" if files_at(inside).exists() else ""
        raise ValueError(f"expected a heatmap store at {location}, found none{hint}")
    return files


def _copy_all(copies: Sequence[Copy], target: Files) -> None:
    with (
        stop_requested() as stop,
        tqdm(
            total=len(copies), desc="merge-caches", unit="shard", leave=False, disable=None
        ) as bar,
        ThreadPoolExecutor(COPIES_AT_ONCE, "copier") as copiers,
    ):

        def copy_unless_stopped(copy: Copy) -> None:
            if stop.is_set():
                raise Interrupted(STOPPED, stop.signal)
            copy_shard(copy, target)

        for _ in copiers.map(copy_unless_stopped, copies):
            bar.update()
