"""Single views equal those of Zarr bit for bit, in any process; damaged ones are refused."""

from __future__ import annotations

import json
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
from numcodecs.checksum32 import CRC32C
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, GzipCodec
from zstandard import ZstdCompressor, ZstdDecompressor

import fpd.pipeline.store.reader as reader_module
from fpd.data.samples import SampleSet
from fpd.pipeline.store import (
    Layout,
    StoreReader,
    open_storage,
    read_heatmaps,
    stored_layout,
)
from fpd.pipeline.store.local_storage import LocalStorage
from fpd.pipeline.store.reader import has_own_layout
from fpd.pipeline.workdir import WorkDir

# Files of view 1, shard 2: samples 8 and 9.
HEATMAPS, STEPS, PEAKS, PARAMETERS = (
    "heatmaps/c/1/2/0/0/0/0",
    "steps/c/1/2/0",
    "peaks/c/1/2/0",
    "parameters/c/1/2/0",
)
VIEWS = [(view, index) for view in range(2) for index in range(10)]


@pytest.fixture
def read(small: Any) -> Any:
    """A reader of the small store at a path, which decodes whatever it finds."""

    def make(path: Path) -> StoreReader:
        return StoreReader(open_storage(path), small.layout, "some/where", check_digests=False)

    return make


def test_every_view_equals_zarrs_bit_for_bit(small: Any, whole: Path, read: Any) -> None:
    reader, group = read(whole), zarr.open(whole, mode="r")
    for view, index in random.Random(0).sample(VIEWS, len(VIEWS)):
        cached = reader.read(view, index)
        small.check(cached, view, index)
        for name, value in zip(small.arrays, cached, strict=True):
            assert value.tobytes() == np.asarray(group[name][view, index]).tobytes()


def test_every_view_of_the_toy_store_equals_zarrs(
    small: Any, toy_work: Path, toy_samples: SampleSet
) -> None:
    path = WorkDir(toy_work).store
    layout = stored_layout(open_storage(path))
    assert layout == Layout(2, (len(toy_samples),), joints=14, heatmap_px=16, shard_samples=8)
    reader, group = StoreReader(open_storage(path), layout), zarr.open(path, mode="r")
    arrays = {name: group[name][:] for name in small.arrays}
    assert arrays["heatmaps"].any()
    for view in range(2):
        for index in range(18):
            for name, value in zip(small.arrays, reader.read(view, index), strict=True):
                assert value.tobytes() == arrays[name][view, index].tobytes()


@pytest.mark.parametrize(("view", "index"), [(-1, 0), (2, 0), (0, -1), (0, 10)])
def test_a_view_or_sample_out_of_range_is_an_index_error(
    whole: Path, read: Any, view: int, index: int
) -> None:
    with pytest.raises(IndexError, match=r"expected a (view|sample) in 0\.\."):
        read(whole).read(view, index)


