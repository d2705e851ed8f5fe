"""What a teacher's head computes, as heatmaps on the store's grid.

    heatmaps      resampled (`resampling`)
    logits        their sigmoid, resampled
    simcc         a Gaussian of height 1 along each axis (RTMPose; Jiang et al., 2023): their outer
                  product
    simcc-logits  softmax along each axis (SimCC; Li et al., ECCV 2022): likewise
    landmarks     a Gaussian at each landmark, as high as its confidence

Heatmaps of the flipped crop are averaged with those of the crop afterwards, on the store's grid, so
all heads are averaged alike.

Shape letters: B batch, K joints, J the selected joints, W bins, H and W height and width of a
teacher's heatmaps, G side of the store's heatmaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.geometry import Geometry
from .resampling import HeatmapResampler, input_positions
from .spec import TeacherSpec

Output = Tensor | tuple[Tensor, Tensor]
"""What a teacher returns; see `spec.Teacher`."""

Head = Callable[[Output, Tensor], Tensor]
"""From a teacher's output and the indices of J of its joints, int64 (J,), to their heatmaps on the
store's grid, float32 (B, J, G, G)."""

MIN_SIGMA_PX = 0.75
"""Gaussians of SimCC and landmarks are at least as wide, in pixels of the store's grid: narrower
ones fall between pixels."""

MIN_KERNEL_BINS = 1.0
"""Least sigma of the Gaussian that interpolates between SimCC's bins: a sum over integers of such
Gaussians is constant up to 5e-9, so the interpolation is exact in float32."""


def make_head(
    spec: TeacherSpec,
    geometry: Geometry,
    device: torch.device,
    *,
    min_sigma_px: float = MIN_SIGMA_PX,
) -> Head:
    """The function that converts a teacher's output to heatmaps on a grid, usually the store's.

    Args:
        geometry: of the grid.
        min_sigma_px: least sigma of Gaussians of SimCC and landmarks, pixels of the grid.
    """
    if spec.head in ("simcc", "simcc-logits"):
        return SimCCHead(spec, geometry, device, min_sigma_px)
    if spec.head == "landmarks":
        return LandmarkHead(spec, geometry, device, min_sigma_px)
    return HeatmapHead(spec, geometry, device)


def check_output(output: object, batch_size: int, spec: TeacherSpec) -> Output:
    """Return a teacher's output, if it has the shape that the spec states.

    Raises:
        ValueError: it has another.
    """
    joints = len(spec.joints)
    if spec.head in ("simcc", "simcc-logits"):
        height, width = spec.bins
        expected: list[tuple[int, ...]] = [
            (batch_size, joints, width),
            (batch_size, joints, height),
        ]
        axes, keys = "(samples, joints, bins) of x and y", "input, joints or split_ratio"
    elif spec.head == "landmarks":
        expected = [(batch_size, joints, len(spec.values))]
        axes, keys = "(samples, landmarks, values)", "joints or values"
    else:
        expected = [(batch_size, joints, *spec.heatmap)]
        axes, keys = "(samples, joints, height, width)", "input, joints or stride_px"
    parts = output if isinstance(output, tuple) else (output,)
    shapes = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
    if shapes != expected or len(shapes) != len(parts):
        what = "heatmaps" if spec.head in ("heatmaps", "logits") else spec.head
        raise ValueError(
            f"expected {what} of shape {' and '.join(map(str, expected))} {axes} from the teacher, "
            f"according to its spec, found {' and '.join(map(str, shapes)) or 'no tensor'}: "
            f"correct {keys} in the spec"
        )
    return output  # type: ignore[return-value]


class HeatmapHead:
    """Heatmaps, or logits of heatmaps; see `Head`."""

    def __init__(self, spec: TeacherSpec, geometry: Geometry, device: torch.device) -> None:
        self.logits = spec.head == "logits"
        self.resample = HeatmapResampler(spec, geometry, device)

    def __call__(self, output: Output, indices_J: Tensor) -> Tensor:
        assert isinstance(output, Tensor)
        heatmaps = output[:, indices_J]
        return self.resample(heatmaps.float().sigmoid() if self.logits else heatmaps)


class SimCCHead:
    """The outer product of two distributions, at the store's pixels; see `Head`.

    A distribution is sampled at the store's pixels by a Gaussian kernel, which makes a Gaussian
    wider by a known factor, and is scaled so that it keeps its height. A Gaussian therefore comes
    out as a Gaussian, at its position and with its height, on any grid.
    """

    def __init__(
        self, spec: TeacherSpec, geometry: Geometry, device: torch.device, min_sigma_px: float
    ) -> None:
        assert spec.sigma_input_px is not None  # SimCC's is always known
        self.sigma_bins = tuple(sigma * spec.split_ratio for sigma in spec.sigma_input_px)
        self.softmax = spec.head == "simcc-logits"
        self.peak = spec.peak
        self.rows_GW, self.columns_GW = (
            torch.tensor(weights, dtype=torch.float32, device=device)
            for weights in (_bin_weights(spec, axis, geometry, min_sigma_px) for axis in (0, 1))
        )

    def __call__(self, output: Output, indices_J: Tensor) -> Tensor:
        assert isinstance(output, tuple)
        x_BJW, y_BJW = (
            self._scaled(values[:, indices_J].float(), sigma)
            for values, sigma in zip(output, reversed(self.sigma_bins), strict=True)
        )
        x_BJG, y_BJG = x_BJW @ self.columns_GW.mT, y_BJW @ self.rows_GW.mT
        return y_BJG[..., :, None] * x_BJG[..., None, :] / self.peak

    def _scaled(self, values_BJW: Tensor, sigma_bins: float) -> Tensor:
        """Distributions whose height is the confidence, 0..1."""
        if self.softmax:  # the highest density of a confident joint is that of a Gaussian
            scaled = values_BJW.softmax(-1) * (sigma_bins * math.sqrt(2 * math.pi))
        else:
            scaled = values_BJW.clamp_min(0)
        # As mmpose does before it multiplies them (models/utils, `get_simcc_normalized`).
        return scaled / scaled.amax(-1, keepdim=True).clamp_min(1)


