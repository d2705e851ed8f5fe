"""Reading single views: the shard's file mapped, its index checked once, one chunk decoded.

zarr-python reads a shard's whole index again for every chunk; a student asks for chunks one by one
in random order. This reader knows the one layout that `schema` writes and agrees with `zarr.open`
bit for bit (by test). A shard that is not on a local disk is fetched whole, once. A store in any
other layout (rechunked, recompressed) is read by zarr-python, by whole shards.

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
from .manifest import MAX_METADATA_BYTES, read_metadata, stored_layout
from .schema import ARRAYS, Layout, create_arrays, shard_name, specs
from .storage import Files, files_at

OPEN_SHARDS = 1 << 14
"""Shards held open at a time; Linux allows a process 65,530 mapped files."""

FETCHED_BYTES = 1 << 28
"""Memory of one reader for what it has decoded or fetched of shards: 256 MiB. Of a mapped shard of
512 views that is 43 KiB, so 6,000 of them stay open; of a fetched one 1 MiB."""

MISSING = np.iinfo(np.uint64).max
"""Offset and size of an absent chunk in a shard's index (Zarr v3, sharding_indexed)."""

CRC32C_BYTES = 4


class CachedHeatmaps(NamedTuple):
    """One view as stored (`code.decode` makes floats of it)."""

    coefficients: NDArray[np.int8]  # (K, Y, X, C)
    steps: NDArray[np.float16]  # (K,)
    peaks: NDArray[np.float16]  # (K,)
    parameters: NDArray[np.float64]  # (P,)


class _Shard(NamedTuple):
    """A shard in this store's own layout: its file, and what was small enough to decompress at once."""

    content: NDArray[np.uint8]
    index_S2: NDArray[np.uint64]  # offset and size of each inner chunk
    steps_SK: NDArray[np.float16]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]


class _Decoded(NamedTuple):
    """A shard as zarr-python gave it, in the order of `ARRAYS`."""

    heatmaps_SKYXC: NDArray[np.int8]
    steps_SK: NDArray[np.float16]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]


