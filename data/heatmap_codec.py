"""Encode joints as target heatmaps, and decode heatmaps to joints; on the tensors' device.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

# A joint further outside the map than three sigma has no target: its Gaussian is negligible there.
# (HRNet's rule, lib/dataset/JointsDataset.py.)
REACH_SIGMAS = 3.0


def encode(
    joints_BK2: Tensor, size_px: int, sigma_px: float, *, area_normalized: bool = False
) -> tuple[Tensor, Tensor]:
    """Gaussian target heatmaps (paper, eq. 2), centered at the joint's sub-pixel position.

    Args:
        joints_BK2: (x, y) in heatmap pixels; NaN where a joint is not labeled.
        size_px: side of the square maps.
        sigma_px: standard deviation of the Gaussian, heatmap pixels.
        area_normalized: False: peak 1, as in every public implementation. True: divided by
            2 pi sigma^2, as in eq. 2.

    Returns:
        (heatmaps, weights): float32 (B, K, H, W), zero for joints without a target, and float32
        (B, K), 1 for joints with a target: labeled, and within `REACH_SIGMAS` sigma of the map.
    """
    grid = torch.arange(size_px, dtype=torch.float32, device=joints_BK2.device)
    reach = REACH_SIGMAS * sigma_px
    inside = (joints_BK2 > -0.5 - reach) & (joints_BK2 < size_px - 0.5 + reach)
    weights_BK = inside.all(dim=-1)  # a comparison with NaN is False
    joints = torch.where(weights_BK[..., None], joints_BK2.float(), 0.0)
    gauss_BK2S = torch.exp(-((grid - joints[..., None]) ** 2) / (2 * sigma_px**2))
    heatmaps = gauss_BK2S[:, :, 1, :, None] * gauss_BK2S[:, :, 0, None, :]
    heatmaps = heatmaps * weights_BK[..., None, None]
    if area_normalized:
        heatmaps = heatmaps / (2 * math.pi * sigma_px**2)
    return heatmaps, weights_BK.float()


def decode(heatmaps_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Joints from heatmaps: the highest pixel, refined to sub-pixel.

    Along each axis, a parabola is fitted to the logarithms of the highest pixel and its two
    neighbors (at an edge: of the three outermost pixels). The logarithm of a Gaussian is a
    parabola, so its center is recovered exactly. This is the Taylor step of DARK (Zhang et al.,
    CVPR 2020, eq. 5 to 8) without the mixed derivative, which is zero for an isotropic Gaussian.

    Args:
        heatmaps_BKHW: float, at least 3 x 3 pixels.

    Returns:
        (joints, peaks): float32 (B, K, 2) of (x, y) in heatmap pixels, and float32 (B, K), the
        value of the highest pixel.
    """
    heatmaps = heatmaps_BKHW.float()
    height, width = heatmaps.shape[-2:]
    flat_BKP = heatmaps.flatten(2)
    peaks_BK, position = flat_BKP.max(dim=-1)
    y, x = position // width, position % width
    # `take_along_dim` would fix the batch size when the function is exported, and litert-torch
    # cannot convert a `gather` of four dimensions.
    columns = torch.arange(width, device=heatmaps.device)
    rows = torch.arange(height, device=heatmaps.device)
    row_BKW = flat_BKP.gather(2, (position - x)[..., None] + columns)
    column_BKH = flat_BKP.gather(2, x[..., None] + width * rows)
    return torch.stack([_vertex(row_BKW, x), _vertex(column_BKH, y)], dim=-1), peaks_BK


def _vertex(line_BKS: Tensor, top_BK: Tensor) -> Tensor:
    """Maximum of the parabola through the log values around pixel `top_BK`, float32 (B, K)."""
    size = line_BKS.shape[-1]
    middle = top_BK.clamp(1, size - 2)
    offsets = torch.arange(-1, 2, device=line_BKS.device)
    values = line_BKS.gather(-1, middle[..., None] + offsets)
    # Values at or below zero have no logarithm: a floor far below the peak keeps the step finite.
    floor = line_BKS.amax(-1, keepdim=True).clamp_min(1e-12) * 1e-6
    before, at, after = torch.log(torch.maximum(values, floor)).unbind(-1)
    curvature = 2 * at - before - after
    vertex = middle + (after - before) / (2 * curvature.clamp_min(1e-6))
    vertex = torch.where(curvature > 1e-6, vertex, top_BK)  # otherwise there is no maximum
    # The maximum lies within half a pixel of the highest one; a pixel allows for noise and edges.
    return torch.minimum(torch.maximum(vertex, top_BK - 1.0), top_BK + 1.0)


def flip_heatmaps(heatmaps_BKHW: Tensor, flip_indices: tuple[int, ...]) -> Tensor:
    """Heatmaps of the flipped view: flipped left to right, left and right joints swapped.

    No shift is needed: the crop's and the heatmap's grids have the same center.

    Args:
        heatmaps_BKHW: any dtype.
        flip_indices: see `Skeleton.flip_indices`.
    """
    return swap_joints(heatmaps_BKHW.flip(-1), flip_indices)


def swap_joints(values_BK: Tensor, flip_indices: tuple[int, ...]) -> Tensor:
    """Values by joint, (B, K, ...), with left and right joints swapped."""
    return values_BK.index_select(1, _index(tuple(flip_indices), values_BK.device))


@cache
def _index(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """int64 (K,). Cached: copying it to the GPU would synchronize."""
    with torch.inference_mode(False):
        return torch.tensor(indices, device=device)
