"""MPII Human Pose, from HRNet's and pytorch-pose's conversions of its labels.

    root/mpii/images/005808361.jpg ...
    root/mpii/annot/train.json  valid.json   a list of people: image, center, scale,
                                             joints (16 x 2), joints_vis (16: 1 is annotated)
    root/mpii/annot/gt_valid.mat             dataset_joints (16 names), jnt_missing 16 x N,
                                             pos_gt_src 16 x 2 x N, headboxes_src 2 x 2 x N

All coordinates are 1-based, centers included. Andriluka et al., CVPR 2014. The box, and the unit of
PCKh, are those of HRNet's lib/dataset/mpii.py. Shape letters: N people, K = 16 joints.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import MAX_PEOPLE, column, numbered_ids, people_list, read_json, shared
from ..io.arrays import arrays, describe, read, read_names
from ..io.images import ImageFolder
from ..samples import SampleSet, normalizer_lengths
from ..skeletons import MPII

log = logging.getLogger("fpd")

# `dataset_joints`, in the order of `MPII.joints`.
GROUND_TRUTH_JOINTS = (
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head"),
    *("rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)
K = len(GROUND_TRUTH_JOINTS)
GROUND_TRUTH_SHAPES = {"jnt_missing": (K,), "pos_gt_src": (K, 2), "headboxes_src": (2, 2)}

# HRNet's box, after pytorch-pose's: `scale` is in units of 200 pixels; lowered and widened so that
# feet are inside.
SCALE_PX = 200.0
LOWERED_BY_SCALE_PX = 15.0
WIDENED = 1.25
ABSENT = -1.0  # both coordinates of a joint that is not annotated

SC_BIAS = 0.6
"""PCKh's unit is this much of the head box's diagonal: MPII's evaluation toolkit, and HRNet."""


def mpii(root: Path, split: str) -> SampleSet:
    """HRNet's split: train.json is "train", valid.json is "test".

    PCKh's unit is the head box of `gt_valid.mat` for "test"; without that file there is none, and
    the people cannot be scored. Training people have no head boxes in these files: the length of
    the head, from upper neck to head top, stands in for them where weights are chosen.

    Raises:
        ValueError: a file is missing, or is not as described above.
    """
    folder = root / "mpii" / "annot"
    path = folder / {"train": "train.json", "test": "valid.json"}[split]
    missing = (
        f"expected mpii/annot/{path.name} as HRNet ships it and mpii/images/ as published; set "
        "their parent folder with --set data.root=FOLDER"
    )
    people = people_list(path, read_json(path, missing))
    joints_NK2 = _joints(path, people)
    normalizer_N = normalizer_lengths(joints_NK2, MPII)
    if split == "test":
        normalizer_N = head_boxes(folder / "gt_valid.mat", len(people))
    return sample_set(
        root,
        path.stem,
        [str(person.get("image", "")) for person in people],
        joints_NK2,
        column(path, people, "center", (2,)),
        column(path, people, "scale", ()),
        normalizer_N,
    )


def sample_set(
    root: Path,
    prefix: str,
    names: list[str],
    joints_NK2: NDArray[np.float64],
    position_N2: NDArray[np.float64],
    scale_N: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
) -> SampleSet:
    """MPII's people in HRNet's boxes.

    Args:
        prefix: of the people's ids: what tells apart those of different files.
        names: of their images, in root/mpii/images.
        joints_NK2: 0-based pixels, NaN where a joint is not annotated.
        position_N2: MPII's `objpos`, 1-based pixels, neither lowered nor widened.
        scale_N: MPII's `scale`, in units of `SCALE_PX`.
        normalizer_N: PCKh's units, pixels.
    """
    images, image_N = shared(names)
    center_N2 = position_N2 - 1
    center_N2[:, 1] += LOWERED_BY_SCALE_PX * scale_N
    return SampleSet(
        "mpii",
        MPII,
        ImageFolder(root, [f"mpii/images/{name}" for name in images]),
        numbered_ids(f"mpii/{prefix}", names),
        image_N,
        joints_NK2,
        center_N2,
        scale_N * SCALE_PX * WIDENED,
        normalizer_N,
    )


def _joints(path: Path, people: list[dict[str, Any]]) -> NDArray[np.float64]:
    """0-based (N, K, 2); NaN where a joint is not annotated."""
    joints_NK2 = column(path, people, "joints", (K, 2))
    annotated_NK = column(path, people, "joints_vis", (K,)) == 1
    annotated_NK &= ~(joints_NK2 == ABSENT).all(-1)
    return np.where(annotated_NK[..., None], joints_NK2 - 1, np.nan)


def head_boxes(path: Path, people: int) -> NDArray[np.float64]:
    """PCKh's units; NaN, and a warning, where there is no file."""
    if not path.is_file():
        log.warning("%s is missing: without head boxes, PCKh cannot be computed", path)
        return np.full(people, np.nan)
    unit_N = read_ground_truth(path)[1]
    if len(unit_N) != people:
        raise ValueError(f"{path}: expected {people} people, as in the labels, found {len(unit_N)}")
    return unit_N


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
    labeled_NK1 = (missing_KN == 0).T[..., None]
    joints_NK2 = np.where(labeled_NK1, position_K2N.transpose(2, 0, 1), 0.0)
    bad_N = ~(np.isfinite(joints_NK2).all((1, 2)) & np.isfinite(heads_22N).all((0, 1)))
    if bad_N.any():
        person = int(np.flatnonzero(bad_N)[0]) + 1
        raise ValueError(
            f"{path}: expected finite coordinates, found NaN or inf at person {person}"
        )
    unit_N = SC_BIAS * np.linalg.norm(heads_22N[1] - heads_22N[0], axis=0)
    return np.where(labeled_NK1, joints_NK2, np.nan), unit_N


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