class StoreReader:
    """Random access to the views of a store. Cheap to pickle; opens files as needed.

    Not for several threads at a time: each has its own.
    """

    def __init__(self, files: Files, layout: Layout, work: object = ".") -> None:
        """Read a store of this layout (`check_manifest` sees to it).

        Args:
            work: the work directory, for the command that messages name.
        """
        self.files = files
        self.layout = layout
        self.work = work
        self._specs = specs(layout.joints, layout.heatmap_px)
        self._zstd = ZstdDecompressor()
        self._own_layout: bool | None = None
        self._shards: OrderedDict[tuple[int, int], _Shard | _Decoded] = OrderedDict()
        self._memory = 0

    def __getstate__(self) -> dict[str, Any]:
        left_behind = ("_zstd", "_shards", "_memory")
        return {key: value for key, value in self.__dict__.items() if key not in left_behind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {
            "_zstd": ZstdDecompressor(),
            "_shards": OrderedDict(),
            "_memory": 0,
        }

    def read(self, view: int, index: int) -> CachedHeatmaps:
        """One view of one sample.

        Raises:
            ValueError: the shard is missing or damaged, naming view and sample.
            IndexError: there is no such view or sample.
        """
        if not 0 <= view < self.layout.views:
            raise IndexError(f"expected a view in 0..{self.layout.views - 1}, got {view}")
        shard, row = self.layout.locate(index)
        try:
            opened = self._open(view, shard)
            if isinstance(opened, _Decoded):
                if not opened.steps_SK[row].all():  # zarr-python gives zeros for what is not there
                    raise ValueError("it was never written")
                return CachedHeatmaps(*(column[row] for column in opened))
            offset, size = opened.index_S2[row].tolist()
            if offset == MISSING or offset + size > len(opened.content):
                raise ValueError("the shard's index points nowhere")
            coefficients = self._decode("heatmaps", opened.content[offset : offset + size], ())
        except (OSError, RuntimeError, ValueError, ZstdError) as error:
            raise ValueError(
                f"{self.files}: view {view} of sample {index} (shard {shard}) cannot be read "
                f"({error}); mend it with `fpd verify-cache -w {self.work} --deep --repair`"
            ) from None
        return CachedHeatmaps(
            coefficients, opened.steps_SK[row], opened.peaks_SK[row], opened.parameters_SP[row]
        )

    def _open(self, view: int, shard: int) -> _Shard | _Decoded:
        key = (view, shard)
        if key in self._shards:
            self._shards.move_to_end(key)
            return self._shards[key]
        if self._own_layout is None:
            self._own_layout = has_own_layout(self.files, self.layout)
        opened = self._map(view, shard) if self._own_layout else self._load(view, shard)
        self._shards[key] = opened
        self._memory += self._held(opened)
        while len(self._shards) > 1 and (
            len(self._shards) > OPEN_SHARDS or self._memory > FETCHED_BYTES
        ):
            self._memory -= self._held(self._shards.popitem(last=False)[1])
        return opened

    def _held(self, opened: _Shard | _Decoded) -> int:
        """Bytes of memory that an open shard takes; what is mapped takes none."""
        mapped = isinstance(opened, _Shard) and self.files.is_local
        return sum(column.nbytes for column in (opened[1:] if mapped else opened))

    def _map(self, view: int, shard: int) -> _Shard:
        size = self.layout.shard_samples
        name = partial(shard_name, view=view, shard=shard)
        content = self.files.view(name("heatmaps"))
        index = content[-(size * 16 + CRC32C_BYTES) :]
        small = (
            self._decode(array, self.files.read(name(array), MAX_METADATA_BYTES), (size,))
            for array in ARRAYS[1:]
        )
        checked = np.frombuffer(CRC32C(location="end").decode(index), "<u8")
        return _Shard(content, checked.reshape(size, 2), *small)

    def _load(self, view: int, shard: int) -> _Decoded:
        size = self.layout.shard_samples
        rows = slice(shard * size, (shard + 1) * size)
        group = zarr.open_group(self.files.zarr(), mode="r")
        return _Decoded(*(np.asarray(group[name][view, rows]) for name in ARRAYS))  # type: ignore[index]

    def _decode(self, array: str, encoded: Any, leading: tuple[int, ...]) -> NDArray[Any]:
        spec = self._specs[array]
        shape, dtype = (*leading, *spec.shape), np.dtype(spec.dtype)
        expected, found = math.prod(shape) * dtype.itemsize, frame_content_size(encoded)
        if found != expected:  # asked before memory is set aside for it
            raise ValueError(f"expected {expected} bytes, found {found}")
        # A copy, for PyTorch wants memory that can be written to.
        decoded = bytearray(self._zstd.decompress(encoded, allow_extra_data=False))
        return np.ndarray(shape, dtype, buffer=decoded)


def has_own_layout(files: Files, layout: Layout) -> bool:
    """Whether chunks and codecs of a store's arrays are those that `schema` gives them."""
    expected: dict[str, Any] = {}
    group = create_arrays({}, layout)
    for name in ARRAYS:
        expected[name] = group[name].metadata.to_dict()
    for name in ARRAYS:
        found = read_metadata(files, f"{name}/zarr.json")
        for part in ("data_type", "chunk_grid", "chunk_key_encoding", "codecs"):
            if found.get(part) != json.loads(json.dumps(expected[name][part], default=str)):
                return False
    return True


def read_heatmaps(location: str | Path, view: int, samples: Sequence[int]) -> NDArray[np.float32]:
    """What the teacher said of one view of some samples, within the store's `max_error`.

        heatmaps = read_heatmaps("work/lsp/heatmaps.zarr", view=0, samples=range(8))

    Args:
        location: path or fsspec URL of a store.

    Returns:
        float32 (samples, K, H, W), from 0 to about 1 (a teacher's peaks).

    Raises:
        ValueError: there is no store, or it is damaged.
        IndexError: there is no such view or sample.
    """
    files = files_at(location)
    layout = stored_layout(files)
    reader = StoreReader(files, layout)
    cached = [reader.read(view, index) for index in samples]
    if not cached:
        return np.zeros((0, layout.joints, layout.heatmap_px, layout.heatmap_px), np.float32)
    coefficients = torch.from_numpy(np.stack([c.coefficients for c in cached]))
    steps = torch.from_numpy(np.stack([c.steps for c in cached]))
    return decompress(coefficients, steps, layout.heatmap_px).numpy()
