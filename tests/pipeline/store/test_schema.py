"""The store's arrays as other tools read them, and the arithmetic of shards."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.pipeline.store import Layout


def test_zarr_reads_what_was_written(small: Any, whole: Path) -> None:
    group = zarr.open(whole, mode="r")
    for number, name in enumerate(small.arrays):
        expected = small.column(number)
        assert group[name].dtype == expected.dtype
        assert group[name].shape[:2] == (2, 12)
        np.testing.assert_array_equal(group[name][:, :10], expected)
        assert not group[name][:, 10:].any()  # padding
    assert group.attrs["fpd"]["max_error"] == 0.02


def test_the_small_store_uses_both_codes(small: Any) -> None:
    steps = small.column(1)
    assert (steps > 0).any() and (steps < 0).any()


def metadata(path: Path, array: str) -> dict[str, Any]:
    return dict(json.loads((path / array / "zarr.json").read_text()))


@pytest.mark.parametrize(
    ("name", "dtype", "rest", "dimensions"),
    [
        ("heatmaps", "int8", [3, 2, 2, 64], "joint block_y block_x coefficient"),
        ("steps", "float16", [3], "joint"),
        ("peaks", "float16", [3], "joint"),
        ("parameters", "float64", [3], "parameter"),
    ],
)
def test_metadata_is_as_documented(
    whole: Path, name: str, dtype: str, rest: list[int], dimensions: str
) -> None:
    array = metadata(whole, name)
    assert (array["zarr_format"], array["node_type"], array["fill_value"]) == (3, "array", 0)
    assert (array["data_type"], array["shape"]) == (dtype, [2, 12, *rest])
    assert array["chunk_grid"]["configuration"]["chunk_shape"] == [1, 4, *rest]
    assert array["chunk_key_encoding"] == {
        "name": "default",
        "configuration": {"separator": "/"},
    }
    assert array["dimension_names"] == ["view", "sample", *dimensions.split()]
    codecs = array["codecs"]
    if name == "heatmaps":
        assert [codec["name"] for codec in codecs] == ["sharding_indexed"]
        sharding = codecs[0]["configuration"]
        assert sharding["chunk_shape"] == [1, 1, *rest]
        assert sharding["index_location"] == "end"
        assert [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        codecs = sharding["codecs"]
    assert [codec["name"] for codec in codecs] == ["bytes", "zstd"]
    assert codecs[1]["configuration"] == {"level": 15, "checksum": True}
    if dtype != "int8":
        assert codecs[0]["configuration"] == {"endian": "little"}


def test_attributes_describe_the_numbers(whole: Path) -> None:
    assert metadata(whole, "heatmaps")["attributes"] == {"block_px": 8, "heatmap_px": 12}
    names = metadata(whole, "parameters")["attributes"]["names"]
    assert names == ["scale", "rotation_deg", "flip"]


def test_a_shard_is_four_files_and_a_receipt(small: Any, whole: Path) -> None:
    expected = {"zarr.json", "basis/zarr.json", "basis/c/0/0/0"}
    expected |= {f"{name}/zarr.json" for name in small.arrays}
    for view, shard in small.shards:
        expected |= {
            f"heatmaps/c/{view}/{shard}/0/0/0/0",
            f"steps/c/{view}/{shard}/0",
            f"peaks/c/{view}/{shard}/0",
            f"parameters/c/{view}/{shard}/0",
            f"heatmaps/receipts/{view}/{shard}.json",
        }
    assert set(small.content(whole)) == expected


def test_xarray_opens_it_with_named_dimensions(small: Any, whole: Path) -> None:
    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(whole, consolidated=False) as dataset:
        heatmaps = dataset["heatmaps"]
        assert heatmaps.dims == ("view", "sample", "joint", "block_y", "block_x", "coefficient")
        np.testing.assert_array_equal(heatmaps[:, :10].values, small.column(0))


# Layouts


def layout_of(segments: tuple[int, ...], shard_samples: int) -> Layout:
    return Layout(views=1, segments=segments, joints=1, heatmap_px=1, shard_samples=shard_samples)


@pytest.mark.parametrize(
    ("segments", "shard_samples", "rows"),
    [
        ((10,), 4, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
        ((8,), 4, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ((3, 2), 512, [[0, 1, 2], [3, 4]]),
        ((5, 1, 4), 4, [[0, 1, 2, 3], [4], [5], [6, 7, 8, 9]]),
    ],
)
def test_rows_of_shards(
    segments: tuple[int, ...], shard_samples: int, rows: list[list[int]]
) -> None:
    layout = layout_of(segments, shard_samples)
    assert [list(layout.rows(shard)) for shard in range(layout.shards)] == rows


segment_lists = st.lists(st.integers(1, 300), min_size=1, max_size=6).map(tuple)


@settings(deadline=None, max_examples=40)
@given(segment_lists, st.integers(1, 250))
def test_every_sample_has_one_place(segments: tuple[int, ...], shard_samples: int) -> None:
    layout = layout_of(segments, shard_samples)
    rows = [list(layout.rows(shard)) for shard in range(layout.shards)]
    assert [index for part in rows for index in part] == list(range(sum(segments)))
    assert all(0 < len(part) <= shard_samples for part in rows)
    for shard, part in enumerate(rows):
        assert [layout.locate(index) for index in part] == [(shard, r) for r in range(len(part))]


@settings(deadline=None, max_examples=40)
@given(segment_lists, st.integers(1, 250), st.integers(1, 300))
def test_added_samples_move_nothing_and_start_a_shard(
    segments: tuple[int, ...], shard_samples: int, added: int
) -> None:
    before = layout_of(segments, shard_samples)
    after = layout_of((*segments, added), shard_samples)
    for index in range(0, before.samples, 7):
        assert after.locate(index) == before.locate(index)
    assert after.locate(before.samples) == (before.shards, 0)
    shards = range(before.shards)
    assert [after.rows(shard) for shard in shards] == [before.rows(shard) for shard in shards]
    ends = set(accumulate(segments))
    assert all(
        len(before.rows(shard)) == shard_samples or before.rows(shard).stop in ends
        for shard in shards
    )


@pytest.mark.parametrize("index", [-1, 10])
def test_a_sample_out_of_range_has_no_place(small: Any, index: int) -> None:
    with pytest.raises(IndexError, match=rf"expected a sample in 0\.\.9, got {index}"):
        small.layout.locate(index)


def test_raw_float16_heatmaps_take_two_bytes_a_pixel(small: Any) -> None:
    assert small.layout.float16_bytes == 2 * 10 * 3 * 12 * 12 * 2


def test_tasks_are_in_order_of_views(small: Any) -> None:
    assert tuple(small.layout.tasks()) == small.shards
