"""Floats for anyone: in one call, and by the recipe that needs nothing but Zarr and NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from fpd.pipeline.store import read_heatmaps


def test_one_call_gives_what_the_teacher_said_within_the_bound(small: Any, whole: Path) -> None:
    for view in range(2):
        found = read_heatmaps(whole, view, range(10))
        assert (found.dtype, found.shape) == (np.float32, (10, 3, 12, 12))
        said = np.stack([small.said(view, index) for index in range(10)])
        bound = small.max_error * said.max((-2, -1), keepdims=True).clip(min=0.1)
        assert (np.abs(found - said) <= bound).all()


def by_hand(path: Path, view: int, index: int) -> NDArray[np.float64]:
    """As docs/store.md has it for those without this package."""
    group: Any = zarr.open(path, mode="r")
    coefficients = group["heatmaps"][view, index].astype(float)
    steps = group["steps"][view, index].astype(float)[:, None, None, None]
    cosines, pixels = group["basis"][:].astype(float)
    blocks = np.where(steps < 0, coefficients @ pixels, coefficients @ cosines)
    blocks = blocks.clip(min=0) * np.abs(steps)
    joints, rows, columns, _ = blocks.shape
    maps = blocks.reshape(joints, rows, columns, 8, 8).swapaxes(2, 3)
    size = group["heatmaps"].attrs["heatmap_px"]
    return np.asarray(maps.reshape(joints, 8 * rows, 8 * columns)[:, :size, :size])


def test_plain_zarr_and_numpy_give_the_same_numbers(small: Any, whole: Path) -> None:
    steps = small.column(1)
    assert (steps < 0).any() and (steps > 0).any()
    for view in range(2):
        found = read_heatmaps(whole, view, range(10))
        expected = np.stack([by_hand(whole, view, index) for index in range(10)])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_samples_come_in_the_order_asked_for(whole: Path) -> None:
    every = read_heatmaps(str(whole), 1, range(10))
    np.testing.assert_array_equal(read_heatmaps(whole, 1, [7, 2, 7]), every[[7, 2, 7]])


def test_no_samples_are_no_maps(whole: Path) -> None:
    assert read_heatmaps(whole, 0, []).shape == (0, 3, 12, 12)


@pytest.mark.parametrize(("view", "samples"), [(2, [0]), (0, [10]), (0, [-1])])
def test_what_is_not_there_is_an_index_error(whole: Path, view: int, samples: list[int]) -> None:
    with pytest.raises(IndexError, match=r"expected a (view|sample) in 0\.\."):
        read_heatmaps(whole, view, samples)


def test_no_store_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a heatmap store"):
        read_heatmaps(tmp_path / "nothing.zarr", 0, [0])
