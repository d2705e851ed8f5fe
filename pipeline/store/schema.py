"""The store's arrays: names, shapes, chunks, codecs. The one place that knows them.

    heatmaps.zarr/                     Zarr v3 group; attribute "fpd" is the manifest
      heatmaps    uint8   (view, sample, joint, y, x)   stored * scale_factor = map / its peak
      peaks       float16 (view, sample, joint)         the teacher's peak: its confidence
      parameters  float64 (view, sample, parameter)     realised augmentation (names: attribute)
      heatmaps/receipts/VIEW/SHARD.json                 what was written, shard by shard

One shard is one view number of `shard_samples` consecutive samples: a file of `heatmaps` (inner
chunks of one view of one sample) and a small one each of the other arrays. The sample axis is
padded with zeros to whole shards; the manifest has the true number. Codecs: `bytes`, and `zstd`
with checksum; the shard index has a crc32c: every Zarr implementation reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import BytesCodec, ZstdCodec

from ...data.augmentation import PARAMETERS
from .quantise import step_of

SCHEMA_VERSION = 1
MANIFEST = "fpd"
ARRAYS = ("heatmaps", "peaks", "parameters")

# Higher levels save 6 to 9 % of the bytes for 10 x the time (docs/store.md).
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Layout:
    """The sizes that the arrays' shapes follow from."""

    views: int
    samples: int
    joints: int
    heatmap_px: int
    shard_samples: int

    @property
    def shards(self) -> int:
        """Shards of one view number."""
        return -(-self.samples // self.shard_samples)

    @property
    def padded_samples(self) -> int:
        return self.shards * self.shard_samples

    @property
    def float16_bytes(self) -> int:
        """What the same heatmaps would take as raw float16."""
        return 2 * self.views * self.samples * self.joints * self.heatmap_px**2

    def rows(self, shard: int) -> range:
        """The samples in a shard, padding left out."""
        start = shard * self.shard_samples
        return range(start, min(start + self.shard_samples, self.samples))


def create_arrays(path: Path, layout: Layout, max_error: float) -> zarr.Group:
    """Make an empty store: metadata only, no chunk is written."""
    group = zarr.create_group(path, zarr_format=3)
    samples, shard, joints, px = (
        layout.padded_samples,
        layout.shard_samples,
        layout.joints,
        layout.heatmap_px,
    )
    common: dict[str, Any] = {
        "serializer": BytesCodec(),
        "compressors": ZstdCodec(level=ZSTD_LEVEL, checksum=True),
        "fill_value": 0,
        # An all-zero view must be told from one that was never written.
        "config": {"write_empty_chunks": True},
    }
    group.create_array(
        "heatmaps",
        shape=(layout.views, samples, joints, px, px),
        dtype="uint8",
        chunks=(1, 1, joints, px, px),
        shards=(1, shard, joints, px, px),
        dimension_names=("view", "sample", "joint", "y", "x"),
        # CF conventions: xarray multiplies by these on reading.
        attributes={"scale_factor": step_of(max_error), "add_offset": 0.0, "units": "peak"},
        **common,
    )
    group.create_array(
        "peaks",
        shape=(layout.views, samples, joints),
        dtype="float16",
        chunks=(1, shard, joints),
        dimension_names=("view", "sample", "joint"),
        **common,
    )
    group.create_array(
        "parameters",
        shape=(layout.views, samples, len(PARAMETERS)),
        dtype="float64",
        chunks=(1, shard, len(PARAMETERS)),
        dimension_names=("view", "sample", "parameter"),
        attributes={"names": list(PARAMETERS)},
        **common,
    )
    return group


def shard_path(path: Path, array: str, view: int, shard: int) -> Path:
    """The file of one shard of one array (Zarr v3's default chunk keys)."""
    trailing = {"heatmaps": 4, "peaks": 2, "parameters": 2}[array] - 1
    return path.joinpath(array, "c", str(view), str(shard), *["0"] * trailing)


def receipt_path(path: Path, view: int, shard: int) -> Path:
    """The file that vouches for one shard."""
    return path / "heatmaps" / "receipts" / str(view) / f"{shard}.json"
