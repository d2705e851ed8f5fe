"""Heatmaps to bytes within a stated error, and back: an 8 x 8 block cosine transform.

A heatmap is smooth, so a few of a block's 64 cosine coefficients hold it. They are rounded to whole
multiples of a *step*, chosen map by map: the largest for which no pixel of the map is off by more
than `max_error` of its peak. Where no step keeps that bound (a map that is not smooth, a tight
bound), the pixels themselves are rounded instead, which always does; a negative step says so.
Both are the same sum, over another basis, so decoding is one matrix product on any device:

    heatmap = max(0, coefficients @ basis) * |step|           block by block

Values below 0 become 0: a target has none. The peak is kept beside, as the teacher's confidence.

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
"""Side of a block: 4 and 16 take more bytes at equal error (docs/store.md)."""

COEFFICIENTS = BLOCK_PX**2

FAINT_PEAK = 0.1
"""The error of a map whose peak is below this is bounded by `max_error` of this: a map so faint
shows no joint, and exact noise would cost more bytes than all that is worth keeping."""

LARGEST = 127  # an int8 coefficient; -128 is not used

# Steps are powers of 2^(1/8), from an eighth to four times the error allowed: on real maps they
# lie between 0.5 and 3 times of it.
STEPS_PER_OCTAVE = 8
LOWEST, HIGHEST = -3 * STEPS_PER_OCTAVE, 2 * STEPS_PER_OCTAVE

# The bound is kept with a little to spare, for other devices' rounding.
MARGIN = 0.999


class CompressedHeatmaps(NamedTuple):
    """Heatmaps as stored."""

    coefficients: Tensor  # int8 (B, K, Y, X, C)
    steps: Tensor  # float16 (B, K); negative: the coefficients are pixels
    peaks: Tensor  # float16 (B, K)


def compress(heatmaps_BKHW: Tensor, max_error: float) -> CompressedHeatmaps:
    """Encode on the device where the heatmaps are.

    Args:
        heatmaps_BKHW: finite floats.
        max_error: largest error of a pixel as a share of its map's peak (or of `FAINT_PEAK`, if
            that is higher), 0.004..0.25.

    Raises:
        ValueError: a value is not finite, or a peak exceeds float16.
    """
    wanted = heatmaps_BKHW.float().clamp_min(0)
    peaks = wanted.amax(dim=(-2, -1)).half()
    # A sum is finite only if all its terms are.
    if not torch.isfinite(heatmaps_BKHW.float().sum() + peaks.float().sum()):
        raise ValueError("expected finite heatmaps with peaks below 65504, got others")
    allowed = max_error * MARGIN * peaks.float().clamp_min(FAINT_PEAK)
    bases = _bases(wanted.device)
    blocks = _to_blocks(wanted)
    cosines = blocks @ bases[0].T
    steps = _largest_steps(cosines, blocks, bases[0], allowed)
    plain = steps == 0
    steps = torch.where(plain, -_float16(2 * allowed), steps)
    values = torch.where(_per_block(plain), blocks @ bases[1].T, cosines)
    return CompressedHeatmaps(_round(values, steps.abs()).to(torch.int8), steps.half(), peaks)


def decompress(coefficients_BKYXC: Tensor, steps_BK: Tensor, size_px: int) -> Tensor:
    """Heatmaps as the teacher had them, within the bound they were stored with.

    Args:
        coefficients_BKYXC: int8 (B, K, Y, X, 64).
        steps_BK: float (B, K).
        size_px: side of the heatmaps; they may end within a block.

    Returns:
        float32 (B, K, H, W).
    """
    bases = _bases(coefficients_BKYXC.device)
    coefficients = coefficients_BKYXC.float()
    blocks = coefficients @ bases[0]
    plain = steps_BK < 0
    if coefficients.device.type != "cpu" or plain.any():  # asking would have a GPU wait
        blocks = torch.where(_per_block(plain), coefficients @ bases[1], blocks)
    blocks = blocks.clamp_min(0) * _per_block(steps_BK.float().abs())
    return _from_blocks(blocks, size_px)


def basis() -> Tensor:
    """float32 (2, C, C): the pixels (row by row) that a coefficient of 1 adds to its block.

    0 is the orthonormal two-dimensional DCT (its inverse is type III), 1 the pixels themselves.
    Coefficients are in zigzag order (as in JPEG, ITU T.81 figure A.6, but always from the right
    up): by rising `row + column`, rows first within one; most of a map's end in zeros.
    """
    side = torch.arange(BLOCK_PX, dtype=torch.float64)
    cosine = torch.cos(math.pi / BLOCK_PX * (side + 0.5) * side[:, None]) * (2 / BLOCK_PX) ** 0.5
    cosine[0] /= 2**0.5
    order = sorted(range(COEFFICIENTS), key=lambda i: (sum(divmod(i, BLOCK_PX)), i))
    return torch.stack([torch.kron(cosine, cosine), torch.eye(COEFFICIENTS)])[:, order].float()


@lru_cache(maxsize=8)
def _bases(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # made once, used with and without gradients
        return basis().to(device)


def _largest_steps(cosines: Tensor, blocks: Tensor, basis_CC: Tensor, allowed_BK: Tensor) -> Tensor:
    """The largest steps that keep the bound, found by bisection; 0 where none was found.

    Too small a step overflows the coefficients, too large a one breaks the bound. The error does
    not rise quite evenly with the step, so a slightly larger one may have done too; what is
    returned has been tried.
    """
    rung = torch.floor(STEPS_PER_OCTAVE * torch.log2(allowed_BK))
    low = torch.full_like(rung, LOWEST)
    high = torch.full_like(rung, HIGHEST + 1)
    largest = torch.zeros_like(rung)
    for _ in range(math.ceil(math.log2(HIGHEST + 1 - LOWEST))):
        middle = torch.floor((low + high) / 2)
        steps = _float16(torch.exp2((rung + middle) / STEPS_PER_OCTAVE))
        rounded = _round(cosines, steps)
        # In place: what takes time here is memory.
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
    """Values as they come back from float16."""
    return values.half().float()


def _per_block(values_BK: Tensor) -> Tensor:
    return values_BK[..., None, None, None]


def blocks_across(size_px: int) -> int:
    """Blocks that cover a side."""
    return -(-size_px // BLOCK_PX)


def _to_blocks(heatmaps_BKHW: Tensor) -> Tensor:
    """Square heatmaps to (B, K, Y, X, pixels); the edge repeated to whole blocks."""
    size_px = heatmaps_BKHW.shape[-1]
    count = blocks_across(size_px)
    missing = count * BLOCK_PX - size_px
    padded = torch.nn.functional.pad(heatmaps_BKHW, (0, missing, 0, missing), mode="replicate")
    blocks = padded.reshape(*padded.shape[:-2], count, BLOCK_PX, count, BLOCK_PX)
    return blocks.transpose(-3, -2).flatten(-2)


def _from_blocks(blocks_BKYXC: Tensor, size_px: int) -> Tensor:
    blocks = blocks_BKYXC.reshape(*blocks_BKYXC.shape[:-1], BLOCK_PX, BLOCK_PX)
    return blocks.transpose(-3, -2).flatten(-4, -3).flatten(-2)[..., :size_px, :size_px]
