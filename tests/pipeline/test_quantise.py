"""Stored bytes: never further from the teacher's map than was promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fpd.pipeline.store import dequantise, quantise
from fpd.pipeline.store.quantise import step_of

MIN_PEAK = 2.0**-14  # float16's smallest normal number (IEEE 754)

errors = st.floats(0.002, 0.25) | st.sampled_from([0.002, 0.01, 0.25])


def maps(seed: int, log_scale: float, offset: float, spikes: bool) -> Tensor:
    """Noise, or noise with a few high pixels as heatmaps have them."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 3, 6, 5)) + offset
    if spikes:
        values[rng.random(values.shape) < 0.05] *= 30
    return torch.from_numpy(values * 10.0**log_scale).float()


def restored(stored: Tensor, peaks: Tensor, max_error: float) -> np.ndarray:
    """What plain Zarr readers get, in float64: stored x step x peak."""
    heights = peaks.double().numpy()[..., None, None]
    return stored.double().numpy() * 2 * max_error * heights


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 2.5), st.floats(-4, 4), st.booleans(), errors)
def test_no_value_is_further_off_than_the_bound(
    seed: int, log_scale: float, offset: float, spikes: bool, max_error: float
) -> None:
    heatmaps = maps(seed, log_scale, offset, spikes)
    stored, peaks = quantise(heatmaps, max_error)
    assert (stored.dtype, stored.shape) == (torch.uint8, heatmaps.shape)
    assert (peaks.dtype, peaks.shape) == (torch.float16, heatmaps.shape[:2])
    wanted = np.maximum(heatmaps.double().numpy(), 0)
    tops = wanted.max((-2, -1))
    # Half a step of the stored peak, which is float16's rounding (2**-11) off the real one; maps
    # without a normal float16 peak are stored as zero.
    bound = np.where(tops > 1.001 * MIN_PEAK, max_error * tops * (1 + 2**-11), 1.001 * MIN_PEAK)
    off = np.abs(restored(stored, peaks, max_error) - wanted).max((-2, -1))
    assert (off <= bound * (1 + 1e-5) + 1e-9).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 2.5), errors)
def test_dequantising_is_the_plain_formula(seed: int, log_scale: float, max_error: float) -> None:
    stored, peaks = quantise(maps(seed, log_scale, 0.5, True), max_error)
    found = dequantise(stored, peaks.float(), max_error)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().numpy(), restored(stored, peaks, max_error), 1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 2.5), errors)
def test_peaks_are_the_maxima_as_float16(seed: int, log_scale: float, max_error: float) -> None:
    heatmaps = maps(seed, log_scale, 1.0, True)
    expected = heatmaps.numpy().max((-2, -1)).astype(np.float16)
    expected[expected <= MIN_PEAK] = 0
    np.testing.assert_array_equal(quantise(heatmaps, max_error)[1].numpy(), expected)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), errors)
def test_at_amplitude_1_the_peak_is_1_within_the_bound(seed: int, max_error: float) -> None:
    stored, peaks = quantise(maps(seed, -2, 1.0, True), max_error)
    tops = dequantise(stored, torch.ones_like(peaks, dtype=torch.float32), max_error).amax((-2, -1))
    assert (peaks > 0).all()
    assert ((tops - 1).abs() <= max_error + 2**-10).all()


def test_by_hand() -> None:
    heatmaps = torch.tensor([[[[0.5, 0.26, 0.24], [0.01, 0.0, -3.0]]]])
    stored, peaks = quantise(heatmaps, max_error=0.05)  # steps of a tenth of 0.5
    assert stored.tolist() == [[[[10, 5, 5], [0, 0, 0]]]]
    assert peaks.tolist() == [[0.5]]
    found = dequantise(stored, torch.tensor([[0.5]]), 0.05)
    torch.testing.assert_close(found, torch.tensor([[[[0.5, 0.25, 0.25], [0.0, 0.0, 0.0]]]]))
    doubled = dequantise(stored, torch.tensor([[1.0]]), 0.05)
    torch.testing.assert_close(doubled, 2 * found)
    assert step_of(0.05) == 0.1


def test_each_map_has_its_own_peak() -> None:
    heatmaps = torch.zeros(2, 2, 3, 3)
    heatmaps[0, 0, 1, 1], heatmaps[1, 1, 2, 2] = 1000.0, 0.001
    stored, peaks = quantise(heatmaps, 0.25)
    assert stored.sum((-2, -1)).tolist() == [[2, 0], [0, 2]]
    np.testing.assert_allclose(peaks.numpy(), [[1000, 0], [0, 0.001]], rtol=2**-11)


@pytest.mark.parametrize("value", [0.0, -1.0, -1e30, MIN_PEAK / 2, MIN_PEAK, 1e-30])
def test_maps_without_a_peak_are_zero(value: float) -> None:
    stored, peaks = quantise(torch.full((1, 2, 3, 3), value), 0.01)
    assert not stored.any()
    assert peaks.tolist() == [[0.0, 0.0]]


def test_the_smallest_peak_is_kept() -> None:
    heatmaps = torch.zeros(1, 1, 3, 3)
    heatmaps[0, 0, 0, 0] = 1.01 * MIN_PEAK
    stored, peaks = quantise(heatmaps, 0.002)
    assert stored[0, 0, 0, 0] == 250
    assert peaks.item() == pytest.approx(1.01 * MIN_PEAK, rel=2**-10)


def test_the_largest_peak_is_kept() -> None:
    heatmaps = torch.tensor([[[[65504.0, 32752.0, 0.0]]]])
    stored, peaks = quantise(heatmaps, 0.002)
    assert peaks.item() == 65504
    assert stored.tolist() == [[[[250, 125, 0]]]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 65536.0, 1e30])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 3, 1)])
def test_what_float16_cannot_hold_is_refused(value: float, place: tuple[int, ...]) -> None:
    heatmaps = torch.rand(2, 3, 4, 4)
    heatmaps[place] = value
    with pytest.raises(ValueError, match="expected finite heatmaps with peaks below 65504"):
        quantise(heatmaps, 0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_taken(dtype: torch.dtype) -> None:
    heatmaps = torch.tensor([[[[1.0, 0.5, 0.25]]]], dtype=dtype)
    stored, peaks = quantise(heatmaps, 0.25)
    assert (stored.tolist(), peaks.tolist()) == ([[[[2, 1, 0]]]], [[1.0]])
