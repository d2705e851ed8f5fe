"""Single views: bit for bit those of Zarr, in any process; damage is named, never passed on."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, GzipCodec
from zstandard import ZstdCompressor

import fpd.pipeline.store.reader as reader_module
from fpd.data.samples import SampleSet
from fpd.pipeline.store import Layout, StoreReader, files_at, stored_layout
from fpd.pipeline.store.reader import has_own_layout
from fpd.pipeline.store.storage import LocalFiles
from fpd.pipeline.workdir import WorkDir

# Files of view 1, shard 2: people 8 and 9.
HEATMAPS, STEPS, PEAKS, PARAMETERS = (
    "heatmaps/c/1/2/0/0/0/0",
    "steps/c/1/2/0",
    "peaks/c/1/2/0",
    "parameters/c/1/2/0",
)
VIEWS = [(view, index) for view in range(2) for index in range(10)]


@pytest.fixture
def read(small: Any) -> Any:
    """A reader of the small store at a path."""

    def make(path: Path) -> StoreReader:
        return StoreReader(files_at(path), small.layout, "some/where")

    return make


def test_every_view_is_bit_for_bit_that_of_zarr(small: Any, whole: Path, read: Any) -> None:
    reader, group = read(whole), zarr.open(whole, mode="r")
    for view, index in random.Random(0).sample(VIEWS, len(VIEWS)):
        found = reader.read(view, index)
        small.check(found, view, index)
        for name, value in zip(small.arrays, found, strict=True):
            assert value.tobytes() == np.asarray(group[name][view, index]).tobytes()


def test_the_toy_stores_every_view_is_that_of_zarr(
    small: Any, toy_work: Path, toy_samples: SampleSet
) -> None:
    path = WorkDir(toy_work).store
    layout = stored_layout(files_at(path))
    assert layout == Layout(2, (len(toy_samples),), joints=14, heatmap_px=16, shard_samples=8)
    reader, group = StoreReader(files_at(path), layout), zarr.open(path, mode="r")
    arrays = {name: group[name][:] for name in small.arrays}
    assert arrays["heatmaps"].any()
    for view in range(2):
        for index in range(18):
            for name, value in zip(small.arrays, reader.read(view, index), strict=True):
                assert value.tobytes() == arrays[name][view, index].tobytes()


@pytest.mark.parametrize(("view", "index"), [(-1, 0), (2, 0), (0, -1), (0, 10)])
def test_a_view_or_sample_that_is_not_there_is_an_index_error(
    whole: Path, read: Any, view: int, index: int
) -> None:
    with pytest.raises(IndexError, match=r"expected a (view|sample) in 0\.\."):
        read(whole).read(view, index)


def test_what_is_read_is_ones_own(small: Any, whole: Path, read: Any) -> None:
    """No window onto the file that would change, or vanish, with it."""
    reader = read(whole)
    reader.read(0, 0).coefficients[:] = 99
    small.check(reader.read(0, 0), 0, 0)


# Open files and memory


def open_files(path: Path) -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.readlink().is_relative_to(path) for link in links)


def mapped_files(path: Path) -> int:
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_no_more_shards_are_held_open_than_allowed(
    small: Any, store: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 2)
    reader = read(store)
    assert mapped_files(store) == open_files(store) == 0
    for view, index in random.Random(1).choices(VIEWS, k=300):
        small.check(reader.read(view, index), view, index)
        assert open_files(store) <= 2
        assert mapped_files(store) <= 2
    assert mapped_files(store) == 2
    del reader
    assert mapped_files(store) == open_files(store) == 0


@pytest.mark.parametrize("local", [True, False])
def test_no_more_memory_is_held_than_allowed(
    small: Any, store: Path, read: Any, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    """Of mapped shards what was decoded counts, of others all of it."""
    monkeypatch.setattr(LocalFiles, "is_local", local)
    unbounded, one = read(store), read(store)
    for view, index in VIEWS:
        unbounded.read(view, index)
    assert len(unbounded._shards) == 6
    monkeypatch.setattr(reader_module, "FETCHED_BYTES", unbounded._memory // 2)
    half = read(store)
    for view, index in random.Random(1).choices(VIEWS, k=200):
        small.check(half.read(view, index), view, index)
        assert 0 < half._memory <= unbounded._memory // 2
    assert 2 <= len(half._shards) <= 4
    monkeypatch.setattr(reader_module, "FETCHED_BYTES", 1)
    for view, index in ((0, 0), (1, 9)):
        small.check(one.read(view, index), view, index)
    assert len(one._shards) == 1  # the one in use stays, whatever its size


def test_the_least_recently_used_shard_is_let_go(
    whole: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 2)
    reader = read(whole)
    for index in (0, 4, 0, 8):
        reader.read(0, index)
    assert list(reader._shards) == [(0, 0), (0, 2)]


def test_a_shard_is_opened_once(whole: Path, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    viewed = []
    view_as_usual = LocalFiles.view

    def watched(self: LocalFiles, name: str) -> NDArray[np.uint8]:
        viewed.append(name)
        return view_as_usual(self, name)

    monkeypatch.setattr(LocalFiles, "view", watched)
    reader = read(whole)
    for index in (0, 3, 1, 0):
        reader.read(0, index)
    assert viewed == ["heatmaps/c/0/0/0/0/0/0"]


# Processes


def test_a_pickled_reader_reads(small: Any, whole: Path, read: Any) -> None:
    reader = read(whole)
    reader.read(0, 0)  # a map of the file does not travel
    again = pickle.loads(pickle.dumps(reader))
    for view, index in VIEWS:
        small.check(again.read(view, index), view, index)
    assert len(pickle.dumps(reader)) < 2000


def test_a_spawned_process_reads(small: Any, whole: Path, read: Any) -> None:
    reader = read(whole)
    reader.read(1, 9)
    script = (
        "import pickle, sys; reader = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(b''.join(part.tobytes() for part in reader.read(1, 9)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(reader), check=True, capture_output=True
    ).stdout
    assert found == b"".join(part.tobytes() for part in small.stored(1, 9))


class ByNumber(torch.utils.data.Dataset[Any]):
    """A data set of stored views by number."""

    def __init__(self, reader: StoreReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(VIEWS)

    def __getitem__(self, number: int) -> tuple[int, NDArray[np.int8]]:
        return os.getpid(), self.reader.read(*VIEWS[number]).coefficients


def test_forked_workers_read_what_their_parent_has_open(small: Any, whole: Path, read: Any) -> None:
    reader = read(whole)
    for view, index in VIEWS:
        reader.read(view, index)
    loader = torch.utils.data.DataLoader(
        ByNumber(reader), batch_size=4, num_workers=2, multiprocessing_context="fork"
    )
    batches = list(loader)
    assert len({int(pid) for pids, _ in batches for pid in pids} - {os.getpid()}) == 2
    found = np.concatenate([coefficients.numpy() for _, coefficients in batches])
    np.testing.assert_array_equal(found, small.column(0).reshape(found.shape))
    small.check(reader.read(0, 5), 0, 5)


# What was never written, and what was damaged


def test_an_all_zero_view_is_told_from_one_never_written(
    small: Any, tmp_path: Path, read: Any
) -> None:
    path = tmp_path / "heatmaps.zarr"
    small.write(small.open(path), [(1, 1)])
    found = read(path).read(*small.zero)
    assert not found.coefficients.any() and not found.peaks.any()
    assert zarr.open(path, mode="r")["heatmaps"][0, 6].sum() == 0  # all the same to Zarr
    with pytest.raises(ValueError, match=r"view 0 of sample 6 .* cannot be read"):
        read(path).read(0, 6)


def test_an_unwritten_chunk_in_a_shard_is_refused(small: Any, store: Path, read: Any) -> None:
    """A shard another tool wrote, without its empty chunks."""
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_group(store, mode="r+")["heatmaps"][1, 4:8] = small.column(0)[1, 4:8]
    reader = read(store)
    small.check(reader.read(1, 5), 1, 5)
    with pytest.raises(ValueError, match=r"view 1 of sample 6 .* cannot be read"):
        reader.read(*small.zero)


def test_a_view_that_cannot_be_read_is_named_with_what_mends_it(
    small: Any, store: Path, read: Any
) -> None:
    (store / HEATMAPS).unlink()
    reader = read(store)
    with pytest.raises(ValueError, match=r"view 1 of sample 9 \(shard 2\) cannot") as caught:
        reader.read(1, 9)
    assert str(store / HEATMAPS) in str(caught.value)
    assert "`fpd verify-cache -w some/where --deep --repair`" in str(caught.value)
    small.check(reader.read(1, 7), 1, 7)


def assert_refused(reader: StoreReader, view: int, index: int) -> None:
    with pytest.raises(ValueError, match=f"view {view} of sample {index} .* cannot be read"):
        reader.read(view, index)


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 20, 67, 68, -1])
def test_a_truncated_shard_is_refused(store: Path, read: Any, kept: int) -> None:
    encoded = (store / HEATMAPS).read_bytes()
    (store / HEATMAPS).write_bytes(encoded[:kept])
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize("name", [STEPS, PEAKS, PARAMETERS])
@pytest.mark.parametrize("kept", [None, 0, 5, -1])
def test_a_damaged_column_is_refused(store: Path, read: Any, name: str, kept: int | None) -> None:
    encoded = (store / name).read_bytes()
    (store / name).unlink()
    if kept is not None:
        (store / name).write_bytes(encoded[:kept])
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize(("name", "dtype"), [(STEPS, "<f2"), (PEAKS, "<f2"), (PARAMETERS, "<f8")])
@pytest.mark.parametrize("rows", [3, 5])
def test_a_column_of_another_length_is_refused(
    store: Path, read: Any, name: str, dtype: str, rows: int
) -> None:
    """Intact by its checksum, but with fewer or more numbers than the shard has samples."""
    values = np.ones((rows, 3), dtype)
    (store / name).write_bytes(ZstdCompressor(write_checksum=True).compress(values))
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize("kind", ["no size", "a huge size", "more behind"])
def test_a_frame_that_is_not_of_the_right_size_is_refused(
    store: Path, read: Any, kind: str
) -> None:
    values = np.ones((4, 3), "<f2")
    frame = ZstdCompressor(write_content_size=kind != "no size").compress(values)
    if kind == "a huge size":  # 2**62 bytes, in 8 of a frame's header
        frame = b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + frame[6:]
    (store / PEAKS).write_bytes(frame + b"more" * (kind == "more behind"))
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize("name", [HEATMAPS, STEPS, PEAKS, PARAMETERS])
def test_no_flipped_bit_ever_gives_wrong_numbers(
    small: Any, store: Path, read: Any, name: str
) -> None:
    """A damaged shard may be refused, or give the very bytes that were written; nothing else."""
    encoded = (store / name).read_bytes()
    reader = read(store)
    reader.read(0, 0)
    refused = 0
    for position in range(len(encoded)):
        damaged = bytearray(encoded)
        damaged[position] ^= 1 << position % 8
        (store / name).write_bytes(damaged)
        anew = pickle.loads(pickle.dumps(reader))  # with nothing held open
        for index in (8, 9):
            try:
                found = anew.read(1, index)
            except ValueError as error:
                if f"view 1 of sample {index}" not in str(error):
                    raise
                refused += 1
            else:
                small.check(found, 1, index)
    assert refused > len(encoded) / 4


def test_a_flipped_byte_in_a_chunk_is_refused(small: Any, store: Path, read: Any) -> None:
    encoded = bytearray((store / HEATMAPS).read_bytes())
    offset, size = np.frombuffer(encoded[-4 - 16 * 4 : -4], "<u8").reshape(4, 2)[1].tolist()
    encoded[offset + size // 2] ^= 0xFF
    (store / HEATMAPS).write_bytes(encoded)
    reader = read(store)
    small.check(reader.read(1, 8), 1, 8)  # the neighbor is whole
    assert_refused(reader, 1, 9)


@pytest.mark.parametrize("from_end", [1, 4, 5, 12, 30, 68])
def test_a_flipped_byte_in_the_index_is_refused(store: Path, read: Any, from_end: int) -> None:
    encoded = bytearray((store / HEATMAPS).read_bytes())
    encoded[-from_end] ^= 0x10
    (store / HEATMAPS).write_bytes(encoded)
    for index in (8, 9):
        assert_refused(read(store), 1, index)


# Other layouts, through zarr-python


def rewrite(source: Path, target: Path, **changes: Any) -> Path:
    """The same arrays, written by zarr-python with other chunks and codecs."""
    group = zarr.open_group(source, mode="r")
    copy = zarr.create_group(target, zarr_format=3, attributes=dict(group.attrs))
    for name, array in group.arrays():
        spec = {"chunks": array.chunks, "shards": array.shards} | changes
        if name == "basis":
            spec = {"chunks": array.chunks}
        elif "chunks" in changes:
            spec["chunks"] = (*changes["chunks"], *array.shape[2:])
        made = copy.create_array(
            name, shape=array.shape, dtype=array.dtype, attributes=dict(array.attrs), **spec
        )
        made[:] = array[:]
    return target


OTHERS: dict[str, dict[str, Any]] = {
    "other chunks": {"chunks": (2, 5), "shards": None},
    "no compression": {"chunks": (1, 4), "shards": None, "compressors": None},
    "gzip": {"compressors": GzipCodec(level=1)},
    "blosc, a chunk a sample": {"chunks": (1, 1), "shards": None, "compressors": BloscCodec()},
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_layout_is_read_through_zarr(
    small: Any, whole: Path, tmp_path: Path, read: Any, other: str
) -> None:
    path = rewrite(whole, tmp_path / "other.zarr", **OTHERS[other])
    assert not has_own_layout(files_at(path), small.layout)
    reader = read(path)
    for view, index in random.Random(0).sample(VIEWS, len(VIEWS)):
        small.check(reader.read(view, index), view, index)


def test_a_damaged_chunk_of_another_layout_is_refused(
    small: Any, whole: Path, tmp_path: Path, read: Any
) -> None:
    path = rewrite(whole, tmp_path / "other.zarr", **OTHERS["blosc, a chunk a sample"])
    (path / "heatmaps/c/1/9/0/0/0/0").write_bytes(b"noise")
    assert_refused(read(path), 1, 9)
    small.check(read(path).read(1, 7), 1, 7)


def test_what_another_layout_never_had_written_is_refused(
    small: Any, whole: Path, tmp_path: Path, read: Any
) -> None:
    """zarr-python gives zeros for a missing chunk; a step of 0 is none."""
    path = rewrite(whole, tmp_path / "other.zarr", **OTHERS["blosc, a chunk a sample"])
    (path / "steps/c/1/9/0").unlink()
    assert_refused(read(path), 1, 9)
    small.check(read(path).read(1, 8), 1, 8)


def test_its_own_layout_is_recognised_before_and_after_it_grew(small: Any, store: Path) -> None:
    assert has_own_layout(files_at(store), small.layout)
    small.open(store, views=5, people=small.people(13))
    assert has_own_layout(files_at(store), small.layout)
