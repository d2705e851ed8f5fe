"""Encoded heatmaps decode to within the error bound, as documented, to the same bytes each time."""

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

from fpd.pipeline.store import CompressedHeatmaps, compress, compression, decompress
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
    "checkered": lambda rng, size: np.indices((size, size)).sum(0) % 2.0,
    "below zero": lambda rng, size: -rng.random((size, size)),
    "zero": lambda rng, size: np.zeros((size, size)),
}
SCALES = [1.0, 0.3, 0.02, 1e-4, 1e-9, 1e4]

sizes = st.sampled_from([3, 8, 13, 16, 20])
errors = st.floats(0.004, 0.25) | st.sampled_from([0.004, 0.1, 0.25])
seeds = st.integers(0, 2**32 - 1)


def maps_of(kinds: list[tuple[str, float]], size: int, seed: int) -> Tensor:
    """float32 (1, K, size, size), one per kind and scale, within the range of float16."""
    rng = np.random.default_rng(seed)
    values = [MAPS[kind](rng, size) * scale for kind, scale in kinds]
    return torch.from_numpy(np.stack(values)[None]).float().clamp_max(65504)


def assert_within_bound(heatmaps: Tensor, compressed: CompressedHeatmaps, max_error: float) -> None:
    expected = heatmaps.double().numpy().clip(min=0)
    decoded = decompress(compressed.coefficients, compressed.steps, heatmaps.shape[-1])
    bound = max_error * np.maximum(expected.max((-2, -1)), FAINT_PEAK)
    assert (np.abs(decoded.double().numpy() - expected).max((-2, -1)) <= bound).all()


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(list(MAPS)), st.sampled_from(SCALES)), min_size=1),
    sizes,
    seeds,
    errors,
)
def test_no_pixel_exceeds_the_bound(
    kinds: list[tuple[str, float]], size: int, seed: int, max_error: float
) -> None:
    heatmaps = maps_of(kinds, size, seed)
    compressed = compress(heatmaps, max_error)
    blocks = -(-size // 8)
    assert compressed.coefficients.shape == (1, len(kinds), blocks, blocks, 64)
    assert compressed.coefficients.dtype == torch.int8
    assert compressed.coefficients.abs().max() <= 127  # abs(-128) would be -128
    assert compressed.coefficients.min() >= -127
    assert compressed.steps.shape == compressed.peaks.shape == (1, len(kinds))
    assert compressed.steps.dtype == compressed.peaks.dtype == torch.float16
    assert compressed.steps.isfinite().all() and (compressed.steps != 0).all()
    assert_within_bound(heatmaps, compressed, max_error)


@pytest.mark.parametrize("max_error", [0.004, 0.1, 0.25])
def test_heatmaps_of_64_pixels_keep_the_bound(max_error: float) -> None:
    heatmaps = maps_of([(kind, scale) for kind in MAPS for scale in SCALES], 64, seed=1)
    assert_within_bound(heatmaps, compress(heatmaps, max_error), max_error)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(list(MAPS)), st.sampled_from(SCALES), sizes, seeds)
def test_peaks_are_the_maxima_as_float16(kind: str, scale: float, size: int, seed: int) -> None:
    heatmaps = maps_of([(kind, scale)], size, seed)
    expected = heatmaps.numpy().max((-2, -1)).clip(min=0).astype(np.float16)
    np.testing.assert_array_equal(compress(heatmaps, 0.1).peaks.numpy(), expected)


# Decoding, compared with SciPy's cosine transform


