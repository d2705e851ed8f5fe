"""How far a student's joints are from its teacher's: what can be measured without labels.

It is no accuracy: a student that repeats its teacher's mistakes agrees with it.

Shape letters: N samples, K joints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.samples import SampleSet
from .inference import PredictedJoints

MIN_PEAK = 0.2
"""The teacher's joints with a lower peak are not compared: it does not see them (HRNet's
TEST.IN_VIS_THRE)."""

THRESHOLDS = (0.05, 0.1, 0.2)
"""Distances within which joints agree, as shares of the longer side of the person's box."""


def agreement(
    samples: SampleSet, student: PredictedJoints, teacher: PredictedJoints
) -> dict[str, Any] | None:
    """The distance between both predictions, as a share of the longer side of the person's box.

    Returns:
        "joints": number of joints compared, those with a peak of `MIN_PEAK` or more in the
        teacher's heatmap; "of": number of all joints that the teacher predicts; "mean_distance";
        "within": the share of joints by distance ("0.05"); "per_joint": mean distance by joint.
        None if no joint can be compared.
    """
    distance_NK = _distances(samples, student, teacher)
    compared_NK = np.isfinite(distance_NK) & (teacher.peaks_NK >= MIN_PEAK)
    compared = distance_NK[compared_NK]
    if not len(compared):
        return None
    joints = samples.skeleton.joints
    return {
        "joints": len(compared),
        "of": int(np.isfinite(distance_NK).sum()),
        "mean_distance": float(compared.mean()),
        "within": {f"{limit:g}": float((compared <= limit).mean()) for limit in THRESHOLDS},
        "per_joint": {
            joint: float(distance_NK[compared_NK[:, k], k].mean())
            for k, joint in enumerate(joints)
            if compared_NK[:, k].any()
        },
    }


def _distances(
    samples: SampleSet, student: PredictedJoints, teacher: PredictedJoints
) -> NDArray[np.float64]:
    """float64 (N, K), shares of the box's longer side; NaN where one predicts nothing."""
    unit_N1 = np.where(samples.normalizer_N > 0, samples.normalizer_N, samples.side_N)[:, None]
    return np.asarray(
        np.linalg.norm(student.joints_NK2 - teacher.joints_NK2, axis=-1) / unit_N1, np.float64
    )
