"""Writing shards: whole, under a temporary name, then renamed; the receipt last.

Shape letters: S samples in the shard, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from ..workdir import sync, write_json
from .coverage import Coverage, coverage
from .manifest import Manifest, check_manifest, read_manifest
from .schema import ARRAYS, MANIFEST, Layout, create_arrays, receipt_path, shard_path


@dataclass(frozen=True)
class Shard:
    """The content of one shard, without padding.

    Attributes:
        heatmaps_SKHW: uint8, from `quantise`.
        peaks_SK: float16.
        parameters_SP: float64.
        measured: what storing them cost, by name (see `stages/heatmaps.py`).
    """

    view: int
    shard: int
    heatmaps_SKHW: NDArray[np.uint8]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]
    measured: dict[str, float]


class StoreWriter:
    """A store open for writing; any number of processes may write, each shard being one's own."""

    def __init__(self, path: Path, manifest: Manifest, layout: Layout, work: Path) -> None:
        """Make the store, or take up one with the same manifest, with more views if need be.

        Raises:
            ValueError: what is at `path` was made for something else.
        """
        self.path = path
        self.layout = layout
        if not path.exists():
            _create(path, manifest, layout)
        found = read_manifest(path)
        check_manifest(path, manifest, found, work)
        self._group = zarr.open_group(path, mode="r+")
        self._arrays = {name: _array(self._group, name) for name in ARRAYS}
        for array in self._arrays.values():
            if array.shape[0] < layout.views:
                array.resize((layout.views, *array.shape[1:]))

    def coverage(self) -> Coverage:
        """Which shards are there, and which are to be written."""
        return coverage(self.path, self.layout)

    def write(self, content: Shard) -> None:
        """Write one shard and vouch for it. Writing it again gives the same bytes."""
        view, shard, size = content.view, content.shard, self.layout.shard_samples
        receipt = receipt_path(self.path, view, shard)
        receipt.unlink(missing_ok=True)  # it vouches for nothing half-rewritten
        rows = slice(shard * size, (shard + 1) * size)
        columns: dict[str, NDArray[Any]] = {
            "heatmaps": content.heatmaps_SKHW,
            "peaks": content.peaks_SK,
            "parameters": content.parameters_SP,
        }
        written = {}
        for name, values in columns.items():
            file = shard_path(self.path, name, view, shard)
            # zarr-python reads a shard that is there before it writes: a damaged one would stop it.
            file.unlink(missing_ok=True)
            padding = [(0, size - len(values)), *[(0, 0)] * (values.ndim - 1)]
            self._arrays[name][view, rows] = np.pad(values, padding)
            written[name] = _settle(file)
        receipt.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            receipt,
            {
                "view": view,
                "shard": shard,
                "samples": len(content.peaks_SK),
                "arrays": written,
                "measured": content.measured,
            },
        )

    def finish(self) -> Coverage:
        """Look at every shard once more, and sum the measured errors up in the manifest."""
        found = self.coverage()
        manifest = dict(self._group.attrs[MANIFEST])  # type: ignore[arg-type]
        self._group.attrs[MANIFEST] = manifest | {"measured": found.measured()}
        return found


def _create(path: Path, manifest: Manifest, layout: Layout) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        group = create_arrays(temporary, layout, manifest["max_error"])
        group.attrs[MANIFEST] = manifest
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"expected an array {name!r} in {group.store_path}")
    return array.with_config({"write_empty_chunks": True})


def _settle(file: Path) -> dict[str, str | int]:
    """Have a file reach the disk; its size and BLAKE2b digest, for the receipt."""
    sync(file)
    sync(file.parent)
    digest = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    return {"bytes": file.stat().st_size, "blake2b": digest}
