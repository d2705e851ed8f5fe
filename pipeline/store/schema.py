"""The store's arrays: names, shapes, chunks and codecs. Defined here and nowhere else.

    heatmaps.zarr/                     Zarr v3 group; attribute "fpd": the manifest
      heatmaps    int8    (view, sample, joint, block_y, block_x, coefficient)   see `compression`
      steps       float16 (view, sample, joint)       value of a coefficient of 1
      peaks       float16 (view, sample, joint)       the teacher's peak: its confidence
      parameters  float64 (view, sample, parameter)   realized augmentation (attribute: names)
      basis       float32 (2, coefficient, pixel)     decodes a block, for other readers
      heatmaps/receipts/VIEW/SHARD.json               what was written, shard by shard

A portable store also has what a student needs besides, and the samples of every split:

      crops       uint8   (view, sample, byte)        the view as JPEG, then zeros
      crop_sizes  int32   (view, sample)              bytes of the JPEG
      joints      float32 (view, sample, joint, axis) labels, x and y in heatmap pixels; NaN: none
      train/ validation/ test/                        groups; the axis "view" has one entry
        ids          uint8   (view, sample, id_byte)  UTF-8, then zeros
        joints       float64 (view, sample, joint, axis)  pixels of the photograph; NaN: no label
        boxes        float64 (view, sample, 3)        center x, y and side, pixels of the photograph
        normalizers  float64 (view, sample)           PCK's unit of length, pixels; NaN: not scored
        crops, crop_sizes                             of the boxes (not in train unless asked for)
        ids/receipts/0/SHARD.json
      README.md                                       the data card

A shard is one view number of `shard_samples` consecutive samples: one file of `heatmaps` (inner
chunks of one view of one sample) and one small file of each other array. The sample axis is padded
with zeros to whole shards, also after each addition of samples, so that an addition changes no
existing file. Codecs are `bytes`, and `zstd` with checksum; the shard index has a crc32c. All
implementations of Zarr v3 read them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import zarr
from zarr.codecs import BytesCodec, ZstdCodec

from ...data.augmentation import PARAMETERS
from ...data.io.jpeg import max_jpeg_bytes
from .compression import BLOCK_PX, COEFFICIENTS, basis, blocks_across

SCHEMA_VERSION = 3
MANIFEST = "fpd"
# Inside an array: in the group itself, zarr-python would take the folder for a damaged node.
RECEIPTS = "heatmaps/receipts"
SPLIT_RECEIPTS = "ids/receipts"

SPLITS = ("train", "validation", "test")
"""Names of the groups that a portable store has for the samples of each split."""

DATA_CARD = "README.md"

MAX_ID_BYTES = 256
"""Longest sample id, as UTF-8."""

MAX_CROP_PX = 1024
"""Largest `geometry.crop_px` of a recipe."""

MAX_SHARDS = 1 << 21
"""Largest number of shards of a store: 10^9 views in shards of 512 (docs/store.md) are 2.0 million.
Sizes come from metadata that anybody may have written, and loops over shards follow them."""

MAX_VIEWS = 1_000_000
"""Largest `store.views` of a recipe."""

MAX_SHARD_SAMPLES = 1 << 16
"""Largest `store.shard_samples` of a recipe."""

MAX_VIEW_PIXELS = 1 << 26
"""Largest number of pixels of one view's heatmaps: 64 MiB once decoded; 17 joints of 512 x 512
are 4.5 million."""

# Level 3 takes 24 % more bytes, 19 takes the same, 22 saves 5 % in 55 x the time (docs/store.md).
ZSTD_LEVEL = 15

# JPEG does not get smaller; only the zeros behind it do.
JPEG_ZSTD_LEVEL = 1


@dataclass(frozen=True)
class Layout:
    """The sizes that determine the shapes of the arrays.

    Attributes:
        segments: number of samples at creation, then of each addition; each segment starts a shard.
        crop_px: side of the stored crops; 0: there are none.
        is_split: of the samples of a split, in one view, instead of heatmaps.
    """

    views: int
    segments: tuple[int, ...]
    joints: int
    heatmap_px: int
    shard_samples: int
    crop_px: int = 0
    is_split: bool = False

    @cached_property
    def specs(self) -> dict[str, Spec]:
        """The arrays, in the order in which they are written and enlarged."""
        return _split_specs(self) if self.is_split else _heatmap_specs(self)

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self.specs)

    @property
    def receipts(self) -> str:
        """The folder of the receipts."""
        return SPLIT_RECEIPTS if self.is_split else RECEIPTS

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
        """Number of shards of one view number."""
        return self._first_shard[-1]

    @property
    def float16_bytes(self) -> int:
        """Size of the same heatmaps as raw float16."""
        return 2 * self.views * self.samples * self.joints * self.heatmap_px**2

    def locate(self, index: int) -> tuple[int, int]:
        """(shard, row in the shard) of a sample.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.samples:
            raise IndexError(f"expected a sample in 0..{self.samples - 1}, got {index}")
        segment = bisect_right(self._first_sample, index) - 1
        shard, row = divmod(index - self._first_sample[segment], self.shard_samples)
        return self._first_shard[segment] + shard, row

    def rows(self, shard: int) -> range:
        """Indices of the samples in a shard, without padding."""
        segment = bisect_right(self._first_shard, shard) - 1
        inside = shard - self._first_shard[segment]
        start = self._first_sample[segment] + inside * self.shard_samples
        return range(start, min(start + self.shard_samples, self._first_sample[segment + 1]))

    def tasks(self) -> list[tuple[int, int]]:
        """(view, shard) of every shard, in order of views."""
        return [(view, shard) for view in range(self.views) for shard in range(self.shards)]


