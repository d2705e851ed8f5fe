"""Reading single views: a shard is mapped, its index checked once, and one chunk decoded per read.

Before a reader's first read from a shard, its files are compared with the digests in its receipt: a
chunk's checksum finds flipped bits, but not files that were swapped, replaced or written by another
tool. zarr-python reads the whole index of a shard again for every chunk, and a student reads single
chunks in random order. This reader supports only the layout that `schema` defines, for which it
agrees with `zarr.open` bit for bit (a test checks this). A remote shard is fetched whole, and kept
in memory or by `disk_cache`, whose damaged copies are fetched again. A store of any other layout
(rechunked or recompressed) is read through zarr-python, by whole shards.

Shape letters: K joints, Y and X blocks down and across, C coefficients of a block, S samples in a
shard, P parameters.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
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
from .location import open_storage
from .manifest import MAX_METADATA_BYTES, UNKNOWN_WORK, read_metadata, stored_layout
from .schema import ARRAYS, Layout, Spec, create_arrays, shard_name
from .storage import Content, Storage
from .writer import digest

OPEN_SHARDS = 1 << 14
"""Shards that a reader keeps open. Linux allows a process 65,530 mappings (vm.max_map_count)."""

CACHE_BYTES = 1 << 28
"""Memory for the open shards of a reader: 256 MiB. An open shard of 512 views takes 43 KiB if it is
mapped, so 6,000 fit, and 1 MiB if it was fetched, 10 MiB with crops."""

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


class _Chunks(NamedTuple):
    """The file of a sharded array."""

    content: Content
    index_S2: NDArray[np.uint64]  # offset and size of each inner chunk


class _OpenShard(NamedTuple):
    """A shard's arrays by name: those that are decoded, and those of which single chunks are."""

    decoded: dict[str, NDArray[Any]]
    chunked: dict[str, _Chunks]


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
        self._zstd = ZstdDecompressor()
        self._has_own_layout = own_layout
        self._shards: OrderedDict[tuple[int, int], _OpenShard] = OrderedDict()
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
        """The heatmaps of one view of one sample.

        Raises:
            ValueError: the shard is missing or damaged; the message names view and sample.
            IndexError: there is no such view or sample.
        """
        return CachedHeatmaps(*self._read(ARRAYS, view, index))

    def read_crop(self, view: int, index: int) -> NDArray[np.uint8]:
        """The crop of one view of one sample, of a portable store, as JPEG: uint8 (bytes,).

        Raises:
            ValueError, IndexError: as `read`.
        """
        padded, size = self._read(("crops", "crop_sizes"), view, index)
        if not 0 < size <= len(padded):
            raise self.unreadable(view, index, f"its crop has a size of {size} bytes")
        return np.asarray(padded[:size])

    def read_row(self, array: str, view: int, index: int) -> NDArray[Any]:
        """The values of one view of one sample in one array.

        Raises:
            ValueError, IndexError: as `read`.
        """
        return np.asarray(self._read((array,), view, index)[0])

    def _read(self, arrays: Sequence[str], view: int, index: int) -> list[Any]:
        """The values of one view of one sample in some arrays; see `read`."""
        if not 0 <= view < self.layout.views:
            raise IndexError(f"expected a view in 0..{self.layout.views - 1}, got {view}")
        shard, row = self.layout.locate(index)
        try:
            try:
                return self._rows(arrays, view, shard, row)
            except (RuntimeError, ValueError, ZstdError):
                if not self._discard(view, shard):
                    raise
                return self._rows(arrays, view, shard, row)
        except (OSError, RuntimeError, ValueError, ZstdError) as error:
            raise self.unreadable(view, index, str(error)) from None

    def _rows(self, arrays: Sequence[str], view: int, shard: int, row: int) -> list[Any]:
        opened = self._open(view, shard)
        return [self._row(opened, array, row) for array in arrays]

    def _discard(self, view: int, shard: int) -> bool:
        """Close a shard, and remove what a disk cache has of it. Returns whether it had any."""
        opened = self._shards.pop((view, shard), None)
        if opened is not None:
            self._memory -= self._memory_of(opened)
        self._checked.discard((view, shard))
        names = [shard_name(array, view, shard) for array in self.layout.arrays]
        removed = [name for name in names if self.storage.discard(name)]
        return bool(removed)

    def unreadable(self, view: int, index: int, reason: str) -> ValueError:
        """The error of a view that cannot be read; the message names the command that repairs it.

        Args:
            reason: what is wrong with it.
        """
        shard, _ = self.layout.locate(index)
        return ValueError(
            f"{self.storage}: view {view} of sample {index} (shard {shard}) cannot be read "
            f"({reason}); repair it with `fpd verify-cache -w {self.work} --deep --repair`"
        )

    def _row(self, opened: _OpenShard, array: str, row: int) -> Any:
        if array in opened.decoded:
            # zarr-python returns zeros for missing chunks.
            if array == "heatmaps" and not opened.decoded["steps"][row].all():
                raise ValueError("it was never written")
            return opened.decoded[array][row]
        content, index_S2 = opened.chunked[array]
        offset, size = index_S2[row].tolist()
        if offset == MISSING or offset + size > len(content):
            raise ValueError("its entry in the shard's index points outside the shard")
        return self._decode(array, content[offset : offset + size], ())

    def _open(self, view: int, shard: int) -> _OpenShard:
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

    def _memory_of(self, opened: _OpenShard) -> int:
        """Bytes of memory that an open shard takes. A memory-mapped file does not count."""
        arrays: list[Content] = list(opened.decoded.values())
        for content, index in opened.chunked.values():
            arrays += [index] if self.storage.is_local else [index, content]
        return sum(array.nbytes for array in arrays)

    def _map(self, view: int, shard: int) -> _OpenShard:
        specs = self.layout.specs
        files: dict[str, Any] = {}
        for array, spec in specs.items():
            name = shard_name(array, view, shard)
            files[array] = (
                self.storage.read_array(name)
                if spec.sharded
                else self.storage.read(name, MAX_METADATA_BYTES)
            )
        if self.check_digests and (view, shard) not in self._checked:
            self._check_digests(view, shard, files)
        rows = (self.layout.shard_samples,)
        return _OpenShard(
            decoded={
                array: self._decode(array, content, rows)
                for array, content in files.items()
                if not specs[array].sharded
            },
            chunked={
                array: _Chunks(content, self._index(content))
                for array, content in files.items()
                if specs[array].sharded
            },
        )

    def _index(self, content: Content) -> NDArray[np.uint64]:
        """Offset and size of each inner chunk: uint64 (S, 2), checked by its checksum."""
        index_bytes = self.layout.shard_samples * INDEX_ENTRY_BYTES + CRC32C_BYTES
        checked = CRC32C(location="end").decode(content[-index_bytes:])
        return np.frombuffer(checked, "<u8").reshape(-1, 2)

    def _check_digests(self, view: int, shard: int, files: Mapping[str, Any]) -> None:
        receipt = read_receipt(self.storage, view, shard, self.layout)
        if receipt is None:
            raise ValueError("its receipt is missing or damaged")
        for array, content in files.items():
            if digest(memoryview(content[:])) != receipt["arrays"][array]["blake2b"]:
                raise ValueError(f"{array} was changed after it was written")
        self._checked.add((view, shard))

    def _load(self, view: int, shard: int) -> _OpenShard:
        """Decode a shard in another layout by zarr-python."""
        size = self.layout.shard_samples
        rows = slice(shard * size, (shard + 1) * size)
        try:
            group = zarr.open_group(self.storage.zarr(), mode="r")
            arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
        except (KeyError, TypeError) as error:  # of metadata that zarr-python does not expect
            raise ValueError(f"its metadata cannot be read: {error}") from None
        for name in ARRAYS:
            _check_shape(arrays[name], name, self.layout.specs[name])
        return _OpenShard({n: np.asarray(arrays[n][view, rows]) for n in ARRAYS}, {})

    def _decode(self, array: str, encoded: Any, leading: tuple[int, ...]) -> NDArray[Any]:
        """Decompress a chunk of an array.

        Args:
            leading: sizes of the axes before those of a single view of a sample.
        """
        spec = self.layout.specs[array]
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
    for name in layout.arrays:
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
