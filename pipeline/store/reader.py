"""Reading single views: a shard is mapped, its index checked once, and one chunk decoded per read.

Before a reader's first read from a shard, its files are compared with the digests in its receipt: a
chunk's checksum finds flipped bits, but not files that were swapped, replaced or written by another
tool. zarr-python reads the whole index of a shard again for every chunk, and a student reads single
chunks in random order. This reader supports only the layout that `schema` defines, for which it
agrees with `zarr.open` bit for bit (a test checks this). A remote shard is fetched whole, once. A
store of any other layout (rechunked or recompressed) is read through zarr-python, by whole shards.

Shape letters: K joints, Y and X blocks down and across, C coefficients of a block, S samples in a
shard, P parameters.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray
from zstandard import ZstdDecompressor, ZstdError, frame_content_size

from .compression import decompress
from .coverage import read_receipt
from .manifest import MAX_METADATA_BYTES, UNKNOWN_WORK, read_metadata, stored_layout
from .schema import ARRAYS, Layout, Spec, create_arrays, shard_name, specs
from .storage import Storage, open_storage
from .writer import digest

OPEN_SHARDS = 1 << 14
"""Shards that a reader keeps open. Linux allows a process 65,530 mappings (vm.max_map_count)."""

CACHE_BYTES = 1 << 28
"""Memory for the open shards of a reader: 256 MiB. An open shard of 512 views takes 43 KiB if it is
mapped, so 6,000 fit, and 1 MiB if it was fetched."""

MISSING = np.iinfo(np.uint64).max
"""Offset and size of a missing chunk in a shard's index (Zarr v3, codec `sharding_indexed`)."""

INDEX_ENTRY_BYTES = 16
"""Offset and size of one inner chunk, uint64 each."""

CRC32C_BYTES = 4


class CachedHeatmaps(NamedTuple):
    """One view of one sample as stored; `decompress` decodes it."""

    coefficients: NDArray[np.int8]  # (K, Y, X, C)
    steps: NDArray[np.float16]  # (K,)
    peaks: NDArray[np.float16]  # (K,)
    parameters: NDArray[np.float64]  # (P,)


class _MappedShard(NamedTuple):
    """A shard in the layout of `schema`: the file of `heatmaps`, and the other arrays decoded."""

    content: NDArray[np.uint8]
    index_S2: NDArray[np.uint64]  # offset and size of each inner chunk
    steps_SK: NDArray[np.float16]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]


class _DecodedShard(NamedTuple):
    """A shard in another layout, decoded by zarr-python; in the order of `ARRAYS`."""

    heatmaps_SKYXC: NDArray[np.int8]
    steps_SK: NDArray[np.float16]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]