def test_what_is_read_is_a_copy(small: Any, whole: Path, read: Any) -> None:
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
    for view, index in random.Random(1).choices(VIEWS, k=60):
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
    """Mapped files do not count as memory; fetched ones do."""
    monkeypatch.setattr(LocalStorage, "is_local", local)
    unbounded, one = read(store), read(store)
    for view, index in VIEWS:
        unbounded.read(view, index)
    assert len(unbounded._shards) == 6
    monkeypatch.setattr(reader_module, "CACHE_BYTES", unbounded._memory // 2)
    half = read(store)
    for view, index in random.Random(1).choices(VIEWS, k=80):
        small.check(half.read(view, index), view, index)
        assert 0 < half._memory <= unbounded._memory // 2
    assert 2 <= len(half._shards) <= 4
    monkeypatch.setattr(reader_module, "CACHE_BYTES", 1)
    for view, index in ((0, 0), (1, 9)):
        small.check(one.read(view, index), view, index)
    assert len(one._shards) == 1  # the shard in use is kept, whatever its size


def test_the_least_recently_used_shard_is_closed(
    whole: Path, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 2)
    reader = read(whole)
    for index in (0, 4, 0, 8):
        reader.read(0, index)
    assert list(reader._shards) == [(0, 0), (0, 2)]


def test_a_shard_is_mapped_once(whole: Path, read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = []
    original = LocalStorage.read_array

    def watched(self: LocalStorage, name: str) -> NDArray[np.uint8]:
        mapped.append(name)
        return original(self, name)

    monkeypatch.setattr(LocalStorage, "read_array", watched)
    reader = read(whole)
    for index in (0, 3, 1, 0):
        reader.read(0, index)
    assert mapped == ["heatmaps/c/0/0/0/0/0/0"]


# Processes


def test_a_pickled_reader_reads(small: Any, whole: Path, read: Any) -> None:
    reader = read(whole)
    reader.read(0, 0)  # the mapped file is not pickled
    unpickled = pickle.loads(pickle.dumps(reader))
    for view, index in VIEWS:
        small.check(unpickled.read(view, index), view, index)
    assert len(pickle.dumps(reader)) < 2000


@pytest.mark.slow
def test_a_spawned_process_reads(small: Any, whole: Path, read: Any) -> None:
    reader = read(whole)
    reader.read(1, 9)
    script = (
        "import pickle, sys; reader = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(b''.join(part.tobytes() for part in reader.read(1, 9)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(reader), check=True, capture_output=True
    ).stdout
    assert output == b"".join(part.tobytes() for part in small.stored(1, 9))


class ByNumber(torch.utils.data.Dataset[Any]):
    """Stored views by number, for a data loader."""

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
    coefficients = np.concatenate([batch.numpy() for _, batch in batches])
    np.testing.assert_array_equal(coefficients, small.column(0).reshape(coefficients.shape))
    small.check(reader.read(0, 5), 0, 5)


# Missing and damaged shards


def test_an_all_zero_view_is_told_from_a_missing_one(small: Any, tmp_path: Path, read: Any) -> None:
    path = tmp_path / "heatmaps.zarr"
    small.write(small.open(path), [(1, 1)])
    cached = read(path).read(*small.zero)
    assert not cached.coefficients.any() and not cached.peaks.any()
    assert zarr.open(path, mode="r")["heatmaps"][0, 6].sum() == 0  # Zarr gives the same for both
    with pytest.raises(ValueError, match=r"view 0 of sample 6 .* cannot be read"):
        read(path).read(0, 6)


def test_a_missing_chunk_of_a_shard_is_refused(small: Any, store: Path, read: Any) -> None:
    """In a shard that another tool wrote without empty chunks."""
    with zarr.config.set({"array.write_empty_chunks": False}):
        zarr.open_group(store, mode="r+")["heatmaps"][1, 4:8] = small.column(0)[1, 4:8]
    reader = read(store)
    small.check(reader.read(1, 5), 1, 5)
    with pytest.raises(ValueError, match=r"view 1 of sample 6 .* cannot be read"):
        reader.read(*small.zero)


def test_a_view_that_cannot_be_read_is_named_with_the_command_that_repairs_it(
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


@pytest.mark.parametrize("kept", [0, 3, 20, 68, -1])
def test_a_truncated_shard_is_refused(store: Path, read: Any, kept: int) -> None:
    encoded = (store / HEATMAPS).read_bytes()
    (store / HEATMAPS).write_bytes(encoded[:kept])
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize(
    ("name", "kept"), [(STEPS, None), (PEAKS, 0), (PARAMETERS, 5), (STEPS, -1)]
)
def test_a_damaged_small_array_is_refused(
    store: Path, read: Any, name: str, kept: int | None
) -> None:
    encoded = (store / name).read_bytes()
    (store / name).unlink()
    if kept is not None:
        (store / name).write_bytes(encoded[:kept])
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize(
    ("name", "dtype", "rows"), [(STEPS, "<f2", 3), (PEAKS, "<f2", 5), (PARAMETERS, "<f8", 3)]
)
def test_a_small_array_of_another_length_is_refused(
    store: Path, read: Any, name: str, dtype: str, rows: int
) -> None:
    """With a correct checksum, but fewer or more values than the shard has samples."""
    values = np.ones((rows, 3), dtype)
    (store / name).write_bytes(ZstdCompressor(write_checksum=True).compress(values))
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize("kind", ["no size", "a huge size", "trailing bytes"])
def test_a_zstd_frame_of_another_size_is_refused(store: Path, read: Any, kind: str) -> None:
    values = np.ones((4, 3), "<f2")
    frame = ZstdCompressor(write_content_size=kind != "no size").compress(values)
    if kind == "a huge size":  # 2**62 bytes, in a header field of 8
        frame = b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + frame[6:]
    (store / PEAKS).write_bytes(frame + b"more" * (kind == "trailing bytes"))
    assert_refused(read(store), 1, 8)


@pytest.mark.parametrize("name", [HEATMAPS, STEPS, PEAKS, PARAMETERS])
def test_no_flipped_bit_ever_gives_wrong_numbers(
    small: Any, store: Path, read: Any, name: str
) -> None:
    """Reading a damaged shard raises, or returns exactly what was written."""
    encoded = (store / name).read_bytes()
    reader = read(store)
    reader.read(0, 0)
    refused = 0
    for position in range(0, len(encoded), -(-len(encoded) // 200)):
        damaged = bytearray(encoded)
        damaged[position] ^= 1 << position % 8
        (store / name).write_bytes(damaged)
        fresh = pickle.loads(pickle.dumps(reader))  # without open shards
        for index in (8, 9):
            try:
                cached = fresh.read(1, index)
            except ValueError as error:
                if f"view 1 of sample {index}" not in str(error):
                    raise
                refused += 1
            else:
                small.check(cached, 1, index)
    assert refused > 20


def test_a_flipped_byte_in_a_chunk_is_refused(small: Any, store: Path, read: Any) -> None:
    encoded = bytearray((store / HEATMAPS).read_bytes())
    offset, size = np.frombuffer(encoded[-4 - 16 * 4 : -4], "<u8").reshape(4, 2)[1].tolist()
    encoded[offset + size // 2] ^= 0xFF
    (store / HEATMAPS).write_bytes(encoded)
    reader = read(store)
    small.check(reader.read(1, 8), 1, 8)  # the other chunk is intact
    assert_refused(reader, 1, 9)


@pytest.mark.parametrize("from_end", [1, 5, 68])
def test_a_flipped_byte_in_the_index_is_refused(store: Path, read: Any, from_end: int) -> None:
    encoded = bytearray((store / HEATMAPS).read_bytes())
    encoded[-from_end] ^= 0x10
    (store / HEATMAPS).write_bytes(encoded)
    for index in (8, 9):
        assert_refused(read(store), 1, index)


# Digests


@pytest.fixture
def checking(small: Any, store: Path) -> StoreReader:
    """A reader as a student has it."""
    return StoreReader(open_storage(store), small.layout, "some/where")


@pytest.mark.parametrize(
    ("name", "dtype"), [(STEPS, "<f2"), (PEAKS, "<f2"), (PARAMETERS, "<f8"), (HEATMAPS, "")]
)
def test_a_file_that_was_written_again_at_the_same_size_is_refused(
    store: Path, checking: StoreReader, name: str, dtype: str
) -> None:
    """With correct checksums inside, so that only the receipt tells it from what was written."""
    encoded = (store / name).read_bytes()
    if name == HEATMAPS:  # with the chunks of its two samples swapped
        index = np.frombuffer(encoded[-4 - 16 * 4 : -4], "<u8").reshape(4, 2)[[1, 0, 2, 3]]
        changed = encoded[: -4 - 16 * 4] + bytes(CRC32C(location="end").encode(index.tobytes()))
    else:
        values = np.ndarray((4, 3), dtype, buffer=bytearray(ZstdDecompressor().decompress(encoded)))
        # Sums and multiples keep the size of values that zstd does not compress.
        values[:2] = values[1::-1]
        changed = ZstdCompressor(15, write_checksum=True).compress(values)
        changed = changed.ljust(len(encoded), b"\0")[: len(encoded)]
    assert len(changed) == len(encoded) and changed != encoded
    (store / name).write_bytes(changed)
    with pytest.raises(ValueError, match=r"was changed .*verify-cache -w some/where --deep --rep"):
        checking.read(1, 8)
    checking.read(1, 0)


def test_swapped_files_are_refused(small: Any, store: Path, checking: StoreReader) -> None:
    for name in ("parameters", "peaks"):
        one, other = store / f"{name}/c/0/0/0", store / f"{name}/c/1/0/0"
        one.rename(store / "kept")
        other.rename(one)
        (store / "kept").rename(other)
    for view in range(2):
        with pytest.raises(ValueError, match="peaks was changed after it was written"):
            checking.read(view, 0)
    small.check(checking.read(0, 4), 0, 4)


def test_a_shard_without_a_receipt_is_refused(store: Path, checking: StoreReader) -> None:
    (store / "heatmaps/receipts/1/2.json").unlink()
    with pytest.raises(ValueError, match="its receipt is missing or damaged"):
        checking.read(1, 8)


def test_each_shard_is_compared_with_its_receipt_once(
    store: Path, checking: StoreReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 1)
    compared = []
    monkeypatch.setattr(
        StoreReader, "_check_digests", lambda self, view, shard, files: compared.append(shard)
    )
    for index in (0, 1, 4):
        checking.read(0, index)
    assert compared == [0, 1]
    monkeypatch.undo()
    fresh = pickle.loads(pickle.dumps(checking))
    fresh.read(0, 0)
    assert fresh._checked == {(0, 0)}


def test_another_type_of_an_array_is_refused(store: Path, checking: StoreReader) -> None:
    """uint8 instead of int8: zarr-python would read every negative coefficient as a large one."""
    metadata = json.loads((store / "heatmaps/zarr.json").read_text())
    (store / "heatmaps/zarr.json").write_text(json.dumps(metadata | {"data_type": "uint8"}))
    with pytest.raises(ValueError, match="is not what fpd wrote"):
        checking.read(0, 0)
    with pytest.raises(ValueError, match="expected heatmaps as int8"):
        read_heatmaps(store, 0, [0])


# Other layouts, read through zarr-python


def rewrite(source: Path, target: Path, **changes: Any) -> Path:
    """Write the same arrays with other chunks and codecs."""
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
    "blosc, one chunk per sample": {"chunks": (1, 1), "shards": None, "compressors": BloscCodec()},
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_layout_is_read_through_zarr(
    small: Any, whole: Path, tmp_path: Path, read: Any, other: str
) -> None:
    path = rewrite(whole, tmp_path / "other.zarr", **OTHERS[other])
    assert not has_own_layout(open_storage(path), small.layout)
    reader = read(path)
    for view, index in random.Random(0).sample(VIEWS, len(VIEWS)):
        small.check(reader.read(view, index), view, index)


def test_a_damaged_chunk_of_another_layout_is_refused(
    small: Any, whole: Path, tmp_path: Path, read: Any
) -> None:
    path = rewrite(whole, tmp_path / "other.zarr", **OTHERS["blosc, one chunk per sample"])
    (path / "heatmaps/c/1/9/0/0/0/0").write_bytes(b"noise")
    assert_refused(read(path), 1, 9)
    small.check(read(path).read(1, 7), 1, 7)


def test_a_missing_chunk_of_another_layout_is_refused(
    small: Any, whole: Path, tmp_path: Path, read: Any
) -> None:
    """zarr-python returns zeros for a missing chunk, but a step is never 0."""
    path = rewrite(whole, tmp_path / "other.zarr", **OTHERS["blosc, one chunk per sample"])
    (path / "steps/c/1/9/0").unlink()
    assert_refused(read(path), 1, 9)
    small.check(read(path).read(1, 8), 1, 8)


def test_the_own_layout_is_recognized_before_and_after_an_extension(
    small: Any, store: Path
) -> None:
    assert has_own_layout(open_storage(store), small.layout)
    small.open(store, views=5, samples=small.samples(13))
    assert has_own_layout(open_storage(store), small.layout)


# Decoded heatmaps


def test_decoded_heatmaps_equal_the_teachers_output_within_the_bound(
    small: Any, whole: Path
) -> None:
    for view in range(2):
        heatmaps = read_heatmaps(whole, view, range(10))
        assert (heatmaps.dtype, heatmaps.shape) == (np.float32, (10, 3, 12, 12))
        output = np.stack([small.teacher_output(view, index) for index in range(10)])
        bound = small.max_error * output.max((-2, -1), keepdims=True).clip(min=0.1)
        assert (np.abs(heatmaps - output) <= bound).all()


def decode_with_numpy(path: Path, view: int, index: int) -> NDArray[np.float64]:
    """As docs/store.md shows it for readers without this package."""
    group: Any = zarr.open(path, mode="r")
    coefficients = group["heatmaps"][view, index].astype(float)
    steps = group["steps"][view, index].astype(float)[:, None, None, None]
    cosines, pixels = group["basis"][:].astype(float)
    blocks = np.where(steps < 0, coefficients @ pixels, coefficients @ cosines)
    blocks = blocks.clip(min=0) * np.abs(steps)
    joints, rows, columns, _ = blocks.shape
    heatmaps = blocks.reshape(joints, rows, columns, 8, 8).swapaxes(2, 3)
    size = group["heatmaps"].attrs["heatmap_px"]
    return np.asarray(heatmaps.reshape(joints, 8 * rows, 8 * columns)[:, :size, :size])


def test_zarr_and_numpy_alone_decode_to_the_same_values(small: Any, whole: Path) -> None:
    steps = small.column(1)
    assert (steps < 0).any() and (steps > 0).any()
    for view in range(2):
        heatmaps = read_heatmaps(whole, view, range(10))
        expected = np.stack([decode_with_numpy(whole, view, index) for index in range(10)])
        np.testing.assert_allclose(heatmaps, expected, atol=1e-5)


def test_samples_may_be_in_any_order(whole: Path) -> None:
    heatmaps = read_heatmaps(str(whole), 1, range(10))
    np.testing.assert_array_equal(read_heatmaps(whole, 1, [7, 2, 7]), heatmaps[[7, 2, 7]])


def test_no_samples_give_an_empty_array(whole: Path) -> None:
    assert read_heatmaps(whole, 0, []).shape == (0, 3, 12, 12)


@pytest.mark.parametrize(("view", "samples"), [(2, [0]), (0, [10]), (0, [-1])])
def test_decoding_a_view_or_sample_out_of_range_is_an_index_error(
    whole: Path, view: int, samples: list[int]
) -> None:
    with pytest.raises(IndexError, match=r"expected a (view|sample) in 0\.\."):
        read_heatmaps(whole, view, samples)


def test_decoding_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a heatmap store"):
        read_heatmaps(tmp_path / "nothing.zarr", 0, [0])
