"""How many of a store's shards are mixed at a time (`loader.shuffle_shards`), decided here alone.

An order over the whole epoch reads from all shards at once: a shard that is not kept open or cached
is fetched again for almost every view. An order that stays within a few shards fetches each of them
once an epoch.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from ..config.sections import Loader
from ..runtime.text import format_bytes
from ..store import Layout, StoreReader
from ..store.manifest import AUDIT, Manifest
from ..store.reader import CACHE_BYTES, INDEX_ENTRY_BYTES
from .sampler import ShardWindow

log = logging.getLogger("fpd")

AUTO_SHARDS = 16
"""Much more than the 250 views that made no difference (docs/store.md, "Effect of the order")."""


def choose_window(loader: Loader, store: StoreReader, manifest: Manifest) -> ShardWindow | None:
    """The shards to mix at a time when training from a store; None: those of the whole epoch.

    Logs a warning if a remote store's shards do not fit the cache in the order that is set.

    Args:
        manifest: of the store; its audit states the size of the shards.
    """
    layout = store.layout
    total = layout.views * layout.shards
    shards = loader.shuffle_shards
    if shards == "auto":
        shards = _auto_shards(loader, store, manifest)
    elif not store.storage.is_local:
        _warn_if_too_many(loader, total if shards == "all" else min(shards, total), manifest)
    if shards == "all" or shards >= total:
        return None
    samples_per_shard = [len(layout.rows(shard)) for shard in range(layout.shards)]
    numbers = np.arange(layout.shards, dtype=np.int32)
    return ShardWindow(np.repeat(numbers, samples_per_shard), shards)


def _auto_shards(loader: Loader, store: StoreReader, manifest: Manifest) -> Any:
    """What `auto` stands for: "all" or a number of shards."""
    if store.storage.is_local:
        layout = store.layout
        open_bytes = layout.views * layout.shards * _open_shard_bytes(layout)
        return "all" if open_bytes <= CACHE_BYTES else AUTO_SHARDS
    # Twice: some processes are in the next window already while others are still in this one.
    fitting = _cache_bytes(loader) / (2 * _mean_shard_bytes(manifest))
    return AUTO_SHARDS if fitting >= AUTO_SHARDS else max(1, math.floor(fitting))


def _open_shard_bytes(layout: Layout) -> int:
    """Memory of a local shard that a reader keeps open: its small arrays, and the indices."""
    return layout.shard_samples * sum(
        INDEX_ENTRY_BYTES if spec.sharded else math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        for spec in layout.specs.values()
    )


def _warn_if_too_many(loader: Loader, shards: int, manifest: Manifest) -> None:
    needed, cache_bytes = shards * _mean_shard_bytes(manifest), _cache_bytes(loader)
    if needed > cache_bytes:
        log.warning(
            "warning: loader.shuffle_shards mixes %s of shards, and the cache holds %s: they are "
            "fetched again and again; choose fewer shards, or a larger --cache-size",
            format_bytes(needed),
            format_bytes(cache_bytes),
        )


def _cache_bytes(loader: Loader) -> int:
    """What is kept of a remote store: on disk, or in each process's memory."""
    return CACHE_BYTES if loader.cache_dir is None else loader.cache_bytes


def _mean_shard_bytes(manifest: Manifest) -> float:
    """Mean size of a shard's files; 1 for a store without an audit, whose size is not known."""
    audit: Any = manifest.get(AUDIT)
    try:
        return max(1.0, float(audit["bytes"] / audit["shards"]))
    except (KeyError, TypeError, ArithmeticError):
        return 1.0


def order_inputs(window: ShardWindow | None, layout: Layout) -> dict[str, Any]:
    """What an order within few shards depends on, for a run's identity; {} for a whole epoch's."""
    if window is None:
        return {}
    return {
        "order": {
            "shuffle_shards": window.shards,
            "shard_samples": layout.shard_samples,
            "segments": list(layout.segments),
        }
    }