def zigzag() -> list[tuple[int, int]]:
    """(row, column) of each coefficient: along anti-diagonals, each from top right."""
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
def test_decoding_equals_scipys_inverse_transform(
    seed: int, size: int, cosine_step: float, pixel_step: float
) -> None:
    blocks = -(-size // 8)
    rng = np.random.default_rng(seed)
    coefficients = rng.integers(-127, 128, (2, 2, blocks, blocks, 64), dtype=np.int8)
    steps = np.array([[cosine_step, -pixel_step], [-pixel_step, cosine_step]], np.float16)
    decoded = decompress(torch.from_numpy(coefficients), torch.from_numpy(steps), size)
    assert (decoded.dtype, decoded.shape) == (torch.float32, (2, 2, size, size))
    for b, k in np.ndindex(2, 2):
        expected = decode_by_scipy(coefficients[b, k], float(steps[b, k]), size)
        tolerance = 1e-5 * 127 * 8 * float(abs(steps[b, k]))
        np.testing.assert_allclose(decoded[b, k].numpy(), expected, atol=tolerance)


def test_the_basis_is_orthonormal_and_begins_with_the_mean() -> None:
    cosines, pixels = basis().double()
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(64).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosines[0], torch.full((64,), 1 / 8).double())
    assert pixels.sum(0).tolist() == pixels.sum(1).tolist() == [1.0] * 64
    order = [8 * row + column for row, column in zigzag()]
    assert pixels.argmax(1).tolist() == order


# Single heatmaps


def test_a_flat_heatmap_takes_one_coefficient_per_block() -> None:
    compressed = compress(torch.full((1, 1, 16, 16), 0.5), 0.1)
    assert compressed.peaks.item() == 0.5
    assert compressed.steps.item() > 0
    assert (compressed.coefficients[..., 0] > 0).all()
    assert not compressed.coefficients[..., 1:].any()


def test_a_heatmap_that_is_not_smooth_is_stored_as_pixels_with_a_negative_step() -> None:
    heatmaps = torch.from_numpy(MAPS["checkered"](np.random.default_rng(0), 8)).float()
    compressed = compress(heatmaps[None, None], 0.004)
    assert compressed.steps.item() == pytest.approx(-2 * 0.004, rel=2e-3)
    order = [row * 8 + column for row, column in zigzag()]
    pixels = compressed.coefficients[0, 0, 0, 0].float() * 0.008
    torch.testing.assert_close(pixels, heatmaps.flatten()[order], atol=0.004, rtol=0)


@pytest.mark.parametrize(("sigma", "max_error"), [(1.0, 0.05), (2.0, 0.1), (3.0, 0.25)])
def test_smooth_heatmaps_use_the_cosine_basis(sigma: float, max_error: float) -> None:
    rng = np.random.default_rng(0)
    heatmaps = np.stack([gaussian(rng, 64, sigma) for _ in range(20)])[None]
    compressed = compress(torch.from_numpy(heatmaps).float(), max_error)
    assert (compressed.steps > 0).all()
    # Far fewer numbers than the 4,096 pixels of a heatmap.
    assert (compressed.coefficients != 0).sum() < 20 * 200


def test_the_step_of_a_heatmap_does_not_depend_on_the_others() -> None:
    heatmaps = maps_of([("smooth", 1.0), ("noise", 1.0), ("smooth", 0.3)], 32, seed=0)
    steps = compress(heatmaps, 0.1).steps[0]
    alone = [compress(heatmaps[:, k : k + 1], 0.1).steps.item() for k in range(3)]
    assert steps.tolist() == alone
    assert len(set(alone)) == 3


@pytest.mark.parametrize("max_error", [0.05, 0.25])
def test_the_next_larger_step_would_break_the_bound(max_error: float) -> None:
    """Also if the smallest steps would overflow the coefficients."""
    heatmaps = maps_of([("smooth", 1.0)] * 12, 32, seed=3)
    compressed = compress(heatmaps, max_error)
    assert (compressed.steps > 0).all()
    rung = (8 * compressed.steps.float().log2()).round()
    larger = torch.exp2((rung + 1) / 8).half()
    cosines = compression._to_blocks(heatmaps) @ basis()[0].T
    coefficients = (cosines / larger.float()[..., None, None, None]).round().to(torch.int8)
    error = (decompress(coefficients, larger, 32) - heatmaps).abs().amax((-2, -1))
    assert (error > 0.998 * max_error * heatmaps.amax((-2, -1))).all()


