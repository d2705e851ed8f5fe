"""The heatmap store: its bytes as other tools see them, what counts as there, what is refused.

Layout of the small store: 2 views of 10 people in shards of 4, so 3 shards a view, the last with
two people and two rows of padding.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fpd.pipeline.store.reader as reader_module
import fpd.pipeline.store.writer as writer_module
from fpd.data.readers import load
from fpd.data.samples import SampleSet
from fpd.pipeline.recipe import Recipe, apply_overrides
from fpd.pipeline.store import (
    Layout,
    Shard,
    StoreReader,
    StoreWriter,
    check_complete,
    check_manifest,
    coverage,
    layout_of,
    make_manifest,
    open_layout,
    read_manifest,
)
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student

LAYOUT = Layout(views=2, samples=10, joints=3, heatmap_px=6, shard_samples=4)
SHARDS = [(view, shard) for view in range(2) for shard in range(3)]
MANIFEST = {"max_error": 0.05, "teacher": {"sha256": "0" * 64}}
CPU = torch.device("cpu")
ZERO = (1, 6)  # (view, sample) of a view that is zero everywhere

HEATMAP_FILE = Path("heatmaps/c/1/2/0/0/0")  # view 1, shard 2: people 8 and 9


@dataclass
class Truth:
    """What the small store should hold."""

    heatmaps: NDArray[np.uint8]
    peaks: NDArray[np.float16]
    parameters: NDArray[np.float64]

    def shard(self, view: int, shard: int, **measured: float) -> Shard:
        rows = slice(4 * shard, min(4 * shard + 4, 10))
        columns = (column[view, rows] for column in (self.heatmaps, self.peaks, self.parameters))
        return Shard(view, shard, *columns, measured=measured or {"max_error": 0.0})


def make_truth(views: int = 2) -> Truth:
    """The same for a view however many there are."""
    heatmaps, peaks, parameters = [], [], []
    for view in range(views):
        rng = np.random.default_rng(view)
        # Mostly zero, as heatmaps are; zstd has something to do.
        shown = rng.random((10, 3, 6, 6)) < 0.3
        heatmaps.append((rng.integers(1, 11, shown.shape) * shown).astype(np.uint8))
        peaks.append((1 - rng.random((10, 3))).astype(np.float16))
        parameters.append(rng.normal(size=(10, 3)))
    truth = Truth(np.stack(heatmaps), np.stack(peaks), np.stack(parameters))
    truth.heatmaps[ZERO], truth.peaks[ZERO] = 0, 0
    return truth


TRUTH = make_truth()


def make_store(path: Path, order: list[tuple[int, int]] = SHARDS, **changes: Any) -> StoreWriter:
    writer = StoreWriter(path, MANIFEST, replace(LAYOUT, **changes), path.parent)
    truth = make_truth(writer.layout.views)
    for view, shard in order:
        writer.write(truth.shard(view, shard))
    return writer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete small store. Not to be written to."""
    path = tmp_path_factory.mktemp("whole") / "heatmaps.zarr"
    make_store(path).finish()
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "heatmaps.zarr"))


