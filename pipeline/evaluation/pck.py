"""PCK: the share of joints found within a part of a person's own unit of length.

Yang & Ramanan, TPAMI 2013; with 0.6 x the head box's diagonal as the unit it is PCKh, Andriluka et
al., CVPR 2014. Units, thresholds and what is left out, by data set, are in `data/skeletons.py`.
Shape letters: N samples, K joints, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...data.skeletons import Skeleton


@dataclass(frozen=True)
class Pck:
    """Scores of one model on one set; shares in 0..1, NaN for joints of which none counts.

    A joint counts where it is labeled, its person has a unit, and the skeleton scores it.

    Attributes:
        metric: its name, such as "PCK@0.2".
        mean: over all that count, so weighted by joint count (HRNet's "Mean").
        mean_unweighted: over the skeleton's joints, each counting the same.
        auc: area under `curve_T`, as a share of the largest possible.
        per_joint_K: at the metric's threshold.
        thresholds_T, curve_T: the weighted mean at each threshold up to the skeleton's.
        counts_K: how many of each joint count.
        not_finite: how many of those have a prediction with NaN or inf: they are wrong.
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
        """How many joints count."""
        return int(self.counts_K.sum())


def pck(
    predicted_NK2: NDArray[np.floating],
    labeled_NK2: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    skeleton: Skeleton,
    tau: float | None = None,
) -> Pck:
    """Score predictions in original-image pixels.

    Args:
        labeled_NK2: NaN where a joint is not labeled: it does not count.
        normalizer_N: each person's unit of length, pixels; people without one do not count.
        tau: the threshold of the means, in units; none given: the skeleton's. The curve and its
            area always go up to the skeleton's, so that areas compare.

    Raises:
        ValueError: no joint can be scored.
    """
    tau = skeleton.threshold if tau is None else tau
    errors_NK = unit_errors(predicted_NK2, labeled_NK2, normalizer_N, skeleton)
    counted_NK = ~np.isnan(errors_NK)
    if not counted_NK.any():
        raise ValueError("no labeled joint to score: PCK needs labels and their normalizer")
    counts_K = counted_NK.sum(axis=0)
    correct_K = (errors_NK <= tau).sum(axis=0)
    per_joint_K = np.where(counts_K > 0, correct_K / np.maximum(counts_K, 1), np.nan)
    thresholds_T = np.linspace(0, skeleton.threshold, skeleton.curve_steps + 1)
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


def unit_errors(
    predicted_NK2: NDArray[np.floating],
    labeled_NK2: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    skeleton: Skeleton,
) -> NDArray[np.float64]:
    """How far each prediction is from its label; arguments as `pck` has them.

    Returns:
        float64 (N, K), in the people's units of length: NaN where a joint does not count, inf
        where it does and its prediction is not finite.
    """
    unit_N1 = np.where(normalizer_N > 0, normalizer_N, np.nan)[:, None]
    counted_NK = ~np.isnan(labeled_NK2).any(-1) & ~np.isnan(unit_N1)
    counted_NK[:, list(skeleton.unscored)] = False
    with np.errstate(over="ignore"):  # a prediction may be anything: too far is too far
        errors_NK = np.linalg.norm(predicted_NK2 - labeled_NK2, axis=-1) / unit_N1
    errors_NK[~np.isfinite(predicted_NK2).all(-1)] = np.inf
    return np.where(counted_NK, errors_NK, np.nan)


def pck_where_labeled(
    predicted_NK2: NDArray[np.floating],
    labeled_NK2: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    skeleton: Skeleton,
    tau: float | None = None,
) -> Pck:
    """As `pck`; where no joint can be scored, all shares are NaN."""
    scored = [k for k in range(skeleton.num_joints) if k not in skeleton.unscored]
    labeled_N = (~np.isnan(labeled_NK2[:, scored]).any(-1)).any(-1)
    if (labeled_N & (normalizer_N > 0)).any():
        return pck(predicted_NK2, labeled_NK2, normalizer_N, skeleton, tau)
    thresholds_T = np.linspace(0, skeleton.threshold, skeleton.curve_steps + 1)
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


def group_means(score: Pck, skeleton: Skeleton) -> dict[str, float]:
    """The columns of the field's tables: the mean of each group's joints."""
    return {
        name: float(np.mean(score.per_joint_K[list(joints)])) for name, joints in skeleton.groups
    }
