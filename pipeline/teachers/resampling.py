"""Convert crops to a teacher's input, and its heatmaps to the store's grid.

A square crop of side S is letterboxed: resized to the shorter side of the input, centered, and
padded with black (like the crops that teachers were trained on). Positions in crop, input and
heatmap are related by the half-pixel convention, or by the teacher's own (`spec.grid`).

Shape letters: B batch, S crop side, K joints, H and W height and width of a teacher's heatmaps, G
side of the store's heatmaps.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.geometry import Geometry
from .spec import TeacherSpec

LOBES = 3
"""Lobes of the Lanczos kernel that resamples heatmaps. On Gaussians of sigma 1 and 2, at factors of
1/2 to 2 and any offset, it moved decoded positions by at most 0.02 heatmap pixels if the result's
sigma was at least 0.75 pixels; Keys' cubic, the one in image libraries, by up to 0.15."""


class Placement(NamedTuple):
    """The square of a teacher's input that a crop fills; `top` and `left` are its first pixel."""

    side: int
    top: int
    left: int


def letterbox_placement(spec: TeacherSpec) -> Placement:
    """The largest square centered in the input (if the rest is odd, half a pixel up or left)."""
    height, width = spec.input
    side = min(height, width)
    return Placement(side, (height - side) // 2, (width - side) // 2)


def letterbox(crop_B3SS: Tensor, spec: TeacherSpec) -> Tensor:
    """Convert crops to a teacher's input.

    Args:
        crop_B3SS: float32 RGB, 0..255.

    Returns:
        float32 (B, 3, *spec.input), normalized, with channels in the order of `spec.channels`.
    """
    height, width = spec.input
    placement = letterbox_placement(spec)
    crops = _resize(crop_B3SS, placement.side)
    mean, std = (_per_channel(values, crops.device) for values in (spec.mean_rgb, spec.std_rgb))
    bottom = height - placement.side - placement.top
    right = width - placement.side - placement.left
    crops = nn.functional.pad(crops, (placement.left, right, placement.top, bottom))
    crops = (crops / 255 - mean) / std
    return crops.flip(1) if spec.channels == "bgr" else crops


def _resize(crop_B3SS: Tensor, side: int) -> Tensor:
    if crop_B3SS.shape[-1] == side:
        return crop_B3SS
    return nn.functional.interpolate(
        crop_B3SS, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


@cache
def _per_channel(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """float32 (3, 1, 1). Cached: copying it to the GPU would synchronize."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]


class HeatmapResampler:
    """Resamples a teacher's heatmaps, (B, K, H, W), to the store's grid, float32 (B, K, G, G).

    Heatmaps are divided by `spec.peak`, so that a confident joint has a peak of about 1.
    """

    def __init__(self, spec: TeacherSpec, geometry: Geometry, device: torch.device) -> None:
        rows, columns = (_axis_weights(spec, axis, geometry) for axis in (0, 1))
        self.same_grid = all(np.array_equal(m, np.eye(len(m))) for m in (rows, columns))
        self.rows_GH, self.columns_GW = (
            torch.tensor(matrix, dtype=torch.float32, device=device) for matrix in (rows, columns)
        )
        self.peak = spec.peak

    def __call__(self, heatmaps_BKHW: Tensor) -> Tensor:
        heatmaps = heatmaps_BKHW.float()
        if not self.same_grid:
            heatmaps = self.rows_GH @ heatmaps @ self.columns_GW.mT
        return heatmaps if self.peak == 1 else heatmaps / self.peak


def _axis_weights(spec: TeacherSpec, axis: int, geometry: Geometry) -> NDArray[np.float64]:
    """Weights of a teacher's pixels in each of the store's pixels along one axis, (G, H or W)."""
    input_xy = input_positions(spec, axis, geometry)
    return lanczos_weights(to_heatmap(input_xy, spec, axis), spec.heatmap[axis])


def input_positions(spec: TeacherSpec, axis: int, geometry: Geometry) -> NDArray[np.float64]:
    """Where the store's pixels are in a teacher's input along one axis (0: y, 1: x).

    Returns:
        float64 (G,), input pixels, evenly spaced: the first and the second determine the others.
    """
    placement = letterbox_placement(spec)
    crop_xy = geometry.to_crop(np.arange(geometry.heatmap_px, dtype=np.float64))
    start = (placement.top, placement.left)[axis]
    return (crop_xy + 0.5) * (placement.side / geometry.crop_px) - 0.5 + start


def to_heatmap(input_xy: NDArray[np.float64], spec: TeacherSpec, axis: int) -> NDArray[np.float64]:
    """Convert input pixels to heatmap pixels of a teacher, along one axis (0: y, 1: x)."""
    if spec.grid == "origin":
        return input_xy / spec.stride_px
    if spec.grid == "corners":
        return input_xy * ((spec.heatmap[axis] - 1) / (spec.input[axis] - 1))
    return (input_xy + 0.5) / spec.stride_px - 0.5


def lanczos_weights(positions_G: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Weights that sample a line of `size` pixels at evenly spaced positions.

    A Lanczos kernel, widened when downsampling and cut off at the ends of the line. The weights of
    a position add up to one.

    Returns:
        float64 (G, size); the identity matrix if the positions are the pixels themselves.
    """
    inside = positions_G.clip(-0.5, size - 0.5)
    widened = max(1.0, abs(positions_G[-1] - positions_G[0]) / (len(positions_G) - 1))
    distance = (inside[:, None] - np.arange(size)) / widened
    weights = np.where(abs(distance) < LOBES, np.sinc(distance) * np.sinc(distance / LOBES), 0.0)
    weights[abs(weights) < 1e-12] = 0.0  # sinc of an integer is zero up to rounding
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
