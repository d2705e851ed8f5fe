"""MPII Human Pose from pytorch-pose's conversion of its labels.

    root/mpii/mpii_annotations.json   a list of objects: img_paths, isValidation, objpos,
                                      scale_provided, joint_self (16 x 3: x, y, is_visible)
    root/mpii/annot/gt_valid.mat      or detections_our_format.mat in root/mpii/, as pytorch-pose
                                      ships it: head boxes of the validation samples (`mpii.py`)
    root/mpii/images/

Coordinates are 1-based. In the file (written by miscs/gen_mpii.m), an occluded joint is (x, y, 0)
and a joint that is not annotated is (0, 0, 0). pytorch-pose's loss interprets the third number as
"annotated" and so drops 23 % of the annotated joints, which PCKh then counts; here, every joint
with coordinates is annotated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import column, object_list, read_json, text_column, zero_or_one
from ..samples import SampleSet, Tally, normalizer_lengths
from ..skeletons import MPII
from .mpii import K, head_box_normalizers, keep_annotated, sample_set

FILE = "mpii_annotations.json"
HEAD_FILES = ("annot/gt_valid.mat", "detections_our_format.mat")


def pytorch_pose(root: Path, split: str) -> SampleSet:
    """Samples whose isValidation is 0 are "train", the others "test": the usual 22,246 and 2,958.

    PCKh's unit is from the head boxes for "test", if there is such a file, and the distance from
    upper neck to head top for "train", as in the `mpii` reader.

    Raises:
        ValueError: a file is missing or does not have the format described above.
    """
    path = root / "mpii" / FILE
    missing = (
        f"expected mpii/{FILE} as pytorch-pose ships it and mpii/images/ as published; set their "
        "parent folder with --set data.root=FOLDER"
    )
    all_records = object_list(path, read_json(path, missing))
    is_test_N = zero_or_one(path, all_records, "isValidation", ())
    records = [all_records[i] for i in np.flatnonzero(is_test_N == (split == "test"))]
    if not records:
        raise ValueError(f"{path}: expected samples of both splits, found none for {split}")
    joints_NK2 = _joints(path, records)
    normalizer_N = normalizer_lengths(joints_NK2, MPII)
    if split == "test":
        normalizer_N = head_box_normalizers(_head_file(root / "mpii"), len(records))
    return sample_set(
        root,
        prefix=f"pytorch-pose-{split}",
        image_names=text_column(path, records, "img_paths"),
        joints_NK2=joints_NK2,
        position_N2=column(path, records, "objpos", (2,)),
        scale_N=column(path, records, "scale_provided", ()),
        normalizer_N=normalizer_N,
        tally=Tally(
            str(path),
            people=len(all_records),
            left_out=(("of the other split", len(all_records) - len(records)),),
        ),
    )


def _joints(path: Path, records: list[dict[str, Any]]) -> NDArray[np.float64]:
    """0-based (N, K, 2); NaN where a joint is not annotated."""
    joints_NK3 = column(path, records, "joint_self", (K, 3), allow_nan=True)
    annotated_NK = (joints_NK3 != 0).any(-1)
    return keep_annotated(path, records, "joint_self", joints_NK3[..., :2], annotated_NK)


def _head_file(folder: Path) -> Path:
    """The file with head boxes; the first of `HEAD_FILES` if none exists."""
    existing = [folder / name for name in HEAD_FILES if (folder / name).is_file()]
    return existing[0] if existing else folder / HEAD_FILES[0]
