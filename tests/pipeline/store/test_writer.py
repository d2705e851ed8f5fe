"""Writing: the same bytes in any order, the receipt last, extension without changes to files."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.pipeline.store import (
    Shard,
    StoreReader,
    StoreWriter,
    coverage,
    open_storage,
    read_manifest,
)
from fpd.pipeline.store.local_storage import LocalStorage


def shard_files(content: dict[str, bytes]) -> dict[str, bytes]:
    """All files but metadata, which an extension rewrites."""
    return {name: data for name, data in content.items() if not name.endswith("zarr.json")}


def test_writing_a_shard_again_gives_the_same_bytes(small: Any, store: Path) -> None:
    before = small.content(store)
    small.write(small.open(store), small.shards).finish()
    assert small.content(store) == before


def test_the_order_of_writing_does_not_change_the_bytes(
    small: Any, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "heatmaps.zarr"
    small.write(small.open(path), small.shards[::-1])
    # Another process continues, and writes one shard again.
    small.write(small.open(path), [(0, 1)]).finish()
    assert small.content(path) == small.content(whole)


def test_a_shard_of_zeros_is_written(small: Any, tmp_path: Path) -> None:
    writer = small.open(tmp_path / "heatmaps.zarr")
    full = small.shard(0, range(4, 8), 1)
    zeros = [np.zeros_like(column) for column in full.columns().values()]
    writer.write(Shard(0, 1, *zeros, encoding_error={"max_error": 0.0}))
    assert (0, 1) not in writer.coverage().missing
    assert not StoreReader(writer.storage, small.layout).read(0, 4).coefficients.any()


def test_a_receipt_describes_its_files(small: Any, whole: Path) -> None:
    receipt = json.loads((whole / "heatmaps/receipts/1/2.json").read_text())
    assert set(receipt["arrays"]) == set(small.arrays)
    for name in small.arrays:
        (file,) = (f for f in (whole / name / "c/1/2").rglob("*") if f.is_file())
        assert receipt["arrays"][name] == {
            "bytes": file.stat().st_size,
            "blake2b": blake2b(file.read_bytes(), digest_size=16).hexdigest(),
        }
    assert (receipt["view"], receipt["shard"], receipt["samples"]) == (1, 2, 2)


def test_a_receipt_is_written_only_after_its_files(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    original_write = LocalStorage.write

    def watched(self: LocalStorage, name: str, content: bytes) -> None:
        written.append(name)
        original_write(self, name, content)

    writer = small.open(tmp_path / "heatmaps.zarr")
    monkeypatch.setattr(LocalStorage, "write", watched)
    small.write(writer, [(0, 1)])
    assert sorted(written[:-1]) == [
        "heatmaps/c/0/1/0/0/0/0",
        "parameters/c/0/1/0",
        "peaks/c/0/1/0",
        "steps/c/0/1/0",
    ]
    assert written[-1] == "heatmaps/receipts/0/1.json"


@pytest.mark.parametrize("last", ["heatmaps/c", "parameters/c", "heatmaps/receipts"])
def test_a_shard_whose_writing_fails_is_missing(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Even one that was complete before."""
    before = small.content(store)
    original_write = LocalStorage.write

    def fail(self: LocalStorage, name: str, content: bytes) -> None:
        if name.startswith(last):
            raise OSError("disk full")
        original_write(self, name, content)

    writer = small.open(store)
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "write", fail)
        with pytest.raises(OSError, match="disk full"):
            small.write(writer, [(0, 0)])
    assert writer.coverage().missing == [(0, 0)]
    small.write(writer).finish()
    assert small.content(store) == before


# Creating the store


