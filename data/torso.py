"""The torso, from the middle of the hips to the middle of the shoulders: how a body is turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .joint_names import find_joints

TORSO_JOINTS = ("left hip", "right hip", "left shoulder", "right shoulder")


def torso_indices(joints: Sequence[str]) -> tuple[int, ...] | None:
    """The indices of `TORSO_JOINTS` among some joints; None: not all of them are there."""
    indices = tuple(index for index in find_joints(TORSO_JOINTS, joints) if index is not None)
    return indices if len(indices) == len(TORSO_JOINTS) else None


def torso_of(
    joints_K2: NDArray[np.float64], indices: tuple[int, ...] | None
) -> NDArray[np.float64]:
    """The two ends of a person's torso.

    Args:
        joints_K2: (x, y); NaN where not labeled.
        indices: see `torso_indices`.

    Returns:
        float64 (2, 2): the middle of the hips and that of the shoulders; all NaN if one of the four
        joints is unknown.
    """
    if indices is None:
        return np.full((2, 2), np.nan)
    ends_22 = joints_K2[list(indices)].reshape(2, 2, 2).mean(axis=1)
    return ends_22 if np.isfinite(ends_22).all() else np.full((2, 2), np.nan)
