"""Reading single views of a local store: the shard mapped, its index checked once, one decode.

zarr-python reads a shard's whole index again for every chunk; a student asks for chunks one by one
in random order. This reader knows the one layout that `schema` writes and agrees with `zarr.open`
bit for bit (by test).

Shape letters: K joints, H and W heatmap height and width, S samples in a shard, P parameters.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numcodecs.checksum32 import CRC32C
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from ...data.augmentation import PARAMETERS
from .schema import Layout, shard_path

OPEN_SHARDS = 256
"""Shards held open at a time, a file descriptor each; the usual limit of a process is 1024."""

MISSING = np.iinfo(np.uint64).max
"""Offset and size of an absent chunk in a shard's index (Zarr v3, sharding_indexed)."""

CRC32C_BYTES = 4


class CachedHeatmaps(NamedTuple):
    """One view as stored."""

    heatmaps: NDArray[np.uint8]  # (K, H, W)
    peaks: NDArray[np.float16]  # (K,)
    parameters: NDArray[np.float64]  # (P,)


class _OpenShard(NamedTuple):
    content: mmap.mmap
    index_S2: NDArray[np.uint64]  # offset and size of each inner chunk
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]


class StoreReader:
    """Random access to the views of a local store. Cheap to pickle; opens files as needed."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Read the store at `path`, which must have this layout (`check_manifest` sees to it)."""
        self.path = path
        self.layout = layout
        self._codec = Zstd()
        self._shards: OrderedDict[tuple[int, int], _OpenShard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": OrderedDict()}

    def read(self, view: int, index: int) -> CachedHeatmaps:
        """One view of one sample.

        Raises:
            ValueError: the shard is missing or damaged, naming view and sample.
        """
        shard, row = divmod(index, self.layout.shard_samples)
        try:
            opened = self._open(view, shard)
            offset, size = (int(n) for n in opened.index_S2[row])
            if offset == MISSING or offset + size > len(opened.content):
                raise ValueError("the shard's index points nowhere")
            heatmaps = self._decode(opened.content[offset : offset + size], self._map_shape, "u1")
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.path}: view {view} of sample {index} cannot be read ({error}); remove "
                f"{shard_path(self.path, 'heatmaps', view, shard)} and run `fpd cache-heatmaps` "
                "again"
            ) from None
        return CachedHeatmaps(heatmaps, opened.peaks_SK[row], opened.parameters_SP[row])

    @property
    def _map_shape(self) -> tuple[int, ...]:
        return (self.layout.joints, self.layout.heatmap_px, self.layout.heatmap_px)

    def _open(self, view: int, shard: int) -> _OpenShard:
        key = (view, shard)
        if key in self._shards:
            self._shards.move_to_end(key)
            return self._shards[key]
        size = self.layout.shard_samples
        with shard_path(self.path, "heatmaps", view, shard).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        index = content[-(size * 16 + CRC32C_BYTES) :]
        opened = _OpenShard(
            content,
            np.frombuffer(CRC32C(location="end").decode(index), "<u8").reshape(size, 2),
            self._chunk("peaks", view, shard, (size, self.layout.joints), "<f2"),
            self._chunk("parameters", view, shard, (size, len(PARAMETERS)), "<f8"),
        )
        self._shards[key] = opened
        if len(self._shards) > OPEN_SHARDS:
            self._shards.popitem(last=False)[1].content.close()
        return opened

    def _chunk(
        self, array: str, view: int, shard: int, shape: tuple[int, ...], dtype: str
    ) -> NDArray[Any]:
        encoded = shard_path(self.path, array, view, shard).read_bytes()
        return self._decode(encoded, shape, dtype)

    def _decode(self, encoded: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        decoded = np.empty(shape, dtype)
        if content_bytes(encoded) != decoded.nbytes:
            raise ValueError(f"expected {decoded.nbytes} bytes, found {content_bytes(encoded)}")
        self._codec.decode(encoded, out=decoded)
        return decoded


def content_bytes(frame: bytes) -> int:
    """How many bytes a zstd frame says it decodes to (RFC 8878, section 3.1.1.1); 0: not said."""
    descriptor = frame[4] if len(frame) > 4 else 0
    flag, single_segment = descriptor >> 6, descriptor >> 5 & 1
    size = (single_segment, 2, 4, 8)[flag]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(frame[start : start + size], "little") + (256 if flag == 1 else 0)
