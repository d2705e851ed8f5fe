"""MPII Human Pose, from HRNet's and pytorch-pose's conversions of its labels.

    root/mpii/images/005808361.jpg ...
    root/mpii/annot/train.json  valid.json   a list of people: image, center, scale,
                                             joints (16 x 2), joints_vis (16: 1 is annotated)
    root/mpii/annot/gt_valid.mat             dataset_joints (16 names), jnt_missing 16 x N,
                                             pos_gt_src 16 x 2 x N, headboxes_src 2 x 2 x N

All coordinates are 1-based, centres included. Andriluka et al., CVPR 2014. The box, and the unit of
PCKh, are those of HRNet's lib/dataset/mpii.py. Shape letters: N people, K = 16 joints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..arrays import arrays, describe, read, read_names

# `dataset_joints`, in the order of `MPII.joints`.
GROUND_TRUTH_JOINTS = (
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head"),
    *("rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)
K = len(GROUND_TRUTH_JOINTS)
GROUND_TRUTH_SHAPES = {"jnt_missing": (K,), "pos_gt_src": (K, 2), "headboxes_src": (2, 2)}
MAX_PEOPLE = 100_000

SC_BIAS = 0.6
"""PCKh's unit is this much of the head box's diagonal: MPII's evaluation toolkit, and HRNet."""


def read_ground_truth(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Labels and units of `gt_valid.mat`.

    Returns:
        (joints, units): float64 (N, K, 2), 1-based pixels, NaN where a joint is missing; float64
        (N,), pixels, 0 where a person has no head box.

    Raises:
        ValueError: the file is not as described above.
    """
    names = read_names(path, "dataset_joints", K)
    if names != GROUND_TRUTH_JOINTS:
        raise ValueError(
            f"{path}: expected dataset_joints {' '.join(GROUND_TRUTH_JOINTS)}, "
            f"found {' '.join(names)[:200]}"
        )
    missing_KN, position_K2N, heads_22N = _ground_truth_arrays(path)
    if not np.isin(missing_KN, (0, 1)).all():
        raise ValueError(f"{path}: expected jnt_missing 0 or 1, found other values")
    labelled_NK1 = (missing_KN == 0).T[..., None]
    joints_NK2 = np.where(labelled_NK1, position_K2N.transpose(2, 0, 1), 0.0)
    bad_N = ~(np.isfinite(joints_NK2).all((1, 2)) & np.isfinite(heads_22N).all((0, 1)))
    if bad_N.any():
        person = int(np.flatnonzero(bad_N)[0]) + 1
        raise ValueError(
            f"{path}: expected finite coordinates, found NaN or inf at person {person}"
        )
    unit_N = SC_BIAS * np.linalg.norm(heads_22N[1] - heads_22N[0], axis=0)
    return np.where(labelled_NK1, joints_NK2, np.nan), unit_N


def _ground_truth_arrays(path: Path) -> list[NDArray[np.float64]]:
    found = arrays(path)
    shapes = {name: found[name].shape for name in GROUND_TRUTH_SHAPES if name in found}
    fits = all(shapes.get(name, ())[:-1] == s for name, s in GROUND_TRUTH_SHAPES.items())
    counts = {shape[-1] for shape in shapes.values() if shape}
    if not fits or len(counts) != 1 or not 1 <= max(counts) <= MAX_PEOPLE:
        expected = ", ".join(f"{n} {describe(s)} x N" for n, s in GROUND_TRUTH_SHAPES.items())
        listed = ", ".join(f"{n} {describe(s)}" for n, s in shapes.items())
        raise ValueError(f"{path}: expected {expected}, found {listed or 'none of them'}")
    return [read(path, found[name]) for name in GROUND_TRUTH_SHAPES]
