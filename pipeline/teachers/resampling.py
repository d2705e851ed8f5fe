"""Crops into a teacher's input, and its maps back onto the store's grid.

A square crop of side S is shown whole: enlarged or shrunk by one factor to the input's shorter
side, in the middle, black beyond (as in the crops that teachers were trained on). Between crop,
input and maps positions move by the half-pixel convention, or by the teacher's own (`spec.grid`).

Shape letters: B batch, S crop side, K joints, H and W height and width, G side of the store's maps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.views import Geometry
from .spec import TeacherSpec

LOBES = 3
"""Of the Lanczos window that maps are resampled with. On Gaussians of sigma 1 and 2, at factors of
1/2 to 2 and any offset, decoded positions moved by 0.02 heatmap pixels at most where the result's
sigma is 0.75 pixels or more; Keys' cubic, which image libraries use, by up to 0.15."""


class Placement(NamedTuple):
    """Where a crop lies in a teacher's input: `side` pixels square, from (`top`, `left`) on."""

    side: int
    top: int
    left: int


def letterbox_placement(spec: TeacherSpec) -> Placement:
    """The largest square in the middle of the input (an odd rest: half a pixel up and left)."""
    height, width = spec.input
    side = min(height, width)
    return Placement(side, (height - side) // 2, (width - side) // 2)


def letterbox(crop_B3SS: Tensor, spec: TeacherSpec) -> Tensor:
    """Crops as a teacher takes them.

    Args:
        crop_B3SS: float32 RGB, 0..255.

    Returns:
        float32 (B, 3, *spec.input), normalized, in the order of `spec.channels`.
    """
    height, width = spec.input
    placed = letterbox_placement(spec)
    crops = _resize(crop_B3SS, placed.side)
    mean, scale = (_column(values, crops) for values in (spec.mean_rgb, spec.std_rgb))
    below, right = height - placed.side - placed.top, width - placed.side - placed.left
    crops = nn.functional.pad(crops, (placed.left, right, placed.top, below))
    crops = (crops / 255 - mean) / scale
    return crops.flip(1) if spec.channels == "bgr" else crops


def _resize(crop_B3SS: Tensor, side: int) -> Tensor:
    if crop_B3SS.shape[-1] == side:
        return crop_B3SS
    return nn.functional.interpolate(
        crop_B3SS, size=(side, side), mode="bilinear", align_corners=False, antialias=True
    )


def _column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


class HeatmapResampler:
    """From a teacher's maps to the store's, float32 (B, K, H, W) to (B, K, G, G).

    Peaks are divided by the teacher's own, so that a joint it is sure of has about 1.
    """

    def __init__(self, spec: TeacherSpec, geometry: Geometry, device: torch.device) -> None:
        placed = letterbox_placement(spec)
        rows, columns = (
            _line(spec, axis, start, placed.side, geometry)
            for axis, start in enumerate((placed.top, placed.left))
        )
        self.same = all(np.array_equal(m, np.eye(len(m))) for m in (rows, columns))
        self.rows_GH, self.columns_GW = (
            torch.tensor(matrix, dtype=torch.float32, device=device) for matrix in (rows, columns)
        )
        self.peak = spec.peak

    def __call__(self, maps_BKHW: Tensor) -> Tensor:
        maps = maps_BKHW.float()
        if not self.same:
            maps = self.rows_GH @ maps @ self.columns_GW.mT
        return maps if self.peak == 1 else maps / self.peak


def _line(
    spec: TeacherSpec, axis: int, start: int, side: int, geometry: Geometry
) -> NDArray[np.float64]:
    """What each pixel of the store's map takes of a teacher's, along one axis."""
    crop_xy = geometry.to_crop(np.arange(geometry.heatmap_px, dtype=np.float64))
    input_xy = (crop_xy + 0.5) * (side / geometry.crop_px) - 0.5 + start
    return resampling(to_map(input_xy, spec, axis), spec.heatmap[axis])


def to_map(input_xy: NDArray[np.float64], spec: TeacherSpec, axis: int) -> NDArray[np.float64]:
    """Positions in a teacher's input to those in its maps, along one axis (0: y, 1: x)."""
    if spec.grid == "origin":
        return input_xy / spec.stride_px
    if spec.grid == "corners":
        return input_xy * ((spec.heatmap[axis] - 1) / (spec.input[axis] - 1))
    return (input_xy + 0.5) / spec.stride_px - 0.5


def resampling(positions_G: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The weights that read a line of `size` pixels at evenly spaced positions.

    Lanczos' window, widened where there are fewer positions than pixels, cut at the line's ends;
    weights add up to one.

    Returns:
        float64 (G, size); the unit matrix where positions are the pixels themselves.
    """
    inside = positions_G.clip(-0.5, size - 0.5)
    widened = max(1.0, abs(positions_G[-1] - positions_G[0]) / (len(positions_G) - 1))
    distance = (inside[:, None] - np.arange(size)) / widened
    weights = np.where(abs(distance) < LOBES, np.sinc(distance) * np.sinc(distance / LOBES), 0.0)
    weights[abs(weights) < 1e-12] = 0.0  # sinc of a whole number is next to zero
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
