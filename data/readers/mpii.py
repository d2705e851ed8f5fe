"""MPII Human Pose, from HRNet's and pytorch-pose's conversions of its labels.

    root/mpii/images/005808361.jpg ...
    root/mpii/annot/train.json  valid.json   a list of objects: image, center, scale,
                                             joints (16 x 2), joints_vis (16: 1 is annotated)
    root/mpii/annot/gt_valid.mat             dataset_joints (16 names), jnt_missing 16 x N,
                                             pos_gt_src 16 x 2 x N, headboxes_src 2 x 2 x N

All coordinates are 1-based, centers included. The box and the unit of PCKh are those of HRNet's
lib/dataset/mpii.py. Andriluka et al., CVPR 2014. Shape letters: N samples, K = 16 joints.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import (
    MAX_SAMPLES,
    column,
    found,
    numbered_ids,
    object_list,
    read_json,
    text_column,
    unique_images,
    zero_or_one,
)
from ..io.arrays import describe_shape, list_arrays, read_array, read_names
from ..io.images import ImageFolder, check_names
from ..samples import SampleSet, Tally, normalizer_lengths
from ..skeletons import MPII

log = logging.getLogger("fpd")

# `dataset_joints`, in the order of `MPII.joints`.
GROUND_TRUTH_JOINTS = (
    "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head",
    "rwri", "relb", "rsho", "lsho", "lelb", "lwri",
)  # fmt: skip
K = len(GROUND_TRUTH_JOINTS)
GROUND_TRUTH_SHAPES = {"jnt_missing": (K,), "pos_gt_src": (K, 2), "headboxes_src": (2, 2)}

# HRNet's box, which follows pytorch-pose's: `scale` is in units of 200 pixels; the box is lowered
# and widened so that feet are inside.
SCALE_PX = 200.0
LOWERED_BY_SCALE_PX = 15.0
WIDENED = 1.25
MISSING = -1.0  # both coordinates of a joint that is not annotated

SC_BIAS = 0.6
"""PCKh's unit over the head box's diagonal, as in MPII's evaluation toolkit and in HRNet."""


def mpii(root: Path, split: str) -> SampleSet:
    """HRNet's split: train.json is "train", valid.json is "test".

    PCKh's unit of the "test" samples is from the head boxes of `gt_valid.mat`; without that file,
    they cannot be scored. For "train" samples these files have no head boxes: the distance from
    upper neck to head top replaces them, for the validation that selects weights.

    Raises:
        ValueError: a file is missing or does not have the format described above.
    """
    folder = root / "mpii" / "annot"
    path = folder / {"train": "train.json", "test": "valid.json"}[split]
    missing = (
        f"expected mpii/annot/{path.name} as HRNet ships it and mpii/images/ as published; set "
        "their parent folder with --set data.root=FOLDER"
    )
    records = object_list(path, read_json(path, missing))
    joints_NK2 = _joints(path, records)
    normalizer_N = normalizer_lengths(joints_NK2, MPII)
    if split == "test":
        normalizer_N = head_box_normalizers(folder / "gt_valid.mat", len(records))
    return sample_set(
        root,
        prefix=path.stem,
        image_names=text_column(path, records, "image"),
        joints_NK2=joints_NK2,
        position_N2=column(path, records, "center", (2,)),
        scale_N=column(path, records, "scale", ()),
        normalizer_N=normalizer_N,
        tally=Tally(str(path), people=len(records)),
    )


def sample_set(
    root: Path,
    *,
    prefix: str,
    image_names: list[str],
    joints_NK2: NDArray[np.float64],
    position_N2: NDArray[np.float64],
    scale_N: NDArray[np.float64],
    normalizer_N: NDArray[np.float64],
    tally: Tally,
) -> SampleSet:
    """Samples of MPII with HRNet's boxes.

    Args:
        prefix: of the sample ids, distinct for each label file.
        image_names: each sample's image, a file name in root/mpii/images.
        joints_NK2: float64, 0-based pixels, NaN where a joint is not annotated.
        position_N2: MPII's `objpos`, float64, 1-based pixels, before the box is lowered.
        scale_N: MPII's `scale`, float64, in units of `SCALE_PX`, before the box is widened.
        normalizer_N: PCKh's units, float64, pixels.
        tally: of the label file.
    """
    images, image_N = unique_images(image_names)
    check_names(images, root / "mpii" / "images")
    center_N2 = position_N2 - 1
    center_N2[:, 1] += LOWERED_BY_SCALE_PX * scale_N
    return SampleSet(
        name="mpii",
        skeleton=MPII,
        images=ImageFolder(root, [f"mpii/images/{name}" for name in images]),
        ids=numbered_ids(f"mpii/{prefix}", image_names),
        image_N=image_N,
        joints_NK2=joints_NK2,
        center_N2=center_N2,
        side_N=scale_N * SCALE_PX * WIDENED,
        normalizer_N=normalizer_N,
        tallies=(tally,),
    )


