"""A small store to write, read and damage: 2 views of 10 samples in shards of 4.

It has 3 shards per view, the last one with 2 samples and 2 rows of padding. Heatmaps of 12 x 12
pixels end in the middle of a block.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import SampleSet
from fpd.pipeline.store import CachedHeatmaps, Layout, Shard, StoreWriter, compress, open_storage
from fpd.pipeline.store.manifest import with_manifest
from fpd.pipeline.store.schema import ARRAYS, SCHEMA_VERSION

JOINTS, SIZE_PX, SHARD_SAMPLES, MAX_ERROR = 3, 12, 4, 0.02
ZERO = (1, 6)  # (view, sample) whose heatmaps are zero everywhere
LAYOUT = Layout(2, (10,), JOINTS, SIZE_PX, SHARD_SAMPLES)
SAMPLES = synthetic_samples("train", 20)


@cache
def teacher_output(view: int, index: int) -> NDArray[np.float32]:
    """Heatmaps (K, H, W): two smooth ones, and one that can only be stored as pixels."""
    if (view, index) == ZERO:
        return np.zeros((JOINTS, SIZE_PX, SIZE_PX), np.float32)
    rng = np.random.default_rng([view, index])
    x, y = rng.uniform(0, SIZE_PX, (2, 2, 1, 1))
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
    smooth = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4) * rng.uniform(0.2, 1.2, (2, 1, 1))
    spikes = rng.random((1, SIZE_PX, SIZE_PX)) < 0.5
    spikes[0, 0, 0] = True
    return np.concatenate([smooth, spikes]).astype(np.float32)


@cache
def stored(view: int, index: int) -> CachedHeatmaps:
    compressed = compress(torch.from_numpy(teacher_output(view, index))[None], MAX_ERROR)
    parameters = np.random.default_rng([7, view, index]).normal(size=3)
    return CachedHeatmaps(*(part[0].numpy() for part in compressed), parameters)


@dataclass(frozen=True)
class Small:
    """How the small store is made, and what it should contain."""

    layout: Layout = LAYOUT
    shards: tuple[tuple[int, int], ...] = tuple((v, s) for v in range(2) for s in range(3))
    views: tuple[tuple[int, int], ...] = tuple((v, i) for v in range(2) for i in range(10))
    arrays: tuple[str, ...] = ARRAYS
    zero: tuple[int, int] = ZERO
    max_error: float = MAX_ERROR

    def samples(self, count: int = 10) -> SampleSet:
        return SAMPLES.take(range(count))

    def manifest(self, samples: SampleSet | None = None) -> dict[str, Any]:
        return {
            "schema": SCHEMA_VERSION,
            "datasets": [(samples or self.samples()).fingerprint()],
            "joints": ["head", "hand", "foot"],
            "geometry": {"heatmap_px": SIZE_PX},
            "shard_samples": SHARD_SAMPLES,
            "max_error": MAX_ERROR,
            "teacher": {"sha256": "0" * 64},
        }

    def teacher_output(self, view: int, index: int) -> NDArray[np.float32]:
        return teacher_output(view, index)

    def stored(self, view: int, index: int) -> CachedHeatmaps:
        return stored(view, index)

    def column(self, number: int, views: int = 2, samples: int = 10) -> NDArray[Any]:
        """One whole array, (views, samples, ...), without padding."""
        return np.stack(
            [[stored(view, index)[number] for index in range(samples)] for view in range(views)]
        )

    def shard(self, view: int, rows: Iterable[int], shard: int, **encoding_error: float) -> Shard:
        columns = map(np.stack, zip(*(stored(view, index) for index in rows), strict=True))
        return Shard(view, shard, *columns, encoding_error=encoding_error or {"max_error": 0.0})

    def open(
        self, location: Path | str, views: int = 2, samples: SampleSet | None = None
    ) -> StoreWriter:
        samples = samples or self.samples()
        manifest = self.manifest(samples)
        return StoreWriter(open_storage(location), manifest, views, "some/where", samples=samples)

    def write(
        self, writer: StoreWriter, tasks: Iterable[tuple[int, int]] | None = None
    ) -> StoreWriter:
        """Write these shards, or those that are missing."""
        for view, shard in writer.coverage().missing if tasks is None else tasks:
            writer.write(self.shard(view, writer.layout.rows(shard), shard))
        return writer

    def check(self, cached: CachedHeatmaps, view: int, index: int) -> None:
        for value, expected in zip(cached, stored(view, index), strict=True):
            assert value.dtype == expected.dtype
            np.testing.assert_array_equal(value, expected)

    def content(self, path: Path) -> dict[str, bytes]:
        """Every file below a folder."""
        files = (file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}

    def edit_manifest(self, path: Path, manifest: Any) -> None:
        """Replace the manifest of a store."""
        metadata = json.loads((path / "zarr.json").read_text())
        (path / "zarr.json").write_bytes(with_manifest(metadata, manifest))


@pytest.fixture(scope="session")
def small() -> Small:
    return Small()


@pytest.fixture(scope="session")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small store. Not to be written to."""
    path = tmp_path_factory.mktemp("whole") / "heatmaps.zarr"
    small.write(small.open(path)).finish()
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy of the small store, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "heatmaps.zarr"))
