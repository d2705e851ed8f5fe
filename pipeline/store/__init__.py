"""The heatmap store: a chunked Zarr v3 group of seeded teacher heatmaps (docs/store.md).

`schema` has the arrays, `manifest` what they must match, `quantise` the code, `writer` makes
shards, `coverage` says which are there, `reader` gives single views back.
"""

from .coverage import Coverage, check_complete, coverage
from .manifest import check_manifest, layout_of, make_manifest, open_layout, read_manifest
from .quantise import dequantise, quantise
from .reader import CachedHeatmaps, StoreReader
from .schema import Layout
from .writer import Shard, StoreWriter

__all__ = [
    "CachedHeatmaps",
    "Coverage",
    "Layout",
    "Shard",
    "StoreReader",
    "StoreWriter",
    "check_complete",
    "check_manifest",
    "coverage",
    "dequantise",
    "layout_of",
    "make_manifest",
    "open_layout",
    "quantise",
    "read_manifest",
]
