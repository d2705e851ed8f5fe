"""Heatmaps to bytes and back: never further from the teacher's map than was promised."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.fft import idctn
from torch import Tensor

from fpd.pipeline.store import CompressedHeatmaps, compress, decompress
from fpd.pipeline.store import compression as code_module
from fpd.pipeline.store.compression import FAINT_PEAK, basis

Maps = Callable[[np.random.Generator, int], NDArray[np.float64]]


def gaussian(rng: np.random.Generator, size: int, sigma: float = 1.5) -> NDArray[np.float64]:
    x, y = rng.uniform(0, size - 1, 2)
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def spikes(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    return np.where(rng.random((size, size)) < 0.05, rng.random((size, size)), 0.0)


MAPS: dict[str, Maps] = {
    "noise": lambda rng, size: rng.normal(size=(size, size)),
    "smooth": gaussian,
    "smooth and noisy": lambda rng, size: (
        gaussian(rng, size, 2.0) + 0.05 * rng.normal(size=(size, size))
    ),
    "flat": lambda rng, size: np.full((size, size), rng.random()),
    "spiky": spikes,
    "chequered": lambda rng, size: np.indices((size, size)).sum(0) % 2.0,
    "below zero": lambda rng, size: -rng.random((size, size)),
    "zero": lambda rng, size: np.zeros((size, size)),
}
SCALES = [1.0, 0.3, 0.02, 1e-4, 1e-9, 1e4]

sizes = st.sampled_from([3, 8, 13, 16, 20])
errors = st.floats(0.004, 0.25) | st.sampled_from([0.004, 0.1, 0.25])
seeds = st.integers(0, 2**32 - 1)


def maps_of(kinds: list[tuple[str, float]], size: int, seed: int) -> Tensor:
    """float32 (1, K, size, size), a kind and a scale each; none is beyond float16."""
    rng = np.random.default_rng(seed)
    values = [MAPS[kind](rng, size) * scale for kind, scale in kinds]
    return torch.from_numpy(np.stack(values)[None]).float().clamp_max(65504)


def assert_within_bound(heatmaps: Tensor, coded: CompressedHeatmaps, max_error: float) -> None:
    wanted = heatmaps.double().numpy().clip(min=0)
    found = decompress(coded.coefficients, coded.steps, heatmaps.shape[-1]).double().numpy()
    bound = max_error * np.maximum(wanted.max((-2, -1)), FAINT_PEAK)
    assert (np.abs(found - wanted).max((-2, -1)) <= bound).all()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(list(MAPS)), st.sampled_from(SCALES)), min_size=1),
    sizes,
    seeds,
    errors,
)
def test_no_pixel_is_further_off_than_the_bound(
    kinds: list[tuple[str, float]], size: int, seed: int, max_error: float
) -> None:
    heatmaps = maps_of(kinds, size, seed)
    coded = compress(heatmaps, max_error)
    blocks = -(-size // 8)
    assert coded.coefficients.shape == (1, len(kinds), blocks, blocks, 64)
    assert coded.coefficients.dtype == torch.int8
    assert coded.coefficients.abs().max() <= 127  # abs(-128) would be -128
    assert coded.coefficients.min() >= -127
    assert coded.steps.shape == coded.peaks.shape == (1, len(kinds))
    assert coded.steps.dtype == coded.peaks.dtype == torch.float16
    assert coded.steps.isfinite().all() and (coded.steps != 0).all()
    assert_within_bound(heatmaps, coded, max_error)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("max_error", [0.004, 0.1, 0.25])
def test_maps_of_64_pixels_keep_the_bound(kind: str, max_error: float) -> None:
    heatmaps = maps_of([(kind, scale) for scale in SCALES], 64, seed=1)
    assert_within_bound(heatmaps, compress(heatmaps, max_error), max_error)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(list(MAPS)), st.sampled_from(SCALES), sizes, seeds)
def test_peaks_are_the_maxima_as_float16(kind: str, scale: float, size: int, seed: int) -> None:
    heatmaps = maps_of([(kind, scale)], size, seed)
    expected = heatmaps.numpy().max((-2, -1)).clip(min=0).astype(np.float16)
    np.testing.assert_array_equal(compress(heatmaps, 0.1).peaks.numpy(), expected)


# Decoding, against the cosine transform of SciPy


def zigzag() -> list[tuple[int, int]]:
    """(row, column) of each coefficient: along the anti-diagonals, always from the right up."""
    return [(row, total - row) for total in range(15) for row in range(8) if 0 <= total - row < 8]


def decode_by_scipy(coefficients_YXC: NDArray[np.int8], step: float, size: int) -> NDArray:
    blocks_y, blocks_x, _ = coefficients_YXC.shape
    heatmap = np.zeros((8 * blocks_y, 8 * blocks_x))
    for y, x in np.ndindex(blocks_y, blocks_x):
        block = np.zeros((8, 8))
        block[tuple(zip(*zigzag(), strict=True))] = coefficients_YXC[y, x]
        pixels = idctn(block, norm="ortho") if step > 0 else block
        heatmap[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = pixels
    return heatmap.clip(min=0)[:size, :size] * abs(step)


@settings(deadline=None, max_examples=25)
@given(seeds, sizes, st.floats(1e-3, 100), st.floats(1e-3, 100))
def test_decoding_is_scipys_inverse_transform(
    seed: int, size: int, cosine_step: float, pixel_step: float
) -> None:
    blocks = -(-size // 8)
    rng = np.random.default_rng(seed)
    coefficients = rng.integers(-127, 128, (2, 2, blocks, blocks, 64), dtype=np.int8)
    steps = np.array([[cosine_step, -pixel_step], [-pixel_step, cosine_step]], np.float16)
    found = decompress(torch.from_numpy(coefficients), torch.from_numpy(steps), size)
    assert (found.dtype, found.shape) == (torch.float32, (2, 2, size, size))
    for b, k in np.ndindex(2, 2):
        expected = decode_by_scipy(coefficients[b, k], float(steps[b, k]), size)
        tolerance = 1e-5 * 127 * 8 * float(abs(steps[b, k]))
        np.testing.assert_allclose(found[b, k].numpy(), expected, atol=tolerance)


def test_the_basis_is_orthonormal_and_begins_with_the_mean() -> None:
    cosines, pixels = basis().double()
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(64).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosines[0], torch.full((64,), 1 / 8).double())
    assert pixels.sum(0).tolist() == pixels.sum(1).tolist() == [1.0] * 64
    order = [8 * row + column for row, column in zigzag()]
    assert pixels.argmax(1).tolist() == order


# By hand


def test_a_flat_map_is_one_coefficient_a_block() -> None:
    coded = compress(torch.full((1, 1, 16, 16), 0.5), 0.1)
    assert coded.peaks.item() == 0.5
    assert coded.steps.item() > 0
    assert (coded.coefficients[..., 0] > 0).all()
    assert not coded.coefficients[..., 1:].any()


def test_what_is_not_smooth_is_kept_as_pixels_and_a_negative_step_says_so() -> None:
    heatmaps = torch.from_numpy(MAPS["chequered"](np.random.default_rng(0), 8)).float()
    coded = compress(heatmaps[None, None], 0.004)
    assert coded.steps.item() == pytest.approx(-2 * 0.004, rel=2e-3)
    order = [row * 8 + column for row, column in zigzag()]
    pixels = coded.coefficients[0, 0, 0, 0].float() * 0.008
    torch.testing.assert_close(pixels, heatmaps.flatten()[order], atol=0.004, rtol=0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.25])
def test_smooth_maps_use_the_cosine_basis(sigma: float, max_error: float) -> None:
    rng = np.random.default_rng(0)
    heatmaps = np.stack([gaussian(rng, 64, sigma) for _ in range(20)])[None]
    coded = compress(torch.from_numpy(heatmaps).float(), max_error)
    assert (coded.steps > 0).all()
    # Far fewer numbers than the 4,096 pixels of a map.
    assert (coded.coefficients != 0).sum() < 20 * 200


def test_the_step_is_found_map_by_map() -> None:
    """A map costs what it needs, whatever it lies beside."""
    heatmaps = maps_of([("smooth", 1.0), ("noise", 1.0), ("smooth", 0.3)], 32, seed=0)
    steps = compress(heatmaps, 0.1).steps[0]
    alone = [compress(heatmaps[:, k : k + 1], 0.1).steps.item() for k in range(3)]
    assert steps.tolist() == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize("max_error", [0.05, 0.1, 0.25])
def test_the_next_step_of_the_ladder_would_break_the_bound(max_error: float) -> None:
    """Also where the smallest steps tried would overflow the coefficients."""
    heatmaps = maps_of([("smooth", 1.0)] * 12, 32, seed=3)
    coded = compress(heatmaps, max_error)
    assert (coded.steps > 0).all()
    rung = (8 * coded.steps.float().log2()).round()
    larger = torch.exp2((rung + 1) / 8).half()
    cosines = code_module._to_blocks(heatmaps) @ basis()[0].T
    coefficients = (cosines / larger.float()[..., None, None, None]).round().to(torch.int8)
    off = (decompress(coefficients, larger, 32) - heatmaps).abs().amax((-2, -1))
    assert (off > 0.998 * max_error * heatmaps.amax((-2, -1))).all()


def test_below_zero_is_stored_as_zero() -> None:
    heatmaps = maps_of([("noise", 1.0)], 16, seed=0)
    one, other = compress(heatmaps, 0.05), compress(heatmaps.clamp_min(0), 0.05)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert decompress(one.coefficients, one.steps, 16).min() >= 0
    below = compress(torch.full((1, 2, 8, 8), -3.0), 0.05)
    assert not below.coefficients.any()
    assert below.peaks.tolist() == [[0.0, 0.0]]


def test_faint_maps_cost_no_more_than_their_share_of_a_faint_peak() -> None:
    """Noise below `max_error` of `FAINT_PEAK` is stored as nothing."""
    heatmaps = maps_of([("noise", 1e-3)], 16, seed=0)
    coded = compress(heatmaps, 0.1)
    assert heatmaps.max() < 0.1 * FAINT_PEAK
    assert not coded.coefficients.any()
    assert coded.peaks.item() == pytest.approx(heatmaps.max().item(), rel=1e-3)


def test_the_largest_peak_is_kept() -> None:
    heatmaps = 65504 * maps_of([("smooth", 1.0)], 16, seed=0)
    heatmaps /= heatmaps.max() / 65504
    coded = compress(heatmaps, 0.25)
    assert coded.peaks.item() == 65504
    assert_within_bound(heatmaps, coded, 0.25)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 65536.0, 1e30])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 3, 1)])
def test_what_float16_cannot_hold_is_refused(value: float, place: tuple[int, ...]) -> None:
    heatmaps = torch.rand(2, 3, 4, 4)
    heatmaps[place] = value
    with pytest.raises(ValueError, match="expected finite heatmaps with peaks below 65504"):
        compress(heatmaps, 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_taken(dtype: torch.dtype) -> None:
    heatmaps = maps_of([("smooth", 1.0)], 16, seed=0).to(dtype)
    coded = compress(heatmaps, 0.1)
    exact = compress(heatmaps.float(), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(coded, exact, strict=True))


# The same bytes every time


def test_a_map_has_the_same_bytes_alone_and_in_a_batch() -> None:
    kinds = [(kind, scale) for kind in MAPS for scale in (1.0, 0.02)]
    heatmaps = torch.cat([maps_of(kinds, 20, seed) for seed in range(5)])
    together = compress(heatmaps, 0.05)
    decoded = decompress(together.coefficients, together.steps, 20)
    for b in range(5):
        alone = compress(heatmaps[b : b + 1], 0.05)
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one[0], other[b])
        assert torch.equal(decompress(alone.coefficients, alone.steps, 20)[0], decoded[b])


def test_the_layout_in_memory_does_not_show() -> None:
    heatmaps = torch.cat([maps_of([("smooth and noisy", 1.0)] * 4, 16, seed) for seed in range(3)])
    strided = heatmaps.contiguous(memory_format=torch.channels_last)
    for one, other in zip(compress(heatmaps, 0.05), compress(strided, 0.05), strict=True):
        assert torch.equal(one, other)


def test_maps_decoded_before_in_inference_mode_teach_all_the_same() -> None:
    """What is kept from one call to the next is no inference tensor, which could not be saved."""
    code_module._bases.cache_clear()
    heatmaps = maps_of([("smooth", 1.0)], 16, seed=0)
    with torch.inference_mode():
        coded = compress(heatmaps, 0.1)
        decompress(coded.coefficients, coded.steps, 16)
    coded = compress(heatmaps, 0.1)
    weight = torch.ones((), requires_grad=True)
    (decompress(coded.coefficients, coded.steps, 16) * weight - 1).square().mean().backward()
    assert weight.grad is not None and weight.grad != 0
    steps = torch.ones(1, 1, requires_grad=True)
    decompress(coded.coefficients, steps, 16).sum().backward()
    assert steps.grad is not None
