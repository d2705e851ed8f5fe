"""MPII Human Pose from pytorch-pose's conversion of its labels.

    root/mpii/mpii_annotations.json   a list of people: img_paths, isValidation, objpos,
                                      scale_provided, joint_self (16 x 3: x, y, is_visible)
    root/mpii/annot/gt_valid.mat      or detections_our_format.mat in root/mpii/, as that tool ships
                                      it: head boxes of the validation people (`mpii.py`)
    root/mpii/images/

Coordinates are 1-based. The file (miscs/gen_mpii.m) has an occluded joint as (x, y, 0) and a joint
that nobody annotated as (0, 0, 0). The tool's loss takes the third number for "annotated" and so
drops 23 % of the annotated joints, which PCKh then counts; here a joint is annotated wherever it
has a place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import column, people_list, read_json
from ..samples import SampleSet, normalizer_lengths
from ..skeletons import MPII
from .mpii import K, head_boxes, sample_set

FILE = "mpii_annotations.json"
HEADS = ("annot/gt_valid.mat", "detections_our_format.mat")


def pytorch_pose(root: Path, split: str) -> SampleSet:
    """People whose isValidation is 0 are "train", the others "test": the field's 22,246 and 2,958.

    PCKh's unit is the head box for "test", where a file has them; as in the `mpii` reader, training
    people are measured by the length of their heads.

    Raises:
        ValueError: a file is missing, or is not as described above.
    """
    path = root / "mpii" / FILE
    missing = (
        f"expected mpii/{FILE} as pytorch-pose ships it and mpii/images/ as published; set their "
        "parent folder with --set data.root=FOLDER"
    )
    everyone = people_list(path, read_json(path, missing))
    is_test_N = column(path, everyone, "isValidation", ()) != 0
    people = [everyone[i] for i in np.flatnonzero(is_test_N == (split == "test"))]
    if not people:
        raise ValueError(f"{path}: expected people of both splits, found nobody for {split}")
    joints_NK2 = _joints(path, people)
    normalizer_N = normalizer_lengths(joints_NK2, MPII)
    if split == "test":
        normalizer_N = head_boxes(_heads(root / "mpii"), len(people))
    return sample_set(
        root,
        f"pytorch-pose-{split}",
        [str(person.get("img_paths", "")) for person in people],
        joints_NK2,
        column(path, people, "objpos", (2,)),
        column(path, people, "scale_provided", ()),
        normalizer_N,
    )


def _joints(path: Path, people: list[dict[str, Any]]) -> NDArray[np.float64]:
    """0-based (N, K, 2); NaN where a joint is not annotated."""
    joints_NK3 = column(path, people, "joint_self", (K, 3))
    annotated_NK1 = (joints_NK3 != 0).any(-1, keepdims=True)
    return np.where(annotated_NK1, joints_NK3[..., :2] - 1, np.nan)


def _heads(folder: Path) -> Path:
    found = [folder / name for name in HEADS if (folder / name).is_file()]
    return found[0] if found else folder / HEADS[0]
