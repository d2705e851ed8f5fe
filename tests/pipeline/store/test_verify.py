"""Damage is found and named; views to compare are spread evenly; problems name the next command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fpd.pipeline.store import Layout, open_storage
from fpd.pipeline.store.coverage import sealed
from fpd.pipeline.store.verify import (
    CheckedView,
    Damage,
    Verification,
    damaged_metadata,
    examine,
    spread,
)
from fpd.pipeline.store.writer import digest

RECEIPT, PEAKS = "heatmaps/receipts/1/2.json", "peaks/c/1/2/0"


def test_an_intact_shard_has_no_damage(small: Any, whole: Path) -> None:
    for view, shard in small.shards:
        assert examine(open_storage(whole), small.layout, view, shard) == []
    assert damaged_metadata(open_storage(whole)) == {}


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("missing", "is missing"),
        ("truncated", "has 5 bytes, expected "),
        ("changed", "was changed"),
        ("a folder", "cannot be read"),
    ],
)
def test_a_damaged_file_is_named(small: Any, store: Path, damage: str, what: str) -> None:
    content = (store / PEAKS).read_bytes()
    (store / PEAKS).unlink()
    if damage == "truncated":
        (store / PEAKS).write_bytes(content[:5])
    if damage == "changed":
        (store / PEAKS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if damage == "a folder":
        (store / PEAKS).mkdir()
    (found,) = examine(open_storage(store), small.layout, 1, 2)
    assert found[:3] == ("peaks", 1, 2)
    assert what in found.what


def test_a_missing_receipt_is_damage(small: Any, store: Path) -> None:
    (store / RECEIPT).unlink()
    expected = Damage("receipt", 1, 2, "is missing or damaged")
    assert examine(open_storage(store), small.layout, 1, 2) == [expected]


def test_files_that_were_damaged_before_their_receipt_are_found_by_decoding(
    small: Any, store: Path
) -> None:
    content = (store / PEAKS).read_bytes()
    content = content[:-1] + bytes([content[-1] ^ 1])
    (store / PEAKS).write_bytes(content)
    receipt = json.loads((store / RECEIPT).read_text())
    receipt["arrays"]["peaks"]["blake2b"] = digest(content)
    (store / RECEIPT).write_bytes(sealed(receipt))
    assert examine(open_storage(store), small.layout, 1, 2, decode=False) == []
    (damage,) = examine(open_storage(store), small.layout, 1, 2)
    assert "cannot be decoded" in damage.what


@pytest.mark.parametrize("name", ["steps/zarr.json", "basis/zarr.json", "basis/c/0/0/0"])
@pytest.mark.parametrize("content", [None, b"{}", b"["])
def test_damaged_metadata_is_named_with_its_correct_content(
    small: Any, store: Path, name: str, content: bytes | None
) -> None:
    expected = (store / name).read_bytes()
    (store / name).unlink()
    if content is not None:
        (store / name).write_bytes(content)
    assert damaged_metadata(open_storage(store)) == {name: expected}


def test_metadata_without_any_shape_is_made_from_the_receipts(small: Any, store: Path) -> None:
    expected = {}
    for array in small.arrays:
        expected[f"{array}/zarr.json"] = (store / array / "zarr.json").read_bytes()
        (store / array / "zarr.json").unlink()
    assert damaged_metadata(open_storage(store)) == expected


def test_sizes_that_no_store_has_are_damage(small: Any, store: Path) -> None:
    for array in small.arrays[:2]:
        path = store / array / "zarr.json"
        metadata = json.loads(path.read_text())
        metadata["shape"][0] = 10**12
        path.write_text(json.dumps(metadata))
    assert damaged_metadata(open_storage(store)).keys() == {"heatmaps/zarr.json", "steps/zarr.json"}


def test_entries_that_readers_must_understand_are_damage(small: Any, store: Path) -> None:
    path = store / "steps/zarr.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"note": {"must_understand": False}}))
    assert damaged_metadata(open_storage(store)) == {}
    path.write_text(json.dumps(metadata | {"note": 1}))
    assert damaged_metadata(open_storage(store)).keys() == {"steps/zarr.json"}


def test_the_groups_metadata_is_checked_without_its_attributes(small: Any, store: Path) -> None:
    path = store / "zarr.json"
    before = path.read_bytes()
    metadata = json.loads(before)
    path.write_text(json.dumps(metadata | {"node_type": "array"}))
    assert damaged_metadata(open_storage(store)) == {"zarr.json": before}


def test_views_are_spread_over_shards_and_rows() -> None:
    layout = Layout(views=2, segments=(95,), joints=1, heatmap_px=8, shard_samples=10)
    tasks = layout.tasks()
    chosen = spread(layout, tasks, 20)
    assert chosen == spread(layout, tasks, 20)
    assert len(set(chosen)) == 20
    assert {(view, layout.locate(index)[0]) for view, index in chosen} == set(tasks)
    assert len({index % 10 for _, index in chosen}) > 5
    assert len(spread(layout, tasks, 3)) == 3
    assert len(set(spread(layout, tasks, 10_000))) == 2 * 95
    assert spread(layout, [], 5) == spread(layout, tasks, 0) == []


def verification(small: Any, **changes: Any) -> Verification:
    intact: dict[str, Any] = {
        "location": "x.zarr",
        "work": "w",
        "layout": small.layout,
        "ids": tuple(small.samples().ids),
        "damaged_metadata": [],
        "damages": [],
        "repaired": False,
        "compared_views": None,
        "not_compared": "none in the work directory",
        "bound": 0.1,
        "deep": False,
    }
    return Verification(**intact | changes)


def test_a_problem_is_stated_with_the_command_that_repairs_it(small: Any) -> None:
    assert verification(small).problem is None
    damages = [Damage("peaks", 1, 2, "is missing"), Damage("steps", 1, 2, "is missing")]
    damaged = verification(small, damages=damages, damaged_metadata=["steps/zarr.json"])
    assert "1 of 6 shards and 1 description of an array" in str(damaged.problem)
    assert "`fpd verify-cache -w w --deep --repair`" in str(damaged.problem)
    assert verification(small, damages=damages, repaired=True).problem is None


def test_a_view_beyond_the_bound_is_a_problem(small: Any) -> None:
    close, far = CheckedView(0, "a", 0.1, math.nan), CheckedView(1, "b", math.nan, 2.0)
    assert verification(small, compared_views=[close]).problem is None
    wrong = verification(small, compared_views=[far, close])
    assert wrong.wrong_views == [far]
    assert "1 of 2 views" in str(wrong.problem)
    assert "`fpd cache-heatmaps -w w --overwrite`" in str(wrong.problem)