class Spec(NamedTuple):
    """One array.

    Attributes:
        shape, dimensions: of the axes after (view, sample).
        sharded: whether a shard has inner chunks.
    """

    shape: tuple[int, ...]
    dtype: str
    dimensions: tuple[str, ...]
    sharded: bool = False
    attributes: dict[str, Any] | None = None
    zstd_level: int = ZSTD_LEVEL


ARRAYS = ("heatmaps", "steps", "peaks", "parameters")
"""The arrays that every store has."""


def _heatmap_specs(layout: Layout) -> dict[str, Spec]:
    joints, heatmap_px = layout.joints, layout.heatmap_px
    blocks = blocks_across(heatmap_px)
    labels = {}
    if layout.crop_px:
        labels["joints"] = Spec((joints, 2), "float32", ("joint", "axis"))
    return {
        "heatmaps": Spec(
            (joints, blocks, blocks, COEFFICIENTS),
            "int8",
            ("joint", "block_y", "block_x", "coefficient"),
            sharded=True,
            attributes={"block_px": BLOCK_PX, "heatmap_px": heatmap_px},
        ),
        **_crop_specs(layout.crop_px),
        **labels,
        "steps": Spec((joints,), "float16", ("joint",)),
        "peaks": Spec((joints,), "float16", ("joint",)),
        "parameters": Spec(
            (len(PARAMETERS),), "float64", ("parameter",), attributes={"names": list(PARAMETERS)}
        ),
    }


def _split_specs(layout: Layout) -> dict[str, Spec]:
    return {
        **_crop_specs(layout.crop_px),
        "joints": Spec((layout.joints, 2), "float64", ("joint", "axis")),
        "boxes": Spec((3,), "float64", ("box",), attributes={"names": ["x", "y", "side"]}),
        "normalizers": Spec((), "float64", ()),
        "ids": Spec((MAX_ID_BYTES,), "uint8", ("id_byte",)),  # xarray: one size a dimension
    }


def _crop_specs(crop_px: int) -> dict[str, Spec]:
    if not crop_px:
        return {}
    return {
        "crops": Spec(
            (max_jpeg_bytes(crop_px),),
            "uint8",
            ("byte",),
            sharded=True,
            attributes={"format": "jpeg", "crop_px": crop_px},
            zstd_level=JPEG_ZSTD_LEVEL,
        ),
        "crop_sizes": Spec((), "int32", ()),
    }


def create_arrays(store: Any, layout: Layout) -> zarr.Group:
    """Create a store without shards: metadata and the basis.

    Args:
        store: anything that `zarr.create_group` accepts.
    """
    group = zarr.create_group(store, zarr_format=3)
    for name, spec in layout.specs.items():
        _create(
            group,
            name,
            spec,
            views=layout.views,
            shards=layout.shards,
            shard_samples=layout.shard_samples,
        )
    if layout.is_split:
        return group
    values = basis().numpy()
    array = group.create_array(
        "basis",
        shape=values.shape,
        dtype="float32",
        dimension_names=("code", "coefficient", "pixel"),
        **_common_options(ZSTD_LEVEL),
    )
    array[:] = values
    return group


def shard_array(store: Any, name: str, layout: Layout) -> tuple[zarr.Array[Any], str]:
    """Create an array that consists of one shard. Returns it and the key of its only chunk."""
    spec = layout.specs[name]
    group = zarr.create_group(store, zarr_format=3)
    array = _create(group, name, spec, views=1, shards=1, shard_samples=layout.shard_samples)
    return array, shard_name(name, 0, 0)


def _create(
    group: zarr.Group, name: str, spec: Spec, *, views: int, shards: int, shard_samples: int
) -> zarr.Array[Any]:
    shard_shape = (1, shard_samples, *spec.shape)
    return group.create_array(
        name,
        shape=(views, shards * shard_samples, *spec.shape),
        dtype=spec.dtype,
        chunks=(1, 1, *spec.shape) if spec.sharded else shard_shape,
        shards=shard_shape if spec.sharded else None,
        dimension_names=("view", "sample", *spec.dimensions),
        attributes=spec.attributes or {},
        **_common_options(spec.zstd_level),
    )


def _common_options(zstd_level: int) -> dict[str, Any]:
    return {
        "serializer": BytesCodec(),
        "compressors": ZstdCodec(level=zstd_level, checksum=True),
        "fill_value": 0,
        # So that an all-zero view can be told from a missing one.
        "config": {"write_empty_chunks": True},
    }


_OBJECT_NAME = re.compile(
    rf"(({'|'.join(SPLITS)})/)?((\w+/)?zarr\.json|\w+/c(/\d+)*|\w+/receipts/\d+/\d+\.json)"
    rf"|{re.escape(DATA_CARD)}",
    re.ASCII,
)


def is_object_name(name: str) -> bool:
    """Whether an object of this name can belong to a store: metadata, a chunk or a receipt."""
    return _OBJECT_NAME.fullmatch(name) is not None


def view_folder(array: str, view: int) -> str:
    """The folder of one view number's shards of an array."""
    return f"{array}/c/{view}"


TRAILING_AXES = {"heatmaps": 4, "joints": 2, "crop_sizes": 0, "normalizers": 0}
"""Number of axes after (view, sample), where it is not 1."""


def shard_name(array: str, view: int, shard: int) -> str:
    """The object of one shard of an array (default chunk keys of Zarr v3)."""
    return f"{view_folder(array, view)}/{shard}" + "/0" * TRAILING_AXES.get(array, 1)


def receipt_name(view: int, shard: int, folder: str = RECEIPTS) -> str:
    """The receipt of one shard.

    Args:
        folder: `Layout.receipts`.
    """
    return f"{folder}/{view}/{shard}.json"