def test_negative_values_are_stored_as_zero() -> None:
    heatmaps = maps_of([("noise", 1.0)], 16, seed=0)
    one, other = compress(heatmaps, 0.05), compress(heatmaps.clamp_min(0), 0.05)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert decompress(one.coefficients, one.steps, 16).min() >= 0
    below = compress(torch.full((1, 2, 8, 8), -3.0), 0.05)
    assert not below.coefficients.any()
    assert below.peaks.tolist() == [[0.0, 0.0]]


def test_noise_below_the_bound_of_a_faint_peak_is_stored_as_zeros() -> None:
    heatmaps = maps_of([("noise", 1e-3)], 16, seed=0)
    compressed = compress(heatmaps, 0.1)
    assert heatmaps.max() < 0.1 * FAINT_PEAK
    assert not compressed.coefficients.any()
    assert compressed.peaks.item() == pytest.approx(heatmaps.max().item(), rel=1e-3)


def test_the_largest_float16_is_a_valid_peak() -> None:
    heatmaps = 65504 * maps_of([("smooth", 1.0)], 16, seed=0)
    heatmaps /= heatmaps.max() / 65504
    compressed = compress(heatmaps, 0.25)
    assert compressed.peaks.item() == 65504
    assert_within_bound(heatmaps, compressed, 0.25)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 65536.0])
def test_values_beyond_float16_are_refused(value: float) -> None:
    heatmaps = torch.rand(2, 3, 4, 4)
    heatmaps[1, 2, 3, 1] = value
    with pytest.raises(ValueError, match="expected finite heatmaps with peaks below 65504"):
        compress(heatmaps, 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_accepted(dtype: torch.dtype) -> None:
    heatmaps = maps_of([("smooth", 1.0)], 16, seed=0).to(dtype)
    compressed = compress(heatmaps, 0.1)
    exact = compress(heatmaps.float(), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(compressed, exact, strict=True))


# Independence of batch and memory layout. Sums may be taken in another order, so a few coefficients
# may be rounded the other way.


def assert_same(one: CompressedHeatmaps, other: CompressedHeatmaps) -> None:
    for values, others in zip(one, other, strict=True):
        assert values.dtype == others.dtype
        assert (values == others).float().mean() > 0.999


def test_a_heatmap_is_encoded_alone_as_in_a_batch() -> None:
    kinds = [(kind, scale) for kind in MAPS for scale in (1.0, 0.02)]
    heatmaps = torch.cat([maps_of(kinds, 20, seed) for seed in range(5)])
    together = compress(heatmaps, 0.05)
    decoded = decompress(together.coefficients, together.steps, 20)
    for b in range(5):
        alone = compress(heatmaps[b : b + 1], 0.05)
        part = CompressedHeatmaps(*(values[b : b + 1] for values in together))
        assert_same(alone, part)
        torch.testing.assert_close(decompress(part.coefficients, part.steps, 20)[0], decoded[b])


def test_memory_layout_does_not_change_the_encoding() -> None:
    heatmaps = torch.cat([maps_of([("smooth and noisy", 1.0)] * 4, 16, seed) for seed in range(3)])
    strided = heatmaps.contiguous(memory_format=torch.channels_last)
    assert_same(compress(heatmaps, 0.05), compress(strided, 0.05))


def test_gradients_flow_after_a_call_in_inference_mode() -> None:
    """The cached basis is not an inference tensor, which autograd could not save."""
    compression._bases.cache_clear()
    heatmaps = maps_of([("smooth", 1.0)], 16, seed=0)
    with torch.inference_mode():
        compressed = compress(heatmaps, 0.1)
        decompress(compressed.coefficients, compressed.steps, 16)
    compressed = compress(heatmaps, 0.1)
    weight = torch.ones((), requires_grad=True)
    (
        decompress(compressed.coefficients, compressed.steps, 16) * weight - 1
    ).square().mean().backward()
    assert weight.grad is not None and weight.grad != 0
    steps = torch.ones(1, 1, requires_grad=True)
    decompress(compressed.coefficients, steps, 16).sum().backward()
    assert steps.grad is not None