class StoreReader:
    """Random access to the views of a store. Cheap to pickle; opens shards on demand.

    Not thread-safe: use one reader per thread.
    """

    def __init__(
        self,
        storage: Storage,
        layout: Layout,
        work: object = UNKNOWN_WORK,
        *,
        check_digests: bool = True,
        own_layout: bool | None = None,
    ) -> None:
        """Read a store whose manifest has been checked.

        Args:
            layout: the part of the store to read.
            work: what follows `-w` in the command that messages name.
            check_digests: compare the files of every shard with its receipt, once. Stores of
                other layouts, which have no receipts of their files, can only be read without.
            own_layout: whether the arrays are as `schema` defines them; None: determined at the
                first read.
        """
        self.storage = storage
        self.layout = layout
        self.work = work
        self.check_digests = check_digests
        self._checked: set[tuple[int, int]] = set()
        self._specs = specs(layout.joints, layout.heatmap_px)
        self._zstd = ZstdDecompressor()
        self._has_own_layout = own_layout
        self._shards: OrderedDict[tuple[int, int], _MappedShard | _DecodedShard] = OrderedDict()
        self._memory = 0

    def __getstate__(self) -> dict[str, Any]:
        not_pickled = ("_zstd", "_shards", "_memory", "_checked")
        return {key: value for key, value in self.__dict__.items() if key not in not_pickled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {
            "_zstd": ZstdDecompressor(),
            "_shards": OrderedDict(),
            "_memory": 0,
            "_checked": set(),
        }

    def read(self, view: int, index: int) -> CachedHeatmaps:
        """One view of one sample.

        Raises:
            ValueError: the shard is missing or damaged; the message names view and sample.
            IndexError: there is no such view or sample.
        """
        if not 0 <= view < self.layout.views:
            raise IndexError(f"expected a view in 0..{self.layout.views - 1}, got {view}")
        shard, row = self.layout.locate(index)
        try:
            opened = self._open(view, shard)
            if isinstance(opened, _DecodedShard):
                if not opened.steps_SK[row].all():  # zarr-python returns zeros for missing chunks
                    raise ValueError("it was never written")
                return CachedHeatmaps(*(column[row] for column in opened))
            offset, size = opened.index_S2[row].tolist()
            if offset == MISSING or offset + size > len(opened.content):
                raise ValueError("its entry in the shard's index points outside the shard")
            coefficients = self._decode("heatmaps", opened.content[offset : offset + size], ())
        except (OSError, RuntimeError, ValueError, ZstdError) as error:
            raise ValueError(
                f"{self.storage}: view {view} of sample {index} (shard {shard}) cannot be read "
                f"({error}); repair it with `fpd verify-cache -w {self.work} --deep --repair`"
            ) from None
        return CachedHeatmaps(
            coefficients, opened.steps_SK[row], opened.peaks_SK[row], opened.parameters_SP[row]
        )

    def _open(self, view: int, shard: int) -> _MappedShard | _DecodedShard:
        """A shard from the cache, or opened now; closes those used least recently."""
        key = (view, shard)
        if key in self._shards:
            self._shards.move_to_end(key)
            return self._shards[key]
        if self._has_own_layout is None:
            self._has_own_layout = has_own_layout(self.storage, self.layout)
        if self.check_digests and not self._has_own_layout:
            raise ValueError("the metadata of an array is not what fpd wrote")
        opened = self._map(view, shard) if self._has_own_layout else self._load(view, shard)
        self._shards[key] = opened
        self._memory += self._memory_of(opened)
        while len(self._shards) > 1 and (
            len(self._shards) > OPEN_SHARDS or self._memory > CACHE_BYTES
        ):
            self._memory -= self._memory_of(self._shards.popitem(last=False)[1])
        return opened

    def _memory_of(self, opened: _MappedShard | _DecodedShard) -> int:
        """Bytes of memory that an open shard takes. A memory-mapped file does not count."""
        mapped = isinstance(opened, _MappedShard) and self.storage.is_local
        return sum(column.nbytes for column in (opened[1:] if mapped else opened))

    def _map(self, view: int, shard: int) -> _MappedShard:
        shard_samples = self.layout.shard_samples
        name = partial(shard_name, view=view, shard=shard)
        content = self.storage.read_array(name("heatmaps"))
        small_files = [self.storage.read(name(array), MAX_METADATA_BYTES) for array in ARRAYS[1:]]
        if self.check_digests and (view, shard) not in self._checked:
            self._check_digests(view, shard, [content, *small_files])
        index = content[-(shard_samples * INDEX_ENTRY_BYTES + CRC32C_BYTES) :]
        small_arrays = (
            self._decode(array, encoded, (shard_samples,))
            for array, encoded in zip(ARRAYS[1:], small_files, strict=True)
        )
        checked_index = np.frombuffer(CRC32C(location="end").decode(index), "<u8")
        return _MappedShard(content, checked_index.reshape(shard_samples, 2), *small_arrays)

    def _check_digests(self, view: int, shard: int, files: Sequence[Any]) -> None:
        receipt = read_receipt(self.storage, view, shard)
        if receipt is None:
            raise ValueError("its receipt is missing or damaged")
        for array, content in zip(ARRAYS, files, strict=True):
            if digest(memoryview(content)) != receipt["arrays"][array]["blake2b"]:
                raise ValueError(f"{array} was changed after it was written")
        self._checked.add((view, shard))

    def _load(self, view: int, shard: int) -> _DecodedShard:
        size = self.layout.shard_samples
        rows = slice(shard * size, (shard + 1) * size)
        try:
            group = zarr.open_group(self.storage.zarr(), mode="r")
            arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
        except (KeyError, TypeError) as error:  # of metadata that zarr-python does not expect
            raise ValueError(f"its metadata cannot be read: {error}") from None
        for name in ARRAYS:
            _check_shape(arrays[name], name, self._specs[name])
        return _DecodedShard(*(np.asarray(arrays[name][view, rows]) for name in ARRAYS))

    def _decode(self, array: str, encoded: Any, leading: tuple[int, ...]) -> NDArray[Any]:
        """Decompress a chunk of an array.

        Args:
            leading: sizes of the axes before those of a single view of a sample.
        """
        spec = self._specs[array]
        shape, dtype = (*leading, *spec.shape), np.dtype(spec.dtype)
        expected_bytes = math.prod(shape) * dtype.itemsize
        size_bytes = frame_content_size(encoded)
        if size_bytes != expected_bytes:  # checked before memory is allocated
            raise ValueError(f"expected {expected_bytes} bytes, found {size_bytes}")
        # Copied, because PyTorch requires writable memory.
        decoded = bytearray(self._zstd.decompress(encoded, allow_extra_data=False))
        return np.ndarray(shape, dtype, buffer=decoded)


def _check_shape(array: Any, name: str, spec: Spec) -> None:
    """Check the sizes of an array in another layout, before zarr-python allocates by them."""
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    index_bytes = math.prod(array.shards or ()) // math.prod(array.chunks) * INDEX_ENTRY_BYTES
    is_bounded = max(chunk_bytes, index_bytes) <= CACHE_BYTES
    if array.shape[2:] != spec.shape or array.dtype != spec.dtype or not is_bounded:
        raise ValueError(
            f"expected {name} as {spec.dtype} (view, sample, {', '.join(map(str, spec.shape))}), "
            f"found {array.dtype} {array.shape} in chunks of {array.chunks}"
        )


def has_own_layout(storage: Storage, layout: Layout) -> bool:
    """Whether the arrays of a store have the chunks and codecs that `schema` defines."""
    group = create_arrays({}, layout)
    for name in ARRAYS:
        expected: dict[str, Any] = dict(group[name].metadata.to_dict())
        metadata = read_metadata(storage, f"{name}/zarr.json")
        for part in ("data_type", "chunk_grid", "chunk_key_encoding", "codecs"):
            if metadata.get(part) != json.loads(json.dumps(expected[part], default=str)):
                return False
    return True


def read_heatmaps(location: str | Path, view: int, samples: Sequence[int]) -> NDArray[np.float32]:
    """The stored heatmaps of one view of some samples.

        heatmaps = read_heatmaps("work/lsp/heatmaps.zarr", view=0, samples=range(8))

    Args:
        location: path or fsspec URL of a store.
        samples: sample indices, in any order.

    Returns:
        float32 (samples, K, H, W), from 0 to about 1 (the teacher's peaks). They equal the
        teacher's output, clamped at 0, within the store's `max_error`.

    Raises:
        ValueError: there is no store, or it is damaged.
        IndexError: there is no such view or sample.
    """
    storage = open_storage(location)
    layout = stored_layout(storage)
    reader = StoreReader(storage, layout, check_digests=has_own_layout(storage, layout))
    cached = [reader.read(view, index) for index in samples]
    if not cached:
        return np.zeros((0, layout.joints, layout.heatmap_px, layout.heatmap_px), np.float32)
    coefficients = torch.from_numpy(np.stack([c.coefficients for c in cached]))
    steps = torch.from_numpy(np.stack([c.steps for c in cached]))
    return decompress(coefficients, steps, layout.heatmap_px).numpy()
