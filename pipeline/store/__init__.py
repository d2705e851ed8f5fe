"""The heatmap store: a Zarr v3 group of the teacher's heatmaps of seeded views (docs/store.md).

`schema` defines the arrays and `manifest` what they must match. `compression` encodes and decodes
heatmaps. `storage` defines how objects are read and written, `local_storage` and `remote_storage`
do so, `location` chooses, and `disk_cache` keeps remote shards. `writer` writes shards, `splits`
the samples of a portable store; `coverage` determines which shards are complete, `canaries` whether
views are still cut from the same pixels, `match` whether a store holds what a run needs, `dataset`
where its samples are. `reader` reads single views, and `read_heatmaps` there is the call for other
programs. `verify` finds damage, `restore` makes a lost manifest again, `merge` joins stores that
were made separately, and `data_card` describes a portable one.
"""

from .canaries import check_canaries
from .compression import CompressedHeatmaps, compress, decompress
from .coverage import Coverage, Receipt, check_complete, complete_receipt, coverage, shard_bytes
from .location import open_storage
from .manifest import (
    check_manifest,
    layout_of,
    make_manifest,
    read_manifest,
    served_layout,
    stored_layout,
)
from .reader import CachedHeatmaps, StoreReader, read_heatmaps
from .schema import Layout
from .storage import Storage
from .writer import Shard, StoreWriter, write_shard

__all__ = [
    "CachedHeatmaps",
    "CompressedHeatmaps",
    "Coverage",
    "Layout",
    "Receipt",
    "Shard",
    "Storage",
    "StoreReader",
    "StoreWriter",
    "check_canaries",
    "check_complete",
    "check_manifest",
    "complete_receipt",
    "compress",
    "coverage",
    "decompress",
    "layout_of",
    "make_manifest",
    "open_storage",
    "read_heatmaps",
    "read_manifest",
    "served_layout",
    "shard_bytes",
    "stored_layout",
    "write_shard",
]
