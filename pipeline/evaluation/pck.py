"""PCK: the percentage of correct keypoints.

A joint is correct if its prediction is within a threshold of its label, measured in the sample's
own unit of length (Yang & Ramanan, TPAMI 2013). With 0.6 times the head box's diagonal as the unit
it is PCKh (Andriluka et al., CVPR 2014). The units, thresholds and unscored joints of each data set
are in `data/skeletons.py`.

Shape letters: N samples, K joints, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...data.skeletons import Skeleton


@dataclass(frozen=True)
class Pck:
    """Scores of one model on one data set: shares in 0..1, NaN where no joint counts.

    A joint counts if it is labeled, its sample has a unit of length, and the skeleton scores it.

    Attributes:
        metric: the name, such as "PCK@0.2".
        mean: over all joints that count, so weighted by joint count (HRNet's "Mean").
        mean_unweighted: over the skeleton's joints, each with the same weight.
        auc: area under `curve_T`, as a share of the largest possible area.
        per_joint_K: at the metric's threshold.
        thresholds_T, curve_T: the weighted mean at each threshold up to the skeleton's.
        counts_K: number of samples in which each joint counts.
        not_finite: number of these joints whose prediction is NaN or infinite; they are wrong.
    """

    metric: str
    mean: float
    mean_unweighted: float
    auc: float
    per_joint_K: NDArray[np.float64]
    thresholds_T: NDArray[np.float64]
    curve_T: NDArray[np.float64]
    counts_K: NDArray[np.int64]
    not_finite: int

    @property
    def joints(self) -> int:
        """Number of joints that count, over all samples."""
        return int(self.counts_K.sum())


def pck(
    predicted_NK2: NDArray[np.floating],
    labeled_NK2: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    skeleton: Skeleton,
    tau: float | None = None,
) -> Pck:
    """Score predictions.

    Args:
        predicted_NK2: (x, y) in pixels of the original image.
        labeled_NK2: (x, y) in pixels of the original image; NaN where a joint is not labeled.
        normalizer_N: each sample's unit of length, pixels; samples whose unit is NaN or not
            positive do not count.
        tau: the threshold of the means, in units of length; None: the skeleton's. The curve always
            ends at the skeleton's threshold, so that areas under it are comparable.

    Raises:
        ValueError: no joint counts.
    """
    tau = skeleton.threshold if tau is None else tau
    errors_NK = normalized_errors(predicted_NK2, labeled_NK2, normalizer_N, skeleton)
    counted_NK = ~np.isnan(errors_NK)
    if not counted_NK.any():
        raise ValueError("no labeled joint to score: PCK needs labels and their normalizer")
    counts_K = counted_NK.sum(axis=0)
    correct_K = (errors_NK <= tau).sum(axis=0)
    per_joint_K = np.where(counts_K > 0, correct_K / np.maximum(counts_K, 1), np.nan)
    thresholds_T = _thresholds(skeleton)
    curve_T = (errors_NK[counted_NK][:, None] <= thresholds_T).mean(axis=0)
    finite_NK = np.isfinite(predicted_NK2).all(-1)
    return Pck(
        metric=f"{skeleton.metric}@{tau:g}",
        mean=float(correct_K.sum() / counts_K.sum()),
        mean_unweighted=float(np.nanmean(per_joint_K)),
        auc=float(np.trapezoid(curve_T, thresholds_T) / skeleton.threshold),
        per_joint_K=per_joint_K,
        thresholds_T=thresholds_T,
        curve_T=curve_T,
        counts_K=counts_K,
        not_finite=int((counted_NK & ~finite_NK).sum()),
    )


def pck_or_nan(
    predicted_NK2: NDArray[np.floating],
    labeled_NK2: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    skeleton: Skeleton,
    tau: float | None = None,
) -> Pck:
    """Score predictions as `pck` does, or return NaN for all shares if no joint counts."""
    scored = [k for k in range(skeleton.num_joints) if k not in skeleton.unscored]
    labeled_N = (~np.isnan(labeled_NK2[:, scored]).any(-1)).any(-1)
    if (labeled_N & (normalizer_N > 0)).any():
        return pck(predicted_NK2, labeled_NK2, normalizer_N, skeleton, tau)
    thresholds_T = _thresholds(skeleton)
    return Pck(
        metric=f"{skeleton.metric}@{skeleton.threshold if tau is None else tau:g}",
        mean=np.nan,
        mean_unweighted=np.nan,
        auc=np.nan,
        per_joint_K=np.full(skeleton.num_joints, np.nan),
        thresholds_T=thresholds_T,
        curve_T=np.full_like(thresholds_T, np.nan),
        counts_K=np.zeros(skeleton.num_joints, np.int64),
        not_finite=0,
    )


def normalized_errors(
    predicted_NK2: NDArray[np.floating],
    labeled_NK2: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    skeleton: Skeleton,
) -> NDArray[np.float64]:
    """The distance of each prediction from its label, in the sample's unit of length.

    The arguments are those of `pck`.

    Returns:
        float64 (N, K): NaN where a joint does not count, infinity where it counts and its
        prediction is not finite.
    """
    unit_N1 = np.where(normalizer_N > 0, normalizer_N, np.nan)[:, None]
    counted_NK = ~np.isnan(labeled_NK2).any(-1) & ~np.isnan(unit_N1)
    counted_NK[:, list(skeleton.unscored)] = False
    with np.errstate(over="ignore"):  # predictions are arbitrary: an infinite distance is wrong
        errors_NK = np.linalg.norm(predicted_NK2 - labeled_NK2, axis=-1) / unit_N1
    errors_NK[~np.isfinite(predicted_NK2).all(-1)] = np.inf
    return np.where(counted_NK, errors_NK, np.nan)


def group_means(score: Pck, skeleton: Skeleton) -> dict[str, float]:
    """The mean over each of the skeleton's groups of joints: the columns of published tables."""
    return {
        name: float(np.mean(score.per_joint_K[list(joints)])) for name, joints in skeleton.groups
    }


def _thresholds(skeleton: Skeleton) -> NDArray[np.float64]:
    return np.linspace(0, skeleton.threshold, skeleton.curve_steps + 1)
