"""Whether two runs of one model agree: an exported file with PyTorch, or int8 with float32.

Heatmaps are compared everywhere, joints only where the heatmaps determine them. Two libraries, or
two CPUs, compute the same network with different last bits; where a heatmap is flat or has two
equal maxima, those bits decide which pixel is the highest, and the decoded joints may be half a
crop apart although nothing is wrong.

The criterion. Let d be the largest difference between the two heatmaps of a joint, a and b, and let
p and q be their highest pixels. Then

    a[q] >= b[q] - d >= b[p] - d >= a[p] - 2 d,

so the highest pixel of b is among the pixels of a that are within 2 d of its maximum. A joint is
compared if all of those are within one pixel of p: then both heatmaps have their peak in the same
place. Where a tolerance is to be kept, decoding must also be insensitive to a change of d: around a
flat top, the vertex of the parabola that refines the position moves far for a small change (see
`joint_shift`).

Shape letters: N crops, S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....data.heatmap_codec import decode
from .deployable import ModelOutput, ModelRunner

HEATMAP_TOLERANCE = 1e-4
"""Relative to the highest pixel: what another order of float32 additions may change, no more."""

JOINT_TOLERANCE_PX = 0.05
"""Crop pixels. A hundredth of a heatmap pixel, for a stride of 4."""

ROUNDING = 16 * 2.0**-23
"""Lower bound of d, relative to the highest pixel: float32 logarithms of two libraries differ by up
to an ulp, which is 2**-20 (8 epsilons) for the logarithm of a pixel at `decode`'s floor, 1e-6 of
the peak."""

BATCHES = (1, 2, 5)
"""Batch sizes in which the crops are run, in turn: the file must accept any."""


@dataclass(frozen=True)
class Difference:
    """How far the outputs of two runs are apart.

    Attributes:
        crops: number of crops, N.
        heatmap: largest difference of a heatmap pixel, divided by the highest pixel of all (by 1 if
            that is lower); infinite if any output is not finite.
        joints: number of joints, N * K.
        joints_compared: number of those that the heatmaps determine (see the module).
        joint_px: largest difference in x or y of a compared joint, crop pixels; None: no joint was
            compared.
        joint_px_mean: mean difference in x and y of the compared joints, crop pixels, or None.
    """

    crops: int
    heatmap: float
    joints: int
    joints_compared: int
    joint_px: float | None
    joint_px_mean: float | None

    def check(self) -> None:
        """Refuse a difference that rounding does not explain.

        Raises:
            ValueError: a tolerance is exceeded.
        """
        joint_px = self.joint_px or 0.0
        if not (self.heatmap <= HEATMAP_TOLERANCE and joint_px <= JOINT_TOLERANCE_PX):
            raise ValueError(
                f"the exported model's output differs from PyTorch's: expected heatmaps within "
                f"{HEATMAP_TOLERANCE:g} and joints within {JOINT_TOLERANCE_PX:g} crop pixels, "
                f"found {self.heatmap:.3g} and {joint_px:.3g} ({self.joints_compared} of "
                f"{self.joints} joints compared); no file was written. Try another version of "
                "PyTorch, or another --format"
            )


def compare(
    reference: ModelRunner,
    other: ModelRunner,
    crops_NSS3: NDArray[np.uint8],
    *,
    joint_tolerance_px: float | None = JOINT_TOLERANCE_PX,
) -> Difference:
    """Run both models on the same crops.

    Args:
        crops_NSS3: uint8 RGB crops (N, S, S, 3).
        joint_tolerance_px: compare only joints that a change of the heatmap by its observed
            difference moves by less than half of this, crop pixels. None: every joint that has a
            single peak, for models whose heatmaps are expected to differ.
    """
    expected = _run(reference, crops_NSS3)
    actual = _run(other, crops_NSS3)
    difference_NK = np.abs(expected.heatmaps - actual.heatmaps).max((-2, -1))
    highest = max(1.0, float(np.abs(expected.heatmaps).max()))
    stride_px = crops_NSS3.shape[1] / expected.heatmaps.shape[-1]
    compared_NK = determined(
        torch.from_numpy(expected.heatmaps),
        torch.from_numpy(difference_NK),
        None if joint_tolerance_px is None else joint_tolerance_px / stride_px,
    ).numpy()
    distances = np.abs(expected.joints - actual.joints)
    compared = distances[compared_NK] if np.isfinite(distances).all() else np.array([np.inf])
    return Difference(
        crops=len(crops_NSS3),
        heatmap=_finite(float(difference_NK.max()) / highest),
        joints=compared_NK.size,
        joints_compared=int(compared_NK.sum()),
        joint_px=float(compared.max()) if compared.size else None,
        joint_px_mean=float(compared.mean()) if compared.size else None,
    )


def determined(
    heatmaps_NKHW: Tensor, difference_NK: Tensor, tolerance_px: float | None = None
) -> Tensor:
    """Which heatmaps determine their joint, although known only up to a difference.

    Args:
        heatmaps_NKHW: float32 (N, K, H, W).
        difference_NK: largest difference of a pixel from the other run's heatmap, float32 (N, K).
        tolerance_px: how far the joint may differ, heatmap pixels; None: require a single peak, and
            no more.

    Returns:
        bool (N, K).
    """
    rounding_NK = ROUNDING * heatmaps_NKHW.abs().amax((-2, -1))
    margin_NK = torch.maximum(difference_NK, rounding_NK)  # NaN stays NaN, and compares as False
    single_NK = _has_single_peak(heatmaps_NKHW, margin_NK)
    if tolerance_px is None:
        return single_NK
    # Half: the sensitivity is sampled, not bounded.
    return single_NK & (joint_shift(heatmaps_NKHW, margin_NK) < tolerance_px / 2)


def _has_single_peak(heatmaps_NKHW: Tensor, margin_NK: Tensor) -> Tensor:
    """Whether no pixel beyond the highest one's neighbors comes within twice a margin of it."""
    height, width = heatmaps_NKHW.shape[-2:]
    peaks_NK, position_NK = heatmaps_NKHW.flatten(2).max(-1)
    rows = torch.arange(height)[:, None] - (position_NK // width)[..., None, None]
    columns = torch.arange(width) - (position_NK % width)[..., None, None]
    neighbors = (rows.abs() <= 1) & (columns.abs() <= 1)
    rivals_NK = heatmaps_NKHW.masked_fill(neighbors, -torch.inf).amax((-2, -1))
    return peaks_NK - rivals_NK > 2 * margin_NK


def joint_shift(heatmaps_NKHW: Tensor, margin_NK: Tensor) -> Tensor:
    """How far joints move when their heatmaps change by up to a margin, heatmap pixels (N, K).

    A position is decoded from three adjacent pixels along each axis, and is monotonic in each of
    them; its extremes are where each pixel changes by plus or minus the margin. Patterns of period
    three along an axis contain every such combination, wherever the peak is.
    """
    height, width = heatmaps_NKHW.shape[-2:]
    joints_NK2, _ = decode(heatmaps_NKHW)
    shift_NK = torch.zeros_like(margin_NK)
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        along_y = torch.tensor(signs)[torch.arange(height) % 3][:, None]
        along_x = torch.tensor(signs)[torch.arange(width) % 3]
        for pattern in (along_y, along_x):
            changed_NK2, _ = decode(heatmaps_NKHW + margin_NK[..., None, None] * pattern)
            shift_NK = torch.maximum(shift_NK, (changed_NK2 - joints_NK2).abs().amax(-1))
    return shift_NK


def _run(model: ModelRunner, crops_NSS3: NDArray[np.uint8]) -> ModelOutput:
    """The outputs for all crops, run in batches of several sizes."""
    outputs = [model(batch) for batch in _batches(crops_NSS3)]
    return ModelOutput(*(np.concatenate(arrays) for arrays in zip(*outputs, strict=True)))


def _batches(crops_NSS3: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    sizes = itertools.cycle(BATCHES)
    start = 0
    while start < len(crops_NSS3):
        size = next(sizes)
        yield crops_NSS3[start : start + size]
        start += size


def _finite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")
