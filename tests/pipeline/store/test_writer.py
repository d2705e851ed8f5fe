"""Writing: the same bytes whatever the order, the receipt last, extension that moves nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from fpd.data.readers.synthetic.people import synthetic_people
from fpd.pipeline.store import Shard, StoreReader, StoreWriter, coverage, files_at, read_manifest
from fpd.pipeline.store.storage import LocalFiles


def shard_files(content: dict[str, bytes]) -> dict[str, bytes]:
    """All but metadata, which extension rewrites."""
    return {name: data for name, data in content.items() if not name.endswith("zarr.json")}


def test_writing_a_shard_again_gives_the_same_bytes(small: Any, store: Path) -> None:
    before = small.content(store)
    small.write(small.open(store), small.shards).finish()
    assert small.content(store) == before


def test_the_order_of_writing_does_not_show(small: Any, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "heatmaps.zarr"
    small.write(small.open(path), small.shards[::-1])
    # Another process takes up where that one stopped, and writes one shard again.
    small.write(small.open(path), [(0, 1)]).finish()
    assert small.content(path) == small.content(whole)


def test_a_shard_of_zeros_is_written_all_the_same(small: Any, tmp_path: Path) -> None:
    writer = small.open(tmp_path / "heatmaps.zarr")
    full = small.shard(0, range(4, 8), 1)
    zeros = [np.zeros_like(column) for column in full.columns().values()]
    writer.write(Shard(0, 1, *zeros, measured={"max_error": 0.0}))
    assert (0, 1) not in writer.coverage().missing
    assert not StoreReader(writer.files, small.layout).read(0, 4).coefficients.any()


def test_a_receipt_vouches_for_its_files(small: Any, whole: Path) -> None:
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
    written = []
    write_as_usual = LocalFiles.write

    def watched(self: LocalFiles, name: str, content: bytes) -> None:
        written.append(name)
        write_as_usual(self, name, content)

    writer = small.open(tmp_path / "heatmaps.zarr")
    monkeypatch.setattr(LocalFiles, "write", watched)
    small.write(writer, [(0, 1)])
    assert sorted(written[:-1]) == [
        "heatmaps/c/0/1/0/0/0/0",
        "parameters/c/0/1/0",
        "peaks/c/0/1/0",
        "steps/c/0/1/0",
    ]
    assert written[-1] == "heatmaps/receipts/0/1.json"


@pytest.mark.parametrize("last", ["heatmaps/c", "steps/c", "parameters/c", "heatmaps/receipts"])
def test_a_shard_whose_writing_fails_does_not_count(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Not even one that was whole before."""
    before = small.content(store)
    write_as_usual = LocalFiles.write

    def fail(self: LocalFiles, name: str, content: bytes) -> None:
        if name.startswith(last):
            raise OSError("disk full")
        write_as_usual(self, name, content)

    writer = small.open(store)
    with monkeypatch.context() as patched:
        patched.setattr(LocalFiles, "write", fail)
        with pytest.raises(OSError, match="disk full"):
            small.write(writer, [(0, 0)])
    assert writer.coverage().missing == [(0, 0)]
    small.write(writer).finish()
    assert small.content(store) == before


# Making the store