def test_a_store_whose_creation_fails_is_created_by_the_next_call(
    small: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heatmaps.zarr"
    original_write = LocalStorage.write
    count = len([name for name in small.content(whole) if "zarr.json" in name]) + 1
    for broken in range(count):  # it fails at each object in turn
        names: list[str] = []

        def fail(self: LocalStorage, name: str, content: bytes) -> None:
            names.append(name)  # noqa: B023
            if len(names) > broken:  # noqa: B023
                raise KeyboardInterrupt
            original_write(self, name, content)

        with monkeypatch.context() as patched:
            patched.setattr(LocalStorage, "write", fail)
            with pytest.raises(KeyboardInterrupt):
                small.open(path)
        assert not open_storage(path).exists()
    small.write(small.open(path)).finish()
    assert small.content(path) == small.content(whole)


@pytest.mark.parametrize("kind", ["picture", "array", "file in an array's folder"])
def test_a_folder_with_other_files_is_refused(small: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "heatmaps.zarr"
    if kind == "picture":
        path.mkdir()
        (path / "holiday.jpg").write_bytes(b"\xff\xd8")
    if kind == "array":
        zarr.create_array(path / "mine", shape=(2,), dtype="u1")
    if kind == "file in an array's folder":
        (path / "heatmaps").mkdir(parents=True)
        (path / "heatmaps" / "notes.txt").write_text("mine")
    before = small.content(path)
    with pytest.raises(
        ValueError, match=r"expected a heatmap store or an empty place at .*, found .*--store"
    ):
        small.open(path)
    assert small.content(path) == before


def test_an_empty_folder_becomes_a_store(small: Any, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "heatmaps.zarr"
    path.mkdir()
    small.write(small.open(path)).finish()
    assert small.content(path) == small.content(whole)


def test_a_store_made_for_another_run_is_not_written_to(small: Any, store: Path) -> None:
    before = small.content(store)
    manifest = small.manifest() | {"max_error": 0.1}
    with pytest.raises(ValueError, match=r"max_error: expected 0\.1, found 0\.02.*--overwrite"):
        StoreWriter(open_storage(store), manifest, 3, store.parent, samples=small.samples())
    assert small.content(store) == before


# More views


def test_more_views_extend_a_store_without_changing_its_files(small: Any, store: Path) -> None:
    before = shard_files(small.content(store))
    times = {name: (store / name).stat().st_mtime_ns for name in before}
    writer = small.open(store, views=3)
    assert writer.coverage().missing == [(2, 0), (2, 1), (2, 2)]
    assert not small.write(writer).finish().missing
    after = small.content(store)
    assert {name: after[name] for name in before} == before
    assert {name: (store / name).stat().st_mtime_ns for name in before} == times
    reader = StoreReader(writer.storage, replace(small.layout, views=3))
    for view in range(3):
        for index in range(10):
            small.check(reader.read(view, index), view, index)
    assert zarr.open(store, mode="r")["heatmaps"].shape[0] == 3
    # A student that needs fewer views is served, too.
    assert not coverage(writer.storage, small.layout).missing


def test_an_extended_store_equals_one_made_at_once(small: Any, store: Path, tmp_path: Path) -> None:
    small.write(small.open(store, views=3)).finish()
    at_once = tmp_path / "at-once" / "heatmaps.zarr"
    small.write(small.open(at_once, views=3)).finish()
    assert shard_files(small.content(store)) == shard_files(small.content(at_once))
    for name in small.content(at_once):
        assert json_or_bytes(store / name) == json_or_bytes(at_once / name)


def json_or_bytes(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else path.read_bytes()


def test_fewer_views_do_not_shrink_a_store(small: Any, store: Path) -> None:
    before = small.content(store)
    small.open(store, views=1)
    assert small.content(store) == before


# More samples


def test_more_samples_extend_a_store_without_changing_its_files(small: Any, store: Path) -> None:
    before = shard_files(small.content(store))
    writer = small.open(store, samples=small.samples(15))
    assert writer.layout.segments == (10, 5)
    assert writer.coverage().missing == [(0, 3), (0, 4), (1, 3), (1, 4)]
    assert not small.write(writer).finish().missing
    after = small.content(store)
    assert {name: after[name] for name in before} == before
    reader = StoreReader(writer.storage, writer.layout)
    for view in range(2):
        for index in range(15):
            small.check(reader.read(view, index), view, index)
    counts = [data["samples"] for data in read_manifest(writer.storage)["datasets"]]
    assert counts == [10, 15]


def test_an_extended_store_serves_the_earlier_data_set(small: Any, store: Path) -> None:
    small.write(small.open(store, samples=small.samples(15))).finish()
    before = small.content(store)
    writer = small.open(store)  # the first 10
    assert writer.layout == small.layout
    assert writer.coverage().missing == []
    assert writer.coverage().total == 6
    small.open(store, samples=small.samples(15))
    assert small.content(store) == before


def test_samples_and_views_are_added_repeatedly(small: Any, store: Path) -> None:
    before = shard_files(small.content(store))
    small.write(small.open(store, samples=small.samples(11))).finish()
    writer = small.open(store, views=3, samples=small.samples(17))
    assert writer.layout.segments == (10, 1, 6)
    assert len(small.write(writer).finish().receipts) == 3 * (3 + 1 + 2)
    reader = StoreReader(writer.storage, writer.layout)
    for view, index in [(0, 9), (0, 10), (1, 11), (2, 16), (2, 0)]:
        small.check(reader.read(view, index), view, index)
    after = small.content(store)
    assert {name: after[name] for name in before} == before


def other_samples(small: Any, kind: str) -> Any:
    more = small.samples(15)
    if kind == "in another order":
        return more.take([1, 0, *range(2, 15)])
    if kind == "one left out":
        return more.take([*range(5), *range(6, 15)])
    if kind == "other labels":
        joints = more.joints_NK2.copy()
        joints[3] += 1
        return replace(more, joints_NK2=joints)
    if kind == "other boxes":
        return replace(more, side_N=more.side_N * 1.1)
    if kind == "other images":
        return synthetic_samples("train", 15, seed=1)
    return small.samples(5)  # fewer than the store was made of


@pytest.mark.parametrize(
    "kind",
    ["in another order", "one left out", "other labels", "other boxes", "other images", "fewer"],
)
def test_a_data_set_that_does_not_start_with_the_stores_is_refused(
    small: Any, store: Path, kind: str
) -> None:
    before = small.content(store)
    with pytest.raises(ValueError, match=r"does not fit this run: datasets\..*--overwrite"):
        small.open(store, samples=other_samples(small, kind))
    assert small.content(store) == before


def test_a_data_set_of_another_name_can_add_samples(small: Any, store: Path) -> None:
    """The data set "lsp+lspet" starts with "lsp"."""
    writer = small.open(store, samples=replace(small.samples(12), name="figures and more"))
    assert writer.layout.segments == (10, 2)
