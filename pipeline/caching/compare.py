"""How far heatmaps, as the store holds them, are from the teacher's output.

Shape letters: B views, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..store import CachedHeatmaps, CompressedHeatmaps
from ..store.compression import FAINT_PEAK
from .encode import encoding_error

ROUNDING = 0.01
"""Allowed beyond the store's error bound, as a share of a map's peak, for what differs between the
process that encoded the heatmaps and this one: convolutions round differently in batches of another
size (3e-6 at most, 2 x 64 hourglass, CPU) and on devices that multiply in TF32 (6e-3, factors
rounded to 10 bits). The output of another teacher differs by far more."""


def differences(stored: Sequence[CachedHeatmaps], live_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """How far stored heatmaps and peaks are from the teacher's output.

    Args:
        stored: B views.
        live_BKHW: the teacher's output for the same views, float (B, K, H, W).

    Returns:
        (error, displacement), float (B,) each, on the CPU: the largest difference of a pixel or of
        a peak, as a share of its map's peak (of `FAINT_PEAK` where that is higher); and the mean
        distance between decoded joints, in heatmap pixels.
    """
    device = live_BKHW.device
    compressed = CompressedHeatmaps(
        coefficients=torch.from_numpy(np.stack([view.coefficients for view in stored])).to(device),
        steps=torch.from_numpy(np.stack([view.steps for view in stored])).to(device),
        peaks=torch.from_numpy(np.stack([view.peaks for view in stored])).to(device),
    )
    errors_BK3 = encoding_error(
        live_BKHW, compressed
    )  # largest error, mean squared error, displacement
    live_peaks_BK = live_BKHW.amax((-2, -1)).clamp_min(0)
    peak_differences_BK = (compressed.peaks - live_peaks_BK).abs()
    peak_errors_BK = peak_differences_BK / compressed.peaks.float().clamp_min(FAINT_PEAK)
    error_B = torch.maximum(errors_BK3[..., 0], peak_errors_BK).amax(1)
    return error_B.cpu(), errors_BK3[..., 2].nanmean(1).cpu()