def test_a_store_whose_making_fails_is_not_there_and_is_made_by_the_next_call(
    small: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heatmaps.zarr"
    write_as_usual = LocalFiles.write
    count = len([name for name in small.content(whole) if "zarr.json" in name]) + 1
    for broken in range(count):  # each object in turn is where it ends
        names: list[str] = []

        def fail(self: LocalFiles, name: str, content: bytes) -> None:
            names.append(name)  # noqa: B023
            if len(names) > broken:  # noqa: B023
                raise KeyboardInterrupt
            write_as_usual(self, name, content)

        with monkeypatch.context() as patched:
            patched.setattr(LocalFiles, "write", fail)
            with pytest.raises(KeyboardInterrupt):
                small.open(path)
        assert not files_at(path).exists()
    small.write(small.open(path)).finish()
    assert small.content(path) == small.content(whole)


@pytest.mark.parametrize("kind", ["folder of things", "array", "file in an array's place"])
def test_a_place_with_other_peoples_files_is_refused(small: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "heatmaps.zarr"
    if kind == "folder of things":
        path.mkdir()
        (path / "holiday.jpg").write_bytes(b"\xff\xd8")
    if kind == "array":
        zarr.create_array(path / "mine", shape=(2,), dtype="u1")
    if kind == "file in an array's place":
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


def test_a_store_of_another_making_is_not_written_to(small: Any, store: Path) -> None:
    before = small.content(store)
    manifest = small.manifest() | {"max_error": 0.1}
    with pytest.raises(ValueError, match=r"max_error: expected 0\.1, found 0\.02.*--overwrite"):
        StoreWriter(files_at(store), manifest, 3, store.parent, samples=small.people())
    assert small.content(store) == before


# More views


def test_more_views_extend_a_store_and_leave_its_files_alone(small: Any, store: Path) -> None:
    before = shard_files(small.content(store))
    times = {name: (store / name).stat().st_mtime_ns for name in before}
    writer = small.open(store, views=3)
    assert writer.coverage().missing == [(2, 0), (2, 1), (2, 2)]
    assert not small.write(writer).finish().missing
    after = small.content(store)
    assert {name: after[name] for name in before} == before
    assert {name: (store / name).stat().st_mtime_ns for name in before} == times
    reader = StoreReader(writer.files, replace(small.layout, views=3))
    for view in range(3):
        for index in range(10):
            small.check(reader.read(view, index), view, index)
    assert zarr.open(store, mode="r")["heatmaps"].shape[0] == 3
    # A student that asks for fewer views is served all the same.
    assert not coverage(writer.files, small.layout).missing


def test_a_store_extended_is_the_store_made_at_once(
    small: Any, store: Path, tmp_path: Path
) -> None:
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


def test_more_samples_extend_a_store_and_leave_its_files_alone(small: Any, store: Path) -> None:
    before = shard_files(small.content(store))
    writer = small.open(store, people=small.people(15))
    assert writer.layout.segments == (10, 5)
    assert writer.coverage().missing == [(0, 3), (0, 4), (1, 3), (1, 4)]
    assert not small.write(writer).finish().missing
    after = small.content(store)
    assert {name: after[name] for name in before} == before
    reader = StoreReader(writer.files, writer.layout)
    for view in range(2):
        for index in range(15):
            small.check(reader.read(view, index), view, index)
    counts = [data["samples"] for data in read_manifest(writer.files)["datasets"]]
    assert counts == [10, 15]


def test_the_data_set_from_before_is_served_by_an_extended_store(small: Any, store: Path) -> None:
    small.write(small.open(store, people=small.people(15))).finish()
    before = small.content(store)
    writer = small.open(store)  # the first ten again
    assert writer.layout == small.layout
    assert writer.coverage().missing == []
    assert writer.coverage().total == 6
    small.open(store, people=small.people(15))
    assert small.content(store) == before


def test_samples_and_views_are_added_again_and_again(small: Any, store: Path) -> None:
    before = shard_files(small.content(store))
    small.write(small.open(store, people=small.people(11))).finish()
    writer = small.open(store, views=3, people=small.people(17))
    assert writer.layout.segments == (10, 1, 6)
    assert len(small.write(writer).finish().receipts) == 3 * (3 + 1 + 2)
    reader = StoreReader(writer.files, writer.layout)
    for view, index in [(0, 9), (0, 10), (1, 11), (2, 16), (2, 0)]:
        small.check(reader.read(view, index), view, index)
    after = small.content(store)
    assert {name: after[name] for name in before} == before


def other_people(small: Any, kind: str) -> Any:
    more = small.people(15)
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
    if kind == "other pictures":
        return synthetic_people("train", 15, seed=1)
    return small.people(5)  # fewer, which no store was made of


@pytest.mark.parametrize(
    "kind",
    ["in another order", "one left out", "other labels", "other boxes", "other pictures", "fewer"],
)
def test_a_data_set_that_does_not_begin_with_the_stores_is_refused(
    small: Any, store: Path, kind: str
) -> None:
    before = small.content(store)
    with pytest.raises(ValueError, match=r"does not fit this run: datasets\..*--overwrite"):
        small.open(store, people=other_people(small, kind))
    assert small.content(store) == before


def test_a_data_sets_new_name_does_not_keep_it_from_adding(small: Any, store: Path) -> None:
    """ "lsp" is how "lsp+lspet" begins."""
    writer = small.open(store, people=replace(small.people(12), name="figures and more"))
    assert writer.layout.segments == (10, 2)