def _joints(path: Path, records: list[dict[str, Any]]) -> NDArray[np.float64]:
    """0-based (N, K, 2); NaN where a joint is not annotated."""
    joints_NK2 = column(path, records, "joints", (K, 2), allow_nan=True)
    annotated_NK = zero_or_one(path, records, "joints_vis", (K,))
    annotated_NK &= ~(joints_NK2 == MISSING).all(-1)
    return keep_annotated(path, records, "joints", joints_NK2, annotated_NK)


def keep_annotated(
    path: Path,
    records: list[dict[str, Any]],
    key: str,
    joints_NK2: NDArray[np.float64],
    annotated_NK: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """0-based joints, NaN where they are not annotated, or have no coordinates.

    Raises:
        ValueError: one coordinate of an annotated joint is NaN.
    """
    half_NK = annotated_NK & (np.isnan(joints_NK2).sum(-1) == 1)
    if half_NK.any():
        first = int(np.argwhere(half_NK)[0, 0])
        raise ValueError(
            f"{path}: sample {first + 1}: {key}: expected x and y of every joint, found "
            f"{found(records[first][key])}"
        )
    return np.where(annotated_NK[..., None], joints_NK2 - 1, np.nan)


def head_box_normalizers(path: Path, count: int) -> NDArray[np.float64]:
    """PCKh's units of `count` samples, float64 (N,), pixels, from the file `gt_valid.mat`.

    NaN, and a warning is logged, if the file is missing.

    Raises:
        ValueError: the file is damaged, or has another number of samples.
    """
    if not path.is_file():
        log.warning("%s is missing: without head boxes, PCKh cannot be computed", path)
        return np.full(count, np.nan)
    normalizer_N = read_ground_truth(path)[1]
    if len(normalizer_N) != count:
        raise ValueError(
            f"{path}: expected {count} samples, as in the labels, found {len(normalizer_N)}"
        )
    return normalizer_N


def read_ground_truth(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Joints and PCKh's units from `gt_valid.mat`.

    Returns:
        (joints, units): float64 (N, K, 2), 1-based pixels, NaN where a joint is missing; float64
        (N,), pixels, 0 where a sample has no head box.

    Raises:
        ValueError: the file is damaged or does not have the format described above.
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
        number = int(np.flatnonzero(bad_N)[0]) + 1
        raise ValueError(
            f"{path}: expected finite coordinates, found NaN or inf at sample {number}"
        )
    unit_N = SC_BIAS * np.linalg.norm(heads_22N[1] - heads_22N[0], axis=0)
    return np.where(labeled_NK1, joints_NK2, np.nan), unit_N


def _ground_truth_arrays(path: Path) -> list[NDArray[np.float64]]:
    arrays = list_arrays(path)
    shapes = {name: arrays[name].shape for name in GROUND_TRUTH_SHAPES if name in arrays}
    fits = all(shapes.get(name, ())[:-1] == s for name, s in GROUND_TRUTH_SHAPES.items())
    counts = {shape[-1] for shape in shapes.values() if shape}
    if not fits or len(counts) != 1 or not 1 <= max(counts) <= MAX_SAMPLES:
        expected = ", ".join(f"{n} {describe_shape(s)} x N" for n, s in GROUND_TRUTH_SHAPES.items())
        listed = ", ".join(f"{n} {describe_shape(s)}" for n, s in shapes.items())
        raise ValueError(f"{path}: expected {expected}, found {listed or 'none of them'}")
    return [read_array(path, arrays[name]) for name in GROUND_TRUTH_SHAPES]
