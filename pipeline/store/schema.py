"""The store's arrays: names, shapes, chunks, codecs. The one place that knows them.

    heatmaps.zarr/                     Zarr v3 group; attribute "fpd" is the manifest
      heatmaps    int8    (view, sample, joint, block_y, block_x, coefficient)   see `code`
      steps       float16 (view, sample, joint)       what a coefficient of 1 stands for
      peaks       float16 (view, sample, joint)       the teacher's peak: its confidence
      parameters  float64 (view, sample, parameter)   realized augmentation (names: attribute)
      basis       float32 (2, coefficient, pixel)     what decodes a block, for other readers
      heatmaps/receipts/VIEW/SHARD.json               what was written, shard by shard

One shard is one view number of `shard_samples` consecutive samples: a file of `heatmaps` (inner
chunks of one view of one sample) and a small one each of the other arrays. The sample axis is
padded with zeros to whole shards; so is every later addition of samples, which therefore moves
nothing. Codecs: `bytes`, and `zstd` with checksum; the shard index has a crc32c: every Zarr
implementation reads them.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import zarr
from zarr.codecs import BytesCodec, ZstdCodec

from ...data.augmentation import PARAMETERS
from .compression import BLOCK_PX, COEFFICIENTS, basis, blocks_across

SCHEMA_VERSION = 3
MANIFEST = "fpd"
# Inside an array, where zarr-python does not take it for a damaged node of the group.
RECEIPTS = "heatmaps/receipts"

# Level 3 takes a quarter more bytes, 19 none less, 22 saves 5 % for 55 x the time (docs/store.md).
ZSTD_LEVEL = 15


@dataclass(frozen=True)
class Layout:
    """The sizes that the arrays' shapes follow from.

    Attributes:
        segments: samples at first, then those added, time by time; each segment starts a shard.
    """

    views: int
    segments: tuple[int, ...]
    joints: int
    heatmap_px: int
    shard_samples: int

    @property
    def samples(self) -> int:
        return sum(self.segments)

    @cached_property
    def _first_sample(self) -> list[int]:
        return list(accumulate(self.segments, initial=0))

    @cached_property
    def _first_shard(self) -> list[int]:
        return list(accumulate((-(-n // self.shard_samples) for n in self.segments), initial=0))

    @property
    def shards(self) -> int:
        """Shards of one view number."""
        return self._first_shard[-1]

    @property
    def float16_bytes(self) -> int:
        """What the same heatmaps would take as raw float16."""
        return 2 * self.views * self.samples * self.joints * self.heatmap_px**2

    def locate(self, index: int) -> tuple[int, int]:
        """(shard, row in it) of a sample.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.samples:
            raise IndexError(f"expected a sample in 0..{self.samples - 1}, got {index}")
        segment = bisect_right(self._first_sample, index) - 1
        shard, row = divmod(index - self._first_sample[segment], self.shard_samples)
        return self._first_shard[segment] + shard, row

    def rows(self, shard: int) -> range:
        """The samples in a shard, padding left out."""
        segment = bisect_right(self._first_shard, shard) - 1
        inside = shard - self._first_shard[segment]
        start = self._first_sample[segment] + inside * self.shard_samples
        return range(start, min(start + self.shard_samples, self._first_sample[segment + 1]))

    def tasks(self) -> list[tuple[int, int]]:
        """(view, shard) of every shard, views first."""
        return [(view, shard) for view in range(self.views) for shard in range(self.shards)]


class Spec(NamedTuple):
    """One array: what follows the (view, sample) axes, and whether a shard has inner chunks."""

    shape: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]
    sharded: bool
    attributes: dict[str, Any]


ARRAYS = ("heatmaps", "steps", "peaks", "parameters")


def specs(joints: int, heatmap_px: int) -> dict[str, Spec]:
    """The arrays of a store, in the order they are written."""
    blocks = blocks_across(heatmap_px)
    return {
        "heatmaps": Spec(
            (joints, blocks, blocks, COEFFICIENTS),
            "int8",
            ("joint", "block_y", "block_x", "coefficient"),
            True,
            {"block_px": BLOCK_PX, "heatmap_px": heatmap_px},
        ),
        "steps": Spec((joints,), "float16", ("joint",), False, {}),
        "peaks": Spec((joints,), "float16", ("joint",), False, {}),
        "parameters": Spec(
            (len(PARAMETERS),), "float64", ("parameter",), False, {"names": list(PARAMETERS)}
        ),
    }


def create_arrays(store: Any, layout: Layout) -> zarr.Group:
    """Make an empty store: metadata and the basis, no shard."""
    group = zarr.create_group(store, zarr_format=3)
    for name, spec in specs(layout.joints, layout.heatmap_px).items():
        _create(group, name, spec, layout.views, layout.shards, layout.shard_samples)
    values = basis().numpy()
    array = group.create_array(
        "basis",
        shape=values.shape,
        dtype="float32",
        dimension_names=("code", "coefficient", "pixel"),
        **_common(),
    )
    array[:] = values
    return group


def shard_array(store: Any, name: str, layout: Layout) -> tuple[zarr.Array[Any], str]:
    """An array of one shard, to have zarr encode it, and the key of its one chunk."""
    spec = specs(layout.joints, layout.heatmap_px)[name]
    group = zarr.create_group(store, zarr_format=3)
    array = _create(group, name, spec, 1, 1, layout.shard_samples)
    return array, shard_name(name, 0, 0)


def _create(
    group: zarr.Group, name: str, spec: Spec, views: int, shards: int, size: int
) -> zarr.Array[Any]:
    whole = (1, size, *spec.shape)
    return group.create_array(
        name,
        shape=(views, shards * size, *spec.shape),
        dtype=spec.dtype,
        chunks=(1, 1, *spec.shape) if spec.sharded else whole,
        shards=whole if spec.sharded else None,
        dimension_names=("view", "sample", *spec.dimensions),
        attributes=spec.attributes,
        **_common(),
    )


def _common() -> dict[str, Any]:
    return {
        "serializer": BytesCodec(),
        "compressors": ZstdCodec(level=ZSTD_LEVEL, checksum=True),
        "fill_value": 0,
        # An all-zero view must be told from one that was never written.
        "config": {"write_empty_chunks": True},
    }


def view_folder(array: str, view: int) -> str:
    """Where one view number's shards of an array lie."""
    return f"{array}/c/{view}"


def shard_name(array: str, view: int, shard: int) -> str:
    """The object of one shard of one array (Zarr v3's default chunk keys)."""
    return f"{view_folder(array, view)}/{shard}" + "/0" * {"heatmaps": 4}.get(array, 1)


def receipt_name(view: int, shard: int) -> str:
    """The object that vouches for one shard."""
    return f"{RECEIPTS}/{view}/{shard}.json"
