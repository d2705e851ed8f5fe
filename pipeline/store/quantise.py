"""Heatmaps to bytes within a stated error, and back.

A map is stored relative to its peak, in steps of `2 * max_error`: rounding is then off by at most
`max_error` of the peak, and of all codes with that bound the coarsest steps make the smallest
files. Values below 0 become 0: a target has none. The peak is stored beside the map as float16.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_PEAK = 2.0**-14
"""Float16's smallest normal number: a map whose peak is not above it is stored as zero."""


def step_of(max_error: float) -> float:
    """The quantisation step, as a share of a map's peak."""
    return 2 * max_error


def quantise(heatmaps_BKHW: Tensor, max_error: float) -> tuple[Tensor, Tensor]:
    """Quantise on the device where the heatmaps are.

    Args:
        heatmaps_BKHW: finite floats.
        max_error: largest error as a share of the peak, 0.002..0.25.

    Returns:
        (stored, peaks): uint8 (B, K, H, W) with stored * step * peak ~ max(heatmap, 0), and
        float16 (B, K).

    Raises:
        ValueError: a value is not finite, or a peak exceeds float16.
    """
    heatmaps = heatmaps_BKHW.float()
    peaks = heatmaps.amax(dim=(-2, -1)).clamp_min(0).half()
    # A sum is finite only if all its terms are.
    if not torch.isfinite(heatmaps.sum() + peaks.float().sum()):
        raise ValueError("expected finite heatmaps with peaks below 65504, got others")
    peaks = torch.where(peaks > MIN_PEAK, peaks, torch.zeros_like(peaks))
    scale = 1 / (peaks.float() * step_of(max_error))
    scale = torch.where(peaks > 0, scale, torch.zeros_like(scale))
    stored = (heatmaps.clamp_min(0) * scale[..., None, None]).round().to(torch.uint8)
    return stored, peaks


def dequantise(stored_BKHW: Tensor, amplitude_BK: Tensor, max_error: float) -> Tensor:
    """Heatmaps whose peaks are `amplitude`: the stored peaks give back what the teacher said.

    Args:
        stored_BKHW: uint8 (B, K, H, W).
        amplitude_BK: float32 (B, K).

    Returns:
        float32 (B, K, H, W).
    """
    return stored_BKHW.float() * (amplitude_BK * step_of(max_error))[..., None, None]
