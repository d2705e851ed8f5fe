"""Encoding of heatmaps within a stated error bound: an 8 x 8 block cosine transform.

A heatmap is smooth, so a few of the 64 cosine coefficients of a block describe it. They are rounded
to integer multiples of a *step*. Each heatmap has its own: the largest for which no pixel of the
heatmap is off by more than `max_error` of its peak. If no step keeps that bound (the heatmap is not
smooth, or the bound is tight), the pixels themselves are rounded instead, which always keeps it,
and the step is stored as negative. Both are the same sum over different bases, so decoding is one
matrix product on any device:

    heatmap = max(0, coefficients @ basis) * |step|           block by block

Values below 0 are stored as 0, the minimum of a target. The peak is stored beside the coefficients
as the teacher's confidence.

Shape letters: B batch, K joints, H and W heatmap height and width, Y and X blocks down and across,
C coefficients of a block.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_PX = 8
"""Side of a block. Sides of 4 and 16 take more bytes at the same error (docs/store.md)."""

COEFFICIENTS = BLOCK_PX**2

FAINT_PEAK = 0.1
"""Heatmaps with a lower peak are encoded as if their peak were this: such a faint heatmap shows no
joint, and storing its noise accurately would cost more bytes than a joint does."""

LARGEST = 127  # absolute value of an int8 coefficient; -128 is not used

# Steps are powers of 2^(1/8), from 1/8 of the allowed error to 4 times it. On real heatmaps they
# are between 0.5 and 3 times the allowed error.
STEPS_PER_OCTAVE = 8
LOWEST, HIGHEST = -3 * STEPS_PER_OCTAVE, 2 * STEPS_PER_OCTAVE

# Encoding stays this far within the bound, because other devices round differently.
MARGIN = 0.999


class CompressedHeatmaps(NamedTuple):
    """Heatmaps as stored."""

    coefficients: Tensor  # int8 (B, K, Y, X, C)
    steps: Tensor  # float16 (B, K); negative: the coefficients are pixels
    peaks: Tensor  # float16 (B, K)


def compress(heatmaps_BKHW: Tensor, max_error: float) -> CompressedHeatmaps:
    """Encode heatmaps, on their device.

    Args:
        heatmaps_BKHW: finite floats; square.
        max_error: largest error of a pixel as a share of its heatmap's peak (or of `FAINT_PEAK`, if
            that is higher), 0.004 to 0.25.

    Raises:
        ValueError: a value is not finite, or a peak exceeds the range of float16.
    """
    compressed = compress_unchecked(heatmaps_BKHW, max_error)
    check_finite(total(heatmaps_BKHW, compressed.peaks))
    return compressed


def total(heatmaps_BKHW: Tensor, peaks_BK: Tensor) -> Tensor:
    """A scalar that is finite only if all heatmaps and peaks are."""
    return heatmaps_BKHW.float().sum() + peaks_BK.float().sum()


def check_finite(total_: Tensor) -> None:
    """Check the `total` of heatmaps; on a GPU this waits until it is computed.

    Raises:
        ValueError: it is not finite.
    """
    if not torch.isfinite(total_):
        raise ValueError(
            "expected finite heatmaps with peaks below 65504 from the teacher, got others"
        )


def compress_unchecked(heatmaps_BKHW: Tensor, max_error: float) -> CompressedHeatmaps:
    """As `compress`, without waiting for a GPU; the caller checks the `total`."""
    targets = heatmaps_BKHW.float().clamp_min(0)
    peaks = targets.amax(dim=(-2, -1)).half()
    allowed = max_error * MARGIN * peaks.float().clamp_min(FAINT_PEAK)
    bases = _bases(targets.device)
    blocks = _to_blocks(targets)
    cosines = blocks @ bases[0].T
    steps = _largest_steps(cosines, blocks, bases[0], allowed)
    as_pixels = steps == 0
    steps = torch.where(as_pixels, -_float16(2 * allowed), steps)
    values = torch.where(_per_block(as_pixels), blocks @ bases[1].T, cosines)
    return CompressedHeatmaps(_round(values, steps.abs()).to(torch.int8), steps.half(), peaks)


def decompress(coefficients_BKYXC: Tensor, steps_BK: Tensor, size_px: int) -> Tensor:
    """Decode heatmaps. They equal the encoded ones, clamped at 0, within the bound used there.

    Args:
        coefficients_BKYXC: int8 (B, K, Y, X, 64).
        steps_BK: float (B, K).
        size_px: side of the heatmaps; need not be a multiple of `BLOCK_PX`.

    Returns:
        float32 (B, K, H, W).
    """
    bases = _bases(coefficients_BKYXC.device)
    coefficients = coefficients_BKYXC.float()
    blocks = coefficients @ bases[0]
    as_pixels = steps_BK < 0
    # On a GPU, `any` would synchronize: there, both products are always computed.
    if coefficients.device.type != "cpu" or as_pixels.any():
        blocks = torch.where(_per_block(as_pixels), coefficients @ bases[1], blocks)
    blocks = blocks.clamp_min(0) * _per_block(steps_BK.float().abs())
    return _from_blocks(blocks, size_px)


def basis() -> Tensor:
    """float32 (2, C, C): the pixels (row by row) that a coefficient of 1 adds to its block.

    0 is the orthonormal two-dimensional DCT (its inverse is type III), 1 the pixels themselves.
    Coefficients are in zigzag order (as in JPEG, ITU-T T.81 figure A.6, except that each diagonal
    runs from top right to bottom left): by `row + column`, then by row. Most blocks then end in
    zeros.
    """
    side = torch.arange(BLOCK_PX, dtype=torch.float64)
    cosine = torch.cos(math.pi / BLOCK_PX * (side + 0.5) * side[:, None]) * (2 / BLOCK_PX) ** 0.5
    cosine[0] /= 2**0.5
    order = sorted(range(COEFFICIENTS), key=lambda i: (sum(divmod(i, BLOCK_PX)), i))
    return torch.stack([torch.kron(cosine, cosine), torch.eye(COEFFICIENTS)])[:, order].float()


@lru_cache(maxsize=8)
def _bases(device: torch.device) -> Tensor:
    # Cached for calls with and without gradients; autograd cannot save an inference tensor.
    with torch.inference_mode(False):
        return basis().to(device)


def _largest_steps(cosines: Tensor, blocks: Tensor, basis_CC: Tensor, allowed_BK: Tensor) -> Tensor:
    """The largest steps that keep the bound, found by bisection; 0 where none was found.

    Too small a step overflows the coefficients, too large a step breaks the bound. The error does
    not rise quite monotonically with the step, so a slightly larger step may keep the bound as
    well; each returned step was tried and keeps it.
    """
    rung = torch.floor(STEPS_PER_OCTAVE * torch.log2(allowed_BK))
    low = torch.full_like(rung, LOWEST)
    high = torch.full_like(rung, HIGHEST + 1)
    largest = torch.zeros_like(rung)
    for _ in range(math.ceil(math.log2(HIGHEST + 1 - LOWEST))):
        middle = torch.floor((low + high) / 2)
        steps = _float16(torch.exp2((rung + middle) / STEPS_PER_OCTAVE))
        rounded = _round(cosines, steps)
        # In place, because memory traffic dominates the time.
        error = (rounded @ basis_CC).clamp_min_(0).mul_(_per_block(steps)).sub_(blocks)
        fits = error.abs_().amax((-3, -2, -1)) <= allowed_BK
        overflows = rounded.abs_().amax((-3, -2, -1)) > LARGEST
        largest = torch.where(fits & ~overflows, steps, largest)
        higher = fits | overflows
        low, high = torch.where(higher, middle, low), torch.where(higher, high, middle)
    return largest


def _round(values_BKYXC: Tensor, steps_BK: Tensor) -> Tensor:
    return (values_BKYXC / _per_block(steps_BK)).round_()


def _float16(values: Tensor) -> Tensor:
    """Values rounded to float16, as float32."""
    return values.half().float()


def _per_block(values_BK: Tensor) -> Tensor:
    return values_BK[..., None, None, None]


def blocks_across(size_px: int) -> int:
    """Number of blocks that cover a side of a heatmap."""
    return -(-size_px // BLOCK_PX)


def _to_blocks(heatmaps_BKHW: Tensor) -> Tensor:
    """Square heatmaps as (B, K, Y, X, pixels), with the last row and column repeated as padding."""
    size_px = heatmaps_BKHW.shape[-1]
    count = blocks_across(size_px)
    missing = count * BLOCK_PX - size_px
    padded = torch.nn.functional.pad(heatmaps_BKHW, (0, missing, 0, missing), mode="replicate")
    blocks = padded.reshape(*padded.shape[:-2], count, BLOCK_PX, count, BLOCK_PX)
    return blocks.transpose(-3, -2).flatten(-2)


def _from_blocks(blocks_BKYXC: Tensor, size_px: int) -> Tensor:
    blocks = blocks_BKYXC.reshape(*blocks_BKYXC.shape[:-1], BLOCK_PX, BLOCK_PX)
    return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2)[..., :size_px, :size_px]
