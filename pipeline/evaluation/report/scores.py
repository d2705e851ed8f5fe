"""The scores in `report.json`, and their format in tables."""

from __future__ import annotations

import math
from typing import Any

from ....data.skeletons import Skeleton
from ..pck import Pck, group_means

TEACHER = "teacher"
"""The teacher's name among the models: that of its folder in the work directory."""

STORE_TEACHER = "teacher@store"
"""The name of the recipe's external teachers if the work directory has a teacher of its own. It is
not a valid name of a model."""


def pck_fields(score: Pck, skeleton: Skeleton) -> dict[str, Any]:
    """A PCK score as JSON: shares in 0..1, None where no joint counts."""
    joints = skeleton.joints
    return {
        "metric": score.metric,
        "mean": _none_if_nan(score.mean),
        "mean_unweighted": _none_if_nan(score.mean_unweighted),
        "auc": _none_if_nan(score.auc),
        "per_joint": dict(zip(joints, map(_none_if_nan, score.per_joint_K), strict=True)),
        "groups": {
            name: _none_if_nan(share) for name, share in group_means(score, skeleton).items()
        },
        "joints": score.joints,
        "counts": dict(zip(joints, score.counts_K.tolist(), strict=True)),
        "not_finite": score.not_finite,
        "curve": {
            "thresholds": score.thresholds_T.tolist(),
            "pck": [_none_if_nan(share) for share in score.curve_T.tolist()],
        },
    }


def _none_if_nan(share: float) -> float | None:
    return None if math.isnan(share) else float(share)


def percent(share: float | None) -> str:
    """A share in 0..1 as percent with one decimal; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def number_or_dash(number: float | None, form: str) -> str:
    """A number in a format such as "{:.2f}"; a dash for None."""
    return "-" if number is None else form.format(number)
