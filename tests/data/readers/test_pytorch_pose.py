"""MPII in pytorch-pose's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS
from fpd.data.readers.pytorch_pose import FILE, pytorch_pose


def record(image: str, valid: float, **changes: Any) -> dict[str, Any]:
    """Joint k at (10 + k, 20 + 2 k), 1-based; two are occluded, two are not annotated."""
    joints = [[10.0 + k, 20.0 + 2 * k, 1.0] for k in range(16)]
    joints[2][2] = joints[3][2] = 0.0
    joints[0] = joints[5] = [0.0, 0.0, 0.0]
    return {
        "dataset": "MPI",
        "isValidation": valid,
        "img_paths": image,
        "objpos": [41.0, 30.0],
        "joint_self": joints,
        "scale_provided": 0.5,
        "numOtherPeople": 0.0,
    } | changes


def write(root: Path, samples: Any) -> None:
    (root / "mpii").mkdir(parents=True, exist_ok=True)
    (root / "mpii" / FILE).write_text(json.dumps(samples))


def write_heads(path: Path, count: int) -> None:
    names = np.empty((1, 16), object)
    names[0, :] = GROUND_TRUTH_JOINTS
    heads = np.zeros((2, 2, count))
    heads[1, 0], heads[1, 1] = 30.0, 40.0
    content = {"dataset_joints": names, "headboxes_src": heads}
    content |= {"jnt_missing": np.zeros((16, count)), "pos_gt_src": np.ones((16, 2, count))}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, [record("a.jpg", 0.0), record("b.jpg", 1.0), record("a.jpg", 0.0)])
    return tmp_path


def test_splits_ids_and_boxes(root) -> None:
    train, test = pytorch_pose(root, "train"), pytorch_pose(root, "test")
    assert train.ids == ("mpii/pytorch-pose-train/a.jpg/0", "mpii/pytorch-pose-train/a.jpg/1")
    assert test.ids == ("mpii/pytorch-pose-test/b.jpg/0",)
    np.testing.assert_allclose(test.center_N2, [[40, 36.5]])
    np.testing.assert_allclose(test.side_N, 125)
    np.testing.assert_allclose(test.joints_NK2[0, 4], [13, 27])


def test_occluded_joints_are_labeled_and_missing_ones_are_not(root) -> None:
    """is_visible is 0 for both; missing joints have no coordinates."""
    missing_NK = np.isnan(pytorch_pose(root, "train").joints_NK2).any(-1)
    assert [np.flatnonzero(row).tolist() for row in missing_NK] == [[0, 5], [0, 5]]


@pytest.mark.parametrize("name", ["annot/gt_valid.mat", "detections_our_format.mat"])
def test_pckhs_unit_of_test_samples_is_from_the_head_boxes(root, name) -> None:
    write_heads(root / "mpii" / name, 1)
    np.testing.assert_allclose(pytorch_pose(root, "test").normalizer_N, 0.6 * 50)
    np.testing.assert_allclose(pytorch_pose(root, "train").normalizer_N, np.hypot(1, 2))


def test_without_head_boxes_samples_are_not_scored(root, caplog) -> None:
    assert np.isnan(pytorch_pose(root, "test").normalizer_N).all()
    assert "gt_valid.mat is missing: without head boxes" in caplog.text
    write_heads(root / "mpii" / "detections_our_format.mat", 2)
    with pytest.raises(ValueError, match="expected 1 samples, as in the labels, found 2"):
        pytorch_pose(root, "test")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{}], "expected 'isValidation' as a number, found nothing at sample 1$"),
        ([record("a.jpg", 1)], "expected samples of both splits, found none for train"),
        ([record("a.jpg", 0, joint_self=[[1, 2, 3]])], "expected 'joint_self' of 16 x 3 "),
        ([record("a.jpg", 0, objpos=[float("nan"), 1])], "expected 'objpos' of 2 "),
        ([record("a.jpg", 2)], "sample 1: isValidation: expected 0 or 1, found 2"),
        ([record("a.jpg", 0, img_paths=None)], "sample 1: img_paths: expected text"),
        ([record("a.jpg", 0, joint_self=[[1, None, 1]] * 16)], "joint_self: expected x and y of"),
        ([record("../../../a.jpg", 0)], "expected image names inside"),
    ],
)
def test_impossible_labels_are_refused(root, samples, message) -> None:
    write(root, samples)
    with pytest.raises(ValueError, match=message):
        pytorch_pose(root, "train")


def test_missing_and_damaged_files_are_named(root) -> None:
    path = root / "mpii" / FILE
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"mpii_annotations\.json cannot be read as labels: "):
        pytorch_pose(root, "train")
    path.unlink()
    with pytest.raises(ValueError, match=r"mpii_annotations\.json is missing: .* data\.root="):
        pytorch_pose(root, "train")