def content(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


# What other tools see


def test_plain_zarr_reads_what_was_written(whole: Path) -> None:
    group = zarr.open(whole, mode="r")
    for name in ("heatmaps", "peaks", "parameters"):
        array, truth = group[name], getattr(TRUTH, name)
        assert array.dtype == truth.dtype
        assert array.shape[:2] == (2, 12)
        np.testing.assert_array_equal(array[:, :10], truth)
        assert not array[:, 10:].any()  # padding
    assert group.attrs["fpd"]["max_error"] == 0.05


def metadata(path: Path, array: str) -> dict[str, Any]:
    return dict(json.loads((path / array / "zarr.json").read_text()))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "file_shape", "dimensions"),
    [
        ("heatmaps", "uint8", [2, 12, 3, 6, 6], [1, 4, 3, 6, 6], "view sample joint y x"),
        ("peaks", "float16", [2, 12, 3], [1, 4, 3], "view sample joint"),
        ("parameters", "float64", [2, 12, 3], [1, 4, 3], "view sample parameter"),
    ],
)
def test_metadata_as_the_schema_says(
    whole: Path, name: str, dtype: str, shape: list[int], file_shape: list[int], dimensions: str
) -> None:
    found = metadata(whole, name)
    assert (found["zarr_format"], found["node_type"], found["fill_value"]) == (3, "array", 0)
    assert (found["data_type"], found["shape"]) == (dtype, shape)
    assert found["chunk_grid"]["configuration"]["chunk_shape"] == file_shape
    assert found["chunk_key_encoding"] == {
        "name": "default",
        "configuration": {"separator": "/"},
    }
    assert found["dimension_names"] == dimensions.split()
    codecs = found["codecs"]
    if name == "heatmaps":
        assert [codec["name"] for codec in codecs] == ["sharding_indexed"]
        sharding = codecs[0]["configuration"]
        assert sharding["chunk_shape"] == [1, 1, 3, 6, 6]
        assert sharding["index_location"] == "end"
        assert [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        codecs = sharding["codecs"]
    assert [codec["name"] for codec in codecs] == ["bytes", "zstd"]
    assert codecs[1]["configuration"] == {"level": 3, "checksum": True}
    if dtype != "uint8":
        assert codecs[0]["configuration"] == {"endian": "little"}


def test_attributes_say_what_the_numbers_are(whole: Path) -> None:
    attributes = metadata(whole, "heatmaps")["attributes"]
    assert (attributes["scale_factor"], attributes["add_offset"]) == (0.1, 0.0)  # 2 x max_error
    assert metadata(whole, "parameters")["attributes"]["names"] == [
        "scale",
        "rotation_deg",
        "mirror",
    ]


def test_one_shard_is_three_files_and_a_receipt(whole: Path) -> None:
    expected = {"zarr.json", *(f"{name}/zarr.json" for name in ("heatmaps", "peaks", "parameters"))}
    for view, shard in SHARDS:
        expected |= {
            f"heatmaps/c/{view}/{shard}/0/0/0",
            f"peaks/c/{view}/{shard}/0",
            f"parameters/c/{view}/{shard}/0",
            f"heatmaps/receipts/{view}/{shard}.json",
        }
    assert set(content(whole)) == expected


def test_xarray_gives_maps_relative_to_their_peak(whole: Path) -> None:
    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(whole, consolidated=False) as dataset:
        found = dataset["heatmaps"]
        assert found.dims == ("view", "sample", "joint", "y", "x")
        assert np.issubdtype(found.dtype, np.floating)
        np.testing.assert_allclose(found[:, :10].values, TRUTH.heatmaps * 0.1, rtol=1e-6)
        absolute = found * dataset["peaks"].astype("f8")
        np.testing.assert_allclose(
            absolute[1, 3, 2].values, TRUTH.heatmaps[1, 3, 2] * 0.1 * float(TRUTH.peaks[1, 3, 2])
        )
        np.testing.assert_array_equal(dataset["parameters"][:, :10].values, TRUTH.parameters)


# Reading single views


def assert_same(found: reader_module.CachedHeatmaps, view: int, index: int) -> None:
    for name in ("heatmaps", "peaks", "parameters"):
        value, expected = getattr(found, name), getattr(TRUTH, name)[view, index]
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


VIEWS = [(view, index) for view in range(2) for index in range(10)]


def test_every_view_is_bit_for_bit_that_of_zarr(whole: Path) -> None:
    reader, group = StoreReader(whole, LAYOUT), zarr.open(whole, mode="r")
    for view, index in random.Random(0).sample(VIEWS, len(VIEWS)):
        found = reader.read(view, index)
        assert_same(found, view, index)
        for name in ("heatmaps", "peaks", "parameters"):
            expected = group[name][view, index]
            assert getattr(found, name).tobytes() == np.asarray(expected).tobytes()


def test_the_toy_stores_every_view_is_that_of_zarr(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    layout = layout_of(toy_recipe, toy_samples)
    assert (layout.views, layout.samples, layout.shards) == (2, 18, 3)
    path = WorkDir(toy_work).store
    reader, group = StoreReader(path, layout), zarr.open(path, mode="r")
    whole_arrays = {name: group[name][:] for name in ("heatmaps", "peaks", "parameters")}
    assert whole_arrays["heatmaps"].any()
    for view in range(2):
        for index in range(18):
            for name, value in reader.read(view, index)._asdict().items():
                assert value.tobytes() == whole_arrays[name][view, index].tobytes()


def test_what_is_read_is_ones_own(whole: Path) -> None:
    """No window onto the file that would change, or vanish, with it."""
    reader = StoreReader(whole, LAYOUT)
    first = reader.read(0, 0)
    first.heatmaps[:] = 99
    assert_same(reader.read(0, 0), 0, 0)


def open_files(path: Path) -> int:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.readlink().is_relative_to(path) for link in links)


def test_no_more_shards_are_held_open_than_allowed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 2)
    reader = StoreReader(store, LAYOUT)
    assert open_files(store) == 0
    for view, index in random.Random(1).choices(VIEWS, k=60):
        assert_same(reader.read(view, index), view, index)
        assert open_files(store) <= 2
    assert open_files(store) == 2
    del reader
    assert open_files(store) == 0


