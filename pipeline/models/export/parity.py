"""Two runs of one model, compared on the same crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .deployable import ModelRunner

HEATMAP_TOLERANCE = 1e-4
"""Of the highest pixel: what another order of float32 additions may change, and no more."""

JOINT_TOLERANCE_PX = 0.05
"""Crop pixels. A hundredth of a heatmap pixel, for a stride of 4."""

BATCHES = (1, 2, 5)
"""Crops are asked in these numbers, round by round: the file must take any."""


@dataclass(frozen=True)
class Difference:
    """How far two answers are apart at most.

    Attributes:
        crops: how many were asked.
        heatmap: of any heatmap pixel, as a share of the highest one of all (of 1 at least).
        joint_px: of any joint's x or y, crop pixels.
        joint_px_mean: of those, the mean.
    """

    crops: int
    heatmap: float
    joint_px: float
    joint_px_mean: float

    def check(self) -> None:
        """Refuse what rounding does not explain.

        Raises:
            ValueError: saying what was expected and found.
        """
        if not (self.heatmap <= HEATMAP_TOLERANCE and self.joint_px <= JOINT_TOLERANCE_PX):
            raise ValueError(
                f"the exported model does not say what PyTorch's does: expected heatmaps within "
                f"{HEATMAP_TOLERANCE:g} and joints within {JOINT_TOLERANCE_PX:g} crop pixels, "
                f"found {self.heatmap:.3g} and {self.joint_px:.3g}; no file was written. Try "
                "another version of PyTorch, or the other --format"
            )


def compare(expected: ModelRunner, found: ModelRunner, crops_NSS3: NDArray[np.uint8]) -> Difference:
    """HeatmapPredictor both about the same crops; NaN anywhere is a difference without end."""
    heatmaps: list[float] = []
    joints: list[NDArray[np.float32]] = []
    top = 1.0
    start = 0
    while start < len(crops_NSS3):
        part = crops_NSS3[start : start + BATCHES[len(joints) % len(BATCHES)]]
        start += len(part)
        one, other = expected(part), found(part)
        heatmaps.append(float(np.abs(one.heatmaps - other.heatmaps).max()))
        joints.append(np.abs(one.joints - other.joints))
        top = max(top, float(np.abs(one.heatmaps).max()))
    all_joints = np.concatenate(joints)
    return Difference(
        len(crops_NSS3),
        _finite(float(np.max(heatmaps)) / top),
        _finite(float(all_joints.max())),
        _finite(float(all_joints.mean())),
    )


def _finite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")
