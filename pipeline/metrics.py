"""PCK: the share of joints found within a part of a person's own unit of length.

Yang & Ramanan, TPAMI 2013; normalisers and thresholds by data set in `data/skeletons.py`.
Shape letters: N samples, K joints, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.skeletons import Skeleton

CURVE_STEPS = 20
"""Thresholds of the curve: this many equal steps from 0 to the skeleton's threshold."""


@dataclass(frozen=True)
class Pck:
    """Scores of one model on one set; shares in 0..1, NaN for joints that are nowhere labelled.

    Attributes:
        metric: its name, such as "PCK@0.2".
        mean: over all labelled joints, so weighted by joint count (HRNet's "Mean").
        mean_unweighted: over the skeleton's joints, each counting the same.
        auc: area under `curve_T`, as a share of the largest possible.
        per_joint_K: at the skeleton's threshold.
        thresholds_T, curve_T: the weighted mean at each threshold.
        joints: how many labelled joints were scored.
    """

    metric: str
    mean: float
    mean_unweighted: float
    auc: float
    per_joint_K: NDArray[np.float64]
    thresholds_T: NDArray[np.float64]
    curve_T: NDArray[np.float64]
    joints: int


def pck(
    predicted_NK2: NDArray[np.floating],
    labelled_NK2: NDArray[np.float64],
    normaliser_N: NDArray[np.float64],
    skeleton: Skeleton,
) -> Pck:
    """Score predictions in original-image pixels.

    Args:
        labelled_NK2: NaN where a joint is not labelled: it does not count.
        normaliser_N: each person's unit of length, pixels; people without one do not count.

    Raises:
        ValueError: no joint can be scored.
    """
    unit_N1 = np.where(normaliser_N > 0, normaliser_N, np.nan)[:, None]
    errors_NK = np.linalg.norm(predicted_NK2 - labelled_NK2, axis=-1) / unit_N1
    counted_NK = ~np.isnan(labelled_NK2).any(-1) & ~np.isnan(unit_N1)
    if not counted_NK.any():
        raise ValueError("no labelled joint to score: PCK needs labels and their normaliser")
    thresholds_T = np.linspace(0, skeleton.threshold, CURVE_STEPS + 1)
    scored = errors_NK[counted_NK]
    curve_T = (scored[:, None] <= thresholds_T).mean(axis=0)
    counts_K = counted_NK.sum(axis=0)
    correct_K = ((errors_NK <= skeleton.threshold) & counted_NK).sum(axis=0)
    per_joint_K = np.where(counts_K > 0, correct_K / np.maximum(counts_K, 1), np.nan)
    return Pck(
        metric=f"PCK@{skeleton.threshold:g}",
        mean=float(curve_T[-1]),
        mean_unweighted=float(np.nanmean(per_joint_K)),
        auc=float(np.trapezoid(curve_T, thresholds_T) / skeleton.threshold),
        per_joint_K=per_joint_K,
        thresholds_T=thresholds_T,
        curve_T=curve_T,
        joints=int(counts_K.sum()),
    )


def group_means(score: Pck, skeleton: Skeleton) -> dict[str, float]:
    """The columns of the field's tables: the mean of each group's joints."""
    return {
        name: float(np.mean(score.per_joint_K[list(joints)])) for name, joints in skeleton.groups
    }