def test_a_shard_is_opened_once(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    open_as_usual = Path.open

    def watched(self: Path, *args: Any, **kwargs: Any) -> Any:
        opened.append(self.relative_to(whole).parts[0])
        return open_as_usual(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", watched)
    reader = StoreReader(whole, LAYOUT)
    for index in (0, 3, 1, 0):
        reader.read(0, index)
    assert opened.count("heatmaps") == 1


def test_a_pickled_reader_reads(whole: Path) -> None:
    reader = StoreReader(whole, LAYOUT)
    reader.read(0, 0)  # a map of the file does not travel
    again = pickle.loads(pickle.dumps(reader))
    for view, index in VIEWS:
        assert_same(again.read(view, index), view, index)
    assert len(pickle.dumps(reader)) < 2000


def test_a_spawned_process_reads(whole: Path) -> None:
    reader = StoreReader(whole, LAYOUT)
    reader.read(1, 9)
    script = (
        "import pickle, sys; reader = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(b''.join(part.tobytes() for part in reader.read(1, 9)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(reader), check=True, capture_output=True
    ).stdout
    expected = (TRUTH.heatmaps[1, 9], TRUTH.peaks[1, 9], TRUTH.parameters[1, 9])
    assert found == b"".join(part.tobytes() for part in expected)


class ByKey(torch.utils.data.Dataset[Any]):
    """A data set of stored views by number."""

    def __init__(self, reader: StoreReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(VIEWS)

    def __getitem__(self, number: int) -> tuple[int, NDArray[np.uint8]]:
        return os.getpid(), self.reader.read(*VIEWS[number]).heatmaps


def test_forked_workers_read_what_their_parent_has_open(whole: Path) -> None:
    reader = StoreReader(whole, LAYOUT)
    for view, index in VIEWS:
        reader.read(view, index)
    loader = torch.utils.data.DataLoader(
        ByKey(reader), batch_size=4, num_workers=2, multiprocessing_context="fork"
    )
    batches = list(loader)
    assert len({int(pid) for pids, _ in batches for pid in pids} - {os.getpid()}) == 2
    found = np.concatenate([heatmaps.numpy() for _, heatmaps in batches])
    np.testing.assert_array_equal(found, TRUTH.heatmaps.reshape(found.shape))
    assert_same(reader.read(0, 5), 0, 5)


# What was never written, and what was damaged


def test_an_all_zero_view_is_told_from_one_never_written(tmp_path: Path) -> None:
    path = tmp_path / "heatmaps.zarr"
    make_store(path, order=[(1, 1)])
    reader = StoreReader(path, LAYOUT)
    found = reader.read(*ZERO)
    assert not found.heatmaps.any() and not found.peaks.any()
    assert zarr.open(path, mode="r")["heatmaps"][0, 6].sum() == 0  # all the same to Zarr
    with pytest.raises(ValueError, match="view 0 of sample 6 cannot be read"):
        reader.read(0, 6)


def test_a_shard_of_zeros_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "heatmaps.zarr"
    writer = StoreWriter(path, MANIFEST, LAYOUT, tmp_path)
    truth = Truth(*(np.zeros_like(column) for column in vars(TRUTH).values()))
    writer.write(truth.shard(0, 1))
    assert (0, 1) not in writer.coverage().missing
    assert not StoreReader(path, LAYOUT).read(0, 4).heatmaps.any()


def test_an_unwritten_chunk_in_a_shard_is_refused(store: Path) -> None:
    """A shard another tool wrote, without its empty chunks."""
    array = zarr.open_group(store, mode="r+")["heatmaps"]
    array.with_config({"write_empty_chunks": False})[1, 4:8] = TRUTH.heatmaps[1, 4:8]
    reader = StoreReader(store, LAYOUT)
    assert_same(reader.read(1, 5), 1, 5)
    with pytest.raises(ValueError, match="view 1 of sample 6 cannot be read"):
        reader.read(*ZERO)


def test_a_view_that_cannot_be_read_is_named_with_what_mends_it(store: Path) -> None:
    (store / HEATMAP_FILE).unlink()
    reader = StoreReader(store, LAYOUT)
    with pytest.raises(ValueError, match="view 1 of sample 9 cannot be read") as caught:
        reader.read(1, 9)
    assert str(store / HEATMAP_FILE) in str(caught.value)
    assert "`fpd cache-heatmaps`" in str(caught.value)
    assert_same(reader.read(1, 7), 1, 7)


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 20, 67, 68, -1])
def test_a_truncated_shard_is_refused(store: Path, kept: int) -> None:
    encoded = (store / HEATMAP_FILE).read_bytes()
    (store / HEATMAP_FILE).write_bytes(encoded[:kept])
    with pytest.raises(ValueError, match="view 1 of sample 8 cannot be read"):
        StoreReader(store, LAYOUT).read(1, 8)


@pytest.mark.parametrize("name", ["peaks", "parameters"])
@pytest.mark.parametrize("kept", [None, 0, 5, -1])
def test_a_damaged_column_is_refused(store: Path, name: str, kept: int | None) -> None:
    file = store / name / "c/1/2/0"
    encoded = file.read_bytes()
    file.unlink()
    if kept is not None:
        file.write_bytes(encoded[:kept])
    with pytest.raises(ValueError, match="view 1 of sample 8 cannot be read"):
        StoreReader(store, LAYOUT).read(1, 8)


@pytest.mark.parametrize("name", ["peaks", "parameters"])
@pytest.mark.parametrize("rows", [3, 5])
def test_a_column_of_another_length_is_refused(store: Path, name: str, rows: int) -> None:
    """Intact by its checksum, but with fewer or more numbers than the shard has samples."""
    from numcodecs.zstd import Zstd

    values = np.ones((rows, 3), "<f2" if name == "peaks" else "<f8")
    (store / name / "c/1/2/0").write_bytes(Zstd(level=3, checksum=True).encode(values))
    with pytest.raises(ValueError, match="view 1 of sample 8 cannot be read"):
        StoreReader(store, LAYOUT).read(1, 8)


def read_or_refuse(path: Path, view: int, index: int) -> None:
    """A damaged shard may be refused, or give the very bytes that were written; nothing else."""
    try:
        found = StoreReader(path, LAYOUT).read(view, index)
    except ValueError as error:
        if f"view {view} of sample {index} cannot be read" not in str(error):
            raise
        return
    assert_same(found, view, index)


@pytest.mark.parametrize("name", ["heatmaps/c/1/2/0/0/0", "peaks/c/1/2/0", "parameters/c/1/2/0"])
def test_no_flipped_bit_ever_gives_wrong_numbers(store: Path, name: str) -> None:
    file = store / name
    encoded = file.read_bytes()
    for position in range(len(encoded)):
        damaged = bytearray(encoded)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        read_or_refuse(store, 1, 8)
        read_or_refuse(store, 1, 9)


def test_a_flipped_byte_in_a_chunk_is_refused(store: Path) -> None:
    encoded = bytearray((store / HEATMAP_FILE).read_bytes())
    offset, size = np.frombuffer(encoded[-4 - 16 * 4 : -4], "<u8").reshape(4, 2)[1].tolist()
    encoded[offset + size // 2] ^= 0xFF
    (store / HEATMAP_FILE).write_bytes(encoded)
    reader = StoreReader(store, LAYOUT)
    assert_same(reader.read(1, 8), 1, 8)  # the neighbour is whole
    with pytest.raises(ValueError, match="view 1 of sample 9 cannot be read"):
        reader.read(1, 9)


@pytest.mark.parametrize("from_end", [1, 4, 5, 12, 30, 68])
def test_a_flipped_byte_in_the_index_is_refused(store: Path, from_end: int) -> None:
    encoded = bytearray((store / HEATMAP_FILE).read_bytes())
    encoded[-from_end] ^= 0x10
    (store / HEATMAP_FILE).write_bytes(encoded)
    for index in (8, 9):
        with pytest.raises(ValueError, match=f"view 1 of sample {index} cannot be read"):
            StoreReader(store, LAYOUT).read(1, index)


# Writing


def test_writing_a_shard_again_gives_the_same_bytes(store: Path) -> None:
    before = content(store)
    writer = StoreWriter(store, MANIFEST, LAYOUT, store.parent)
    for view, shard in SHARDS:
        writer.write(TRUTH.shard(view, shard))
    writer.finish()
    assert content(store) == before


def test_the_order_of_writing_does_not_show(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "heatmaps.zarr"
    make_store(path, order=SHARDS[::-1])
    # Another process takes up where that one stopped, and writes one shard again.
    make_store(path, order=[(0, 1)]).finish()
    assert content(path) == content(whole)


def test_more_views_extend_a_store_and_leave_its_files_alone(store: Path, tmp_path: Path) -> None:
    shards = {name: data for name, data in content(store).items() if "zarr.json" not in name}
    times = {name: (store / name).stat().st_mtime_ns for name in shards}
    more = replace(LAYOUT, views=3)
    writer = StoreWriter(store, MANIFEST, more, tmp_path)
    assert writer.coverage().missing == [(2, 0), (2, 1), (2, 2)]
    truth = make_truth(3)
    for shard in range(3):
        writer.write(truth.shard(2, shard))
    assert not writer.finish().missing
    after = content(store)
    assert {name: after[name] for name in shards} == shards
    assert {name: (store / name).stat().st_mtime_ns for name in shards} == times
    reader = StoreReader(store, more)
    for view, index in [(view, index) for view in range(3) for index in range(10)]:
        np.testing.assert_array_equal(
            reader.read(view, index).heatmaps, truth.heatmaps[view, index]
        )
    assert zarr.open(store, mode="r")["heatmaps"].shape[0] == 3
    # A student that asks for fewer views is served all the same.
    assert not coverage(store, LAYOUT).missing


def test_a_store_extended_is_the_store_made_at_once(store: Path, tmp_path: Path) -> None:
    new = [(2, shard) for shard in range(3)]
    make_store(store, order=new, views=3).finish()
    at_once = tmp_path / "at-once" / "heatmaps.zarr"
    make_store(at_once, order=[*SHARDS, *new], views=3).finish()
    assert content(store) == content(at_once)


def test_fewer_views_do_not_shrink_a_store(store: Path) -> None:
    before = content(store)
    StoreWriter(store, MANIFEST, replace(LAYOUT, views=1), store.parent).finish()
    assert {k: v for k, v in content(store).items() if k != "zarr.json"} == {
        k: v for k, v in before.items() if k != "zarr.json"
    }


def test_a_store_whose_making_fails_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: Any) -> None:
        path.mkdir()
        (path / "zarr.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(writer_module, "create_arrays", fail)
    with pytest.raises(KeyboardInterrupt):
        StoreWriter(tmp_path / "heatmaps.zarr", MANIFEST, LAYOUT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_receipt_is_written_only_after_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, bool] = {}
    write = writer_module.write_json

    def watched(path: Path, value: dict[str, Any]) -> None:
        files = [f"heatmaps/c/{v}/{s}/0/0/0" for v, s in [(0, 1)]]
        files += ["peaks/c/0/1/0", "parameters/c/0/1/0"]
        seen.update({name: (store_path / name).is_file() for name in files})
        write(path, value)

    store_path = tmp_path / "heatmaps.zarr"
    writer = StoreWriter(store_path, MANIFEST, LAYOUT, tmp_path)
    monkeypatch.setattr(writer_module, "write_json", watched)
    writer.write(TRUTH.shard(0, 1))
    assert list(seen.values()) == [True, True, True]


def test_a_shard_whose_writing_fails_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heatmaps.zarr"
    writer = StoreWriter(path, MANIFEST, LAYOUT, tmp_path)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writer_module, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        writer.write(TRUTH.shard(0, 0))
    assert (path / "heatmaps/c/0/0/0/0/0").is_file()
    assert (0, 0) in writer.coverage().missing


# Coverage


def test_a_whole_store_has_no_gaps(whole: Path) -> None:
    found = coverage(whole, LAYOUT)
    assert (found.missing, found.total, len(found.receipts)) == ([], 6, 6)
    assert check_complete(whole, LAYOUT, Path("w")).receipts == found.receipts
    columns = [f for f in content(whole) if "/c/" in f]
    assert len(columns) == 18
    assert found.bytes() == sum((whole / name).stat().st_size for name in columns)


def edit_receipt(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = store / "heatmaps/receipts/1/2.json"
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps(change(receipt)))


def grow(receipt: dict[str, Any], name: str) -> dict[str, Any]:
    receipt["arrays"][name]["bytes"] += 1
    return receipt


def without(receipt: dict[str, Any], *keys: str) -> dict[str, Any]:
    at = receipt
    for key in keys[:-1]:
        at = at[key]
    del at[keys[-1]]
    return receipt


RECEIPT = "heatmaps/receipts/1/2.json"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "no receipt": lambda s: (s / RECEIPT).unlink(),
    "a receipt of another size": lambda s: edit_receipt(s, lambda r: grow(r, "heatmaps")),
    "a receipt of another size of peaks": lambda s: edit_receipt(s, lambda r: grow(r, "peaks")),
    "a receipt without an array": lambda s: edit_receipt(
        s, lambda r: without(r, "arrays", "peaks")
    ),
    "a receipt without arrays": lambda s: edit_receipt(s, lambda r: without(r, "arrays")),
    "a receipt without its count": lambda s: edit_receipt(s, lambda r: without(r, "samples")),
    "a receipt without its errors": lambda s: edit_receipt(s, lambda r: without(r, "measured")),
    "a receipt that is a list": lambda s: edit_receipt(s, lambda r: [r]),
    "a receipt of nothing": lambda s: edit_receipt(s, lambda _: None),
    "an empty receipt": lambda s: (s / RECEIPT).write_bytes(b""),
    "half a receipt": lambda s: (s / RECEIPT).write_bytes((s / RECEIPT).read_bytes()[:100]),
    "a receipt of zeros": lambda s: (s / RECEIPT).write_bytes(b"\0" * 300),
    "a receipt of noise": lambda s: (s / RECEIPT).write_bytes(bytes(range(128, 256)) * 4),
    "a huge receipt": lambda s: (s / RECEIPT).write_bytes(
        (s / RECEIPT).read_bytes() + b" " * (1 << 16)
    ),
    "an endlessly nested receipt": lambda s: (s / RECEIPT).write_bytes(b"[" * 60_000),
    "a folder for a receipt": lambda s: ((s / RECEIPT).unlink(), (s / RECEIPT).mkdir()),
    "no heatmaps": lambda s: (s / HEATMAP_FILE).unlink(),
    "no peaks": lambda s: (s / "peaks/c/1/2/0").unlink(),
    "no parameters": lambda s: (s / "parameters/c/1/2/0").unlink(),
    "truncated heatmaps": lambda s: os.truncate(s / HEATMAP_FILE, 30),
    "empty heatmaps": lambda s: os.truncate(s / HEATMAP_FILE, 0),
    "truncated parameters": lambda s: os.truncate(s / "parameters/c/1/2/0", 10),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_is_found_named_and_made_again(store: Path, damage: str) -> None:
    before = content(store)
    DAMAGES[damage](store)
    assert coverage(store, LAYOUT).missing == [(1, 2)]
    with pytest.raises(
        ValueError,
        match=r"is incomplete: 5 of 6 shards are there, 1 of 2 views are whole; .*"
        r"`fpd cache-heatmaps -w some/where`",
    ):
        check_complete(store, LAYOUT, Path("some/where"))
    if damage == "a folder for a receipt":
        (store / RECEIPT).rmdir()
    writer = StoreWriter(store, MANIFEST, LAYOUT, store.parent)
    for view, shard in writer.coverage().missing:
        writer.write(TRUTH.shard(view, shard))
    writer.finish()
    assert content(store) == before


def test_a_receipt_of_another_shard_does_not_vouch(store: Path) -> None:
    """Copied over a shard whose files have the same sizes."""
    first, second = (store / f"heatmaps/receipts/1/{shard}.json" for shard in (0, 1))
    for name in ("heatmaps/c/1/{}/0/0/0", "peaks/c/1/{}/0", "parameters/c/1/{}/0"):
        shutil.copy(store / name.format(0), store / name.format(1))
    shutil.copy(first, second)
    assert coverage(store, LAYOUT).missing == [(1, 1)]


def test_gaps_are_counted_by_shard_and_by_view(store: Path) -> None:
    for name in ("0/0", "1/2", "1/1"):
        (store / f"heatmaps/receipts/{name}.json").unlink()
    assert coverage(store, LAYOUT).missing == [(0, 0), (1, 1), (1, 2)]
    with pytest.raises(ValueError, match="3 of 6 shards are there, 0 of 2 views are whole"):
        check_complete(store, LAYOUT, Path("w"))


def test_damage_that_sizes_do_not_show_is_mended_as_its_message_says(store: Path) -> None:
    before = content(store)
    encoded = bytearray(before[str(HEATMAP_FILE)])
    encoded[-1] ^= 1
    (store / HEATMAP_FILE).write_bytes(encoded)
    assert coverage(store, LAYOUT).missing == []
    with pytest.raises(ValueError, match=f"remove {store / HEATMAP_FILE} "):
        StoreReader(store, LAYOUT).read(1, 8)
    (store / HEATMAP_FILE).unlink()
    make_store(store, order=coverage(store, LAYOUT).missing).finish()
    assert content(store) == before


def test_measured_errors_are_maxima_and_means_over_samples(tmp_path: Path) -> None:
    layout = replace(LAYOUT, views=1)
    writer = StoreWriter(tmp_path / "heatmaps.zarr", MANIFEST, layout, tmp_path)
    assert writer.coverage().measured() == {}
    for shard, (largest, mean) in enumerate([(0.02, 1.0), (0.04, 2.0), (0.01, 6.0)]):
        writer.write(TRUTH.shard(0, shard, max_error=largest, mean_peak=mean))
    # 4, 4 and 2 people.
    expected = pytest.approx({"max_error": 0.04, "mean_peak": (4 * 1 + 4 * 2 + 2 * 6) / 10})
    assert writer.coverage().measured() == expected
    writer.finish()
    manifest = read_manifest(tmp_path / "heatmaps.zarr")
    assert manifest["measured"] == expected
    assert {key: manifest[key] for key in MANIFEST} == MANIFEST


def test_receipts_hold_sizes_digests_and_counts(whole: Path) -> None:
    from hashlib import blake2b

    receipt = json.loads((whole / RECEIPT).read_text())
    encoded = (whole / HEATMAP_FILE).read_bytes()
    assert receipt["arrays"]["heatmaps"] == {
        "bytes": len(encoded),
        "blake2b": blake2b(encoded, digest_size=16).hexdigest(),
    }
    assert set(receipt["arrays"]) == {"heatmaps", "peaks", "parameters"}
    assert (receipt["view"], receipt["shard"], receipt["samples"]) == (1, 2, 2)


# Layouts


@pytest.mark.parametrize(
    ("samples", "size", "rows"),
    [
        (10, 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        (8, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (3, 512, [[0, 1, 2]]),
        (2, 1, [[0], [1]]),
    ],
)
def test_rows_of_shards(samples: int, size: int, rows: list[list[int]]) -> None:
    layout = Layout(views=1, samples=samples, joints=1, heatmap_px=1, shard_samples=size)
    assert [list(layout.rows(shard)) for shard in range(layout.shards)] == rows
    assert layout.padded_samples == size * len(rows)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5000), st.integers(1, 700))
def test_shards_hold_every_sample_once(samples: int, size: int) -> None:
    layout = Layout(views=1, samples=samples, joints=1, heatmap_px=1, shard_samples=size)
    rows = [index for shard in range(layout.shards) for index in layout.rows(shard)]
    assert rows == list(range(samples))
    assert 0 <= layout.padded_samples - samples < size


def test_a_stores_layout_is_read_from_itself(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    assert open_layout(WorkDir(toy_work).store) == layout_of(toy_recipe, toy_samples)
    assert layout_of(toy_recipe, toy_samples) == Layout(
        views=2, samples=18, joints=14, heatmap_px=16, shard_samples=8
    )


def test_raw_float16_maps_take_two_bytes_a_pixel() -> None:
    assert LAYOUT.float16_bytes == 2 * 10 * 3 * 6 * 6 * 2


# Manifests


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def test_the_manifest_says_where_the_heatmaps_came_from(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    found = read_manifest(WorkDir(toy_work).store)
    record = WorkDir(toy_work).teacher.record()
    assert found["teacher"]["sha256"] == record["result"]["weights_sha256"]
    assert found["teacher"]["model"]["channels"] == 8
    assert found["dataset"] == toy_samples.fingerprint()
    assert found["dataset"]["samples"] == 18
    assert found["geometry"] == {"crop_px": 64, "stride_px": 4, "heatmap_px": 16}
    assert found["augmentation"] == {"scale": [0.75, 1.25], "rotation_deg": 30.0, "mirror": True}
    assert found["joints"][0] == "right ankle" and len(found["joints"]) == 14
    assert (found["seed"], found["max_error"], found["shard_samples"]) == (0, 0.01, 8)
    assert set(found["versions"]) >= {"torch", "numpy", "cv2", "zarr"}
    assert 0 < found["measured"]["max_error"] <= 0.01 * (1 + 1e-4)


MISMATCHES = [
    ("data.figures.seed=1", "dataset.images"),
    ("data.figures.train=30", "dataset.ids"),
    ("data.figures.train=30", "dataset.samples"),
    ("data.figures.label_noise=0.3", "dataset.labels"),
    ("augmentation.rotation_deg=10", "augmentation.rotation_deg"),
    ("augmentation.mirror=false", "augmentation.mirror"),
    ("augmentation.scale=[0.9, 1.1]", "augmentation.scale"),
    ("store.seed=1", "seed"),
    ("geometry.crop_px=128", "geometry.crop_px"),
    ("geometry.crop_px=128", "geometry.heatmap_px"),
    ("store.max_error=0.02", "max_error"),
    ("store.shard_samples=9", "shard_samples"),
    ("teacher.model.channels=16", "teacher.model.channels"),
]


@pytest.mark.parametrize(("override", "key"), MISMATCHES)
def test_a_store_made_for_something_else_is_refused(
    toy_work: Path, toy_recipe: Recipe, override: str, key: str
) -> None:
    work, recipe = WorkDir(toy_work), changed(toy_recipe, override)
    samples = load(recipe.data, "train")
    with pytest.raises(ValueError, match="does not fit this run") as caught:
        student.open_store(work, recipe, samples)
    message = str(caught.value)
    assert f"{key}: expected " in message
    assert f"`fpd cache-heatmaps -w {work.root} --overwrite`" in message


@pytest.mark.parametrize(("override", "key"), [MISMATCHES[0], MISMATCHES[7], MISMATCHES[10]])
def test_such_a_store_is_not_written_to(
    work: WorkDir, toy_recipe: Recipe, override: str, key: str
) -> None:
    before = content(work.store)
    with pytest.raises(ValueError, match=rf"does not fit this run.*{key}: .*--overwrite"):
        heatmaps.run(work, changed(toy_recipe, override, "store.views=3"), CPU)
    assert content(work.store) == before


def fitting(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> tuple[dict[str, Any], dict[str, Any]]:
    sha256 = WorkDir(toy_work).teacher.record()["result"]["weights_sha256"]
    expected = make_manifest(toy_recipe, toy_samples, sha256)
    return expected, read_manifest(WorkDir(toy_work).store)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("view_version", 0),
        ("joints", ["hand", "foot"]),
        ("teacher", {"sha256": "f" * 64}),
        ("dataset", None),
        ("canaries", [1]),  # of a later version of this program
    ],
)
def test_other_entries_are_compared_too(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, key: str, value: object
) -> None:
    expected, found = fitting(toy_work, toy_recipe, toy_samples)
    with pytest.raises(ValueError, match=rf"p: x does not fit this run: {key}[.:]") as caught:
        check_manifest(Path("p: x"), expected, found | {key: value}, Path("w"))
    assert "`fpd cache-heatmaps -w w --overwrite`" in str(caught.value)


def test_versions_and_measured_errors_may_differ(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    expected, found = fitting(toy_work, toy_recipe, toy_samples)
    other = copy.deepcopy(found)
    other["versions"]["torch"], other["measured"] = "1.0", {}
    check_manifest(Path("p"), expected, other, Path("w"))
    check_manifest(Path("p"), expected, found, Path("w"))


def test_other_settings_do_not_matter_to_a_store(toy_work: Path, toy_recipe: Recipe) -> None:
    overrides = ["student.alpha=0.9", "targets.sigma_px=2", "store.batch=3", "store.views=1"]
    recipe = changed(toy_recipe, *overrides, "teacher.epochs=9", "loader.workers=1")
    _, manifest = student.open_store(WorkDir(toy_work), recipe, load(recipe.data, "train"))
    assert manifest["schema"] == 1


def test_a_group_without_a_manifest_is_refused(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "heatmaps.zarr", zarr_format=3)
    with pytest.raises(ValueError, match=r"heatmaps\.zarr is a Zarr group without .*manifest"):
        read_manifest(tmp_path / "heatmaps.zarr")


def test_a_manifest_that_is_no_table_is_refused(store: Path) -> None:
    zarr.open_group(store, mode="r+").attrs["fpd"] = [1]
    with pytest.raises(ValueError, match="manifest"):
        read_manifest(store)


@pytest.mark.parametrize(
    "kind", ["nothing", "folder", "file", "array", "damaged", "folder of things"]
)
def test_what_is_no_store_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "heatmaps.zarr"
    if kind.startswith("folder"):
        path.mkdir()
    if kind == "folder of things":
        (path / "holiday.jpg").write_bytes(b"\xff\xd8")
    if kind == "file":
        path.write_text("not a store")
    if kind == "array":
        zarr.create_array(path, shape=(2,), dtype="u1")
    if kind == "damaged":
        path.mkdir()
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_')
    before = content(path)
    with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store"):
        read_manifest(path)
    if kind != "nothing":
        with pytest.raises(ValueError, match=r"heatmaps\.zarr is not a heatmap store"):
            StoreWriter(path, MANIFEST, LAYOUT, tmp_path)
        assert content(path) == before


def test_an_empty_manifest_is_refused_where_no_teacher_lies_beside_it(
    work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    shutil.rmtree(work.teacher.path)
    student.open_store(work, toy_recipe, toy_samples)  # the store alone will do
    zarr.open_group(work.store, mode="r+").attrs["fpd"] = {}
    with pytest.raises(ValueError, match=r"does not fit this run.*--overwrite"):
        student.open_store(work, toy_recipe, toy_samples)
