"""Between stages 2 and 3: merge stores of one teacher, data set and settings that were made apart.

    fpd cache-heatmaps --only-views 0-3 -w work/a      on one cluster
    fpd cache-heatmaps --only-views 4-7 -w work/b      on another
    fpd merge-caches work/a/heatmaps.zarr work/b/heatmaps.zarr -w work/joined

Reads the given stores. Writes `heatmaps.zarr`, byte for byte the store that one run would have
made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from ..pipeline.config.recipe import Recipe
from ..pipeline.runtime.interrupt import Interrupted, stop_requested
from ..pipeline.runtime.text import pluralize
from ..pipeline.store import Storage, StoreWriter, open_storage, stored_layout
from ..pipeline.store.data_card import write_data_card
from ..pipeline.store.merge import Copy, common_manifest, copy_shard, merge_splits, plan_copies
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

STOPPED = "merge-caches stopped; finished shards are kept, the same command copies the rest"

CONCURRENT_COPIES = 8
"""Object stores take tens of milliseconds a request, and serve many at once."""


def run(work: WorkDir, recipe: Recipe, locations: Sequence[str]) -> dict[str, Any]:
    """Copy the shards that the sources have and the work directory's store lacks.

    Args:
        locations: paths or fsspec URLs of the source stores, which are only read.

    Returns:
        "location", "views" and "samples" of the merged store; shards "copied" now, "present" now,
        and needed in all ("shards"); "bytes" and "encoding_error" of those present.

    Raises:
        ValueError: no source is given; a source is no store, differs in a setting that decides its
            content, has another content for a shard that another store has, or is damaged; or
            another process is writing the target.
        Interrupted: after SIGINT or SIGTERM; finished shards are kept.
    """
    if not locations:
        raise ValueError("expected at least one store to merge from, such as work/a/heatmaps.zarr")
    sources = [_source_store(location, work) for location in locations]
    target = open_storage(work.store_location(recipe))
    with target.locked():
        existing = target if target.exists() else None
        stores = sources if existing is None else [existing, *sources]
        manifest = common_manifest(stores)
        copies = plan_copies(sources, existing)
        views = max(stored_layout(store).views for store in stores)
        writer = StoreWriter(target, manifest, views, work.command_options(recipe))
        merge_splits(target, manifest, work.command_options(recipe))
        log.info("copying %s", pluralize(len(copies), "shard"))
        _copy_all(copies, target)
        coverage = writer.finish()
        write_data_card(target, recipe.store.license)
    return {
        "location": str(target),
        "views": views,
        "samples": writer.layout.samples,
        "copied": len(copies),
        "present": len(coverage.receipts),
        "shards": coverage.total,
        "bytes": coverage.bytes(),
        "encoding_error": coverage.encoding_error(),
    }


def _source_store(location: str, work: WorkDir) -> Storage:
    """Open a source store.

    Raises:
        ValueError: there is none; for a work directory, the message names the store inside it.
    """
    store = open_storage(location)
    if not store.exists():
        inside = f"{location.rstrip('/')}/{work.store.name}"
        hint = f": name the store itself, {inside}" if open_storage(inside).exists() else ""
        raise ValueError(f"expected a heatmap store at {location}, found none{hint}")
    return store


def _copy_all(copies: Sequence[Copy], target: Storage) -> None:
    """Copy shards, several at once.

    Raises:
        Interrupted: after a signal; copies that had begun are finished.
    """
    with (
        stop_requested() as stop,
        tqdm(
            total=len(copies), desc="merge-caches", unit="shard", leave=False, disable=None
        ) as progress_bar,
        ThreadPoolExecutor(CONCURRENT_COPIES, "copier") as threads,
    ):

        def copy_unless_stopped(copy: Copy) -> None:
            if stop.is_set():
                raise Interrupted(STOPPED, stop.signal)
            copy_shard(copy, target)

        for _ in threads.map(copy_unless_stopped, copies):
            progress_bar.update()
