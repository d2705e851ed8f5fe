"""The heatmap store: a chunked Zarr v3 group of seeded teacher heatmaps (docs/store.md).

`schema` has the arrays, `manifest` what they must match, `code` turns heatmaps into bytes and back,
`files` is where the bytes lie, `writer` makes shards, `coverage` says which are there, `canaries`
whether their pixels can be made again, `reader` gives single views back, `floats` anyone's.
"""

from .canaries import check_canaries
from .compression import CompressedHeatmaps, compress, decompress
from .coverage import Coverage, Receipt, check_complete, coverage, shard_bytes, whole_receipt
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
from .storage import Files, files_at, store_files
from .writer import Shard, StoreWriter, write_shard

__all__ = [
    "CachedHeatmaps",
    "CompressedHeatmaps",
    "Coverage",
    "Files",
    "Layout",
    "Receipt",
    "Shard",
    "StoreReader",
    "StoreWriter",
    "check_canaries",
    "check_complete",
    "check_manifest",
    "compress",
    "coverage",
    "decompress",
    "files_at",
    "layout_of",
    "make_manifest",
    "read_heatmaps",
    "read_manifest",
    "served_layout",
    "shard_bytes",
    "store_files",
    "stored_layout",
    "whole_receipt",
    "write_shard",
]
