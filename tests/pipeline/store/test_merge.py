"""Joining stores that were made separately."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.pipeline.store import StoreWriter, open_storage, stored_layout
from fpd.pipeline.store.merge import Copy, common_manifest, copy_shard, plan_copies


@pytest.fixture
def halves(small: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Two stores that have half of the shards each, and (0, 1) in common."""
    paths = tmp_path / "a.zarr", tmp_path / "b.zarr"
    for path, tasks in zip(paths, (small.shards[:3], [(0, 1), *small.shards[3:]]), strict=True):
        small.write(small.open(path), tasks).finish()
    return paths


def test_joined_halves_equal_a_store_made_at_once(
    small: Any, whole: Path, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = [open_storage(half) for half in halves]
    manifest = common_manifest(sources)
    target = open_storage(tmp_path / "heatmaps.zarr")
    copies = plan_copies(sources, None)
    assert [(copy.source, copy.view, copy.shard) for copy in copies] == [
        (sources[0] if view == 0 else sources[1], view, shard) for view, shard in small.shards
    ]
    writer = StoreWriter(target, manifest, 2, tmp_path)
    for copy in copies:
        copy_shard(copy, target)
    assert not writer.finish().missing
    expected = small.content(whole)
    content = small.content(tmp_path / "heatmaps.zarr")
    del expected["zarr.json"], content["zarr.json"]  # the manifest of `small` has no versions
    assert content == expected
    assert plan_copies(sources, target) == []


def test_stores_of_different_settings_are_refused(small: Any, halves: tuple[Path, Path]) -> None:
    small.edit_manifest(halves[1], small.manifest() | {"max_error": 0.1, "encoding_error": {}})
    with pytest.raises(ValueError, match=r"b\.zarr cannot be joined with .*a\.zarr: max_error: "):
        common_manifest([open_storage(half) for half in halves])


def test_a_shard_that_differs_is_refused(small: Any, halves: tuple[Path, Path]) -> None:
    shard = small.shard(0, range(4, 8), 1)
    np.negative(shard.parameters_SP, out=shard.parameters_SP)
    small.open(halves[1]).write(shard)
    with pytest.raises(ValueError, match=r"differ in view 0, shard 1: .*`fpd verify-cache -w "):
        plan_copies([open_storage(half) for half in halves], None)


def test_a_damaged_file_is_refused_and_its_shard_does_not_count(
    small: Any, store: Path, tmp_path: Path
) -> None:
    target = Path(shutil.copytree(store, tmp_path / "target.zarr"))
    (store / "peaks/c/1/2/0").write_bytes(b"damaged")
    source = open_storage(store)
    with pytest.raises(ValueError, match=r"peaks/c/1/2/0 .*damaged.*--deep --repair"):
        copy_shard(Copy(source, 1, 2, stored_layout(source)), open_storage(target))
    assert small.open(target).coverage().missing == [(1, 2)]