def _bin_weights(
    spec: TeacherSpec, axis: int, geometry: Geometry, min_sigma_px: float
) -> NDArray[np.float64]:
    """Weights of the bins in each of the store's pixels along one axis, float64 (G, W).

    Bin b is at input pixel b / split_ratio (mmpose, codecs/simcc_label.py).
    """
    assert spec.sigma_input_px is not None
    positions = input_positions(spec, axis, geometry) * spec.split_ratio
    sigma = spec.sigma_input_px[axis] * spec.split_ratio
    kernel = _kernel_bins(sigma, min_sigma_px * float(positions[1] - positions[0]))
    distance = (positions[:, None] - np.arange(spec.bins[axis])) / kernel
    # A Gaussian of height 1 comes out with height sigma / hypot(sigma, kernel).
    height = math.hypot(sigma, kernel) / sigma
    return np.asarray(height * np.exp(-(distance**2) / 2) / (kernel * math.sqrt(2 * math.pi)))


def _kernel_bins(sigma_bins: float, min_sigma_bins: float) -> float:
    """Sigma of the kernel that makes Gaussians at least as wide as a least sigma, in bins."""
    return math.sqrt(max(MIN_KERNEL_BINS**2, min_sigma_bins**2 - sigma_bins**2))


class LandmarkHead:
    """Gaussians at landmarks, as high as their confidence; see `Head`."""

    def __init__(
        self, spec: TeacherSpec, geometry: Geometry, device: torch.device, min_sigma_px: float
    ) -> None:
        self.spec = spec
        self.x, self.y = spec.values.index("x"), spec.values.index("y")
        self.logit = "confidence logit" in spec.values
        self.confidence = spec.values.index("confidence logit" if self.logit else "confidence")
        positions_yx = [input_positions(spec, axis, geometry) for axis in (0, 1)]
        self.y_G, self.x_G = (
            torch.tensor(line, dtype=torch.float32, device=device) for line in positions_yx
        )
        sigma_yx = sigmas_on_store(spec, geometry, min_sigma_px=min_sigma_px)
        assert sigma_yx is not None  # that of landmarks has a default
        self.sigma_yx = [
            sigma * float(line[1] - line[0])
            for sigma, line in zip(sigma_yx, positions_yx, strict=True)
        ]

    def __call__(self, output: Output, indices_J: Tensor) -> Tensor:
        assert isinstance(output, Tensor)
        landmarks = output[:, indices_J].float()
        confidence = landmarks[..., self.confidence]
        confidence = (confidence.sigmoid() if self.logit else confidence.clamp(0, 1)) / (
            self.spec.peak
        )
        sigma_y, sigma_x = self.sigma_yx
        rows_BJG = _gaussian(self.y_G, self._input_px(landmarks[..., self.y], 0), sigma_y)
        columns_BJG = _gaussian(self.x_G, self._input_px(landmarks[..., self.x], 1), sigma_x)
        rows_BJG = rows_BJG * confidence[..., None]
        return rows_BJG[..., :, None] * columns_BJG[..., None, :]

    def _input_px(self, values: Tensor, axis: int) -> Tensor:
        """Coordinates in input pixels, whose centers are integers."""
        side = self.spec.input[axis]
        if self.spec.coordinates == "pixels":
            return values
        if self.spec.grid == "corners":
            return values * (side - 1)
        return values * side - (0.5 if self.spec.grid == "half-pixel" else 0.0)


def _gaussian(at_G: Tensor, center_BJ: Tensor, sigma: float) -> Tensor:
    return torch.exp(-(((at_G - center_BJ[..., None]) / sigma) ** 2) / 2)


def sigmas_on_store(
    spec: TeacherSpec,
    geometry: Geometry,
    *,
    shown_factor: float = 1.0,
    min_sigma_px: float = MIN_SIGMA_PX,
) -> tuple[float, float] | None:
    """Sigma of a teacher's Gaussians along y and x, in pixels of the store's heatmaps.

    Args:
        shown_factor: side of what the teacher is shown, relative to the view's box.
        min_sigma_px: see `make_head`.

    Returns:
        None if the spec does not state it.
    """
    if spec.sigma_input_px is None:
        return None
    sigma_yx = []
    for axis, sigma in enumerate(spec.sigma_input_px):
        positions = input_positions(spec, axis, geometry)
        pixel = float(positions[1] - positions[0]) / shown_factor  # in input pixels
        if spec.head in ("simcc", "simcc-logits"):
            min_sigma_bins = min_sigma_px * pixel * spec.split_ratio
            kernel = _kernel_bins(sigma * spec.split_ratio, min_sigma_bins)
            sigma = math.hypot(sigma, kernel / spec.split_ratio)
        elif spec.head == "landmarks":
            sigma = max(sigma, min_sigma_px * pixel)
        sigma_yx.append(sigma / pixel)
    return sigma_yx[0], sigma_yx[1]
