"""Ground truth from the label files of MPII and LSP: samples, units of length, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS
from fpd.data.skeletons import LSP, MPII
from fpd.pipeline.evaluation.ground_truth import read_ground_truth

COUNT = 4


def cell(names: tuple[str, ...]) -> NDArray[np.object_]:
    array = np.empty((1, len(names)), object)
    array[0, :] = names
    return array


def mpii_content() -> dict[str, Any]:
    """Four samples in the form that HRNet and pytorch-pose ship; the last one has no head box."""
    missing = np.zeros((16, COUNT), np.uint8)
    missing[0, 1] = missing[15, 2] = 1
    heads = np.full((2, 2, COUNT), 7.0)
    heads[1] += [[30.0], [40.0]]  # a diagonal of 50
    heads[1, :, 3] = heads[0, :, 3]
    return {
        "dataset_joints": cell(GROUND_TRUTH_JOINTS),
        "jnt_missing": missing,
        "pos_gt_src": np.arange(16.0 * 2 * COUNT).reshape(16, 2, COUNT) - 5,
        "headboxes_src": heads,
    }


def save(path: Path, **changes: Any) -> Path:
    scipy.io.savemat(path, mpii_content() | changes)
    return path


def test_mpii_samples(tmp_path) -> None:
    truth = read_ground_truth(save(tmp_path / "gt_valid.mat"))
    assert truth.skeleton is MPII and truth.first_pixel == 1
    np.testing.assert_allclose(truth.normalizer_N, [30, 30, 30, 0])
    missing = np.isnan(truth.joints_NK2).any(-1)
    assert np.argwhere(missing).tolist() == [[1, 0], [2, 15]]
    # Joint 3 of sample 2, x and y, pluralize in the array's own order.
    assert truth.joints_NK2[2, 3].tolist() == [3 * 8 + 2 - 5, 3 * 8 + 4 + 2 - 5]
    assert {count: rows.tolist() for count, rows in truth.prediction_rows.items()} == {
        4: [0, 1, 2, 3]
    }


def test_missing_joints_may_have_any_value(tmp_path) -> None:
    position = mpii_content()["pos_gt_src"]
    position[0, :, 1] = np.nan
    truth = read_ground_truth(save(tmp_path / "gt.mat", pos_gt_src=position))
    assert np.isnan(truth.joints_NK2[1, 0]).all()


def with_infinity(name: str) -> NDArray[np.float64]:
    array: NDArray[np.float64] = mpii_content()[name]
    array[1, 1, 2] = np.inf
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_joints": cell(GROUND_TRUTH_JOINTS[::-1])}, "expected dataset_joints rank rkne"),
        ({"dataset_joints": cell(GROUND_TRUTH_JOINTS[:15])}, "expected 16 names in 'dataset_join"),
        ({"dataset_joints": 3.0}, "expected 16 names in 'dataset_joints', found double 1 x 1"),
        ({"jnt_missing": np.zeros((16, 5))}, "expected jnt_missing 16 x N, .* jnt_missing 16 x 5"),
        ({"pos_gt_src": np.zeros((2, 16, 4))}, "found .* pos_gt_src 2 x 16 x 4"),
        ({"jnt_missing": np.full((16, 4), 2.0)}, "expected jnt_missing 0 or 1"),
        ({"pos_gt_src": with_infinity("pos_gt_src")}, "found NaN or inf at sample 3$"),
        ({"headboxes_src": with_infinity("headboxes_src")}, "found NaN or inf at sample 3$"),
    ],
)
def test_malformed_mpii_files_are_refused(tmp_path, changes, message) -> None:
    path = save(tmp_path / "gt_valid.mat", **changes)
    with pytest.raises(ValueError, match=message) as error:
        read_ground_truth(path)
    assert str(error.value).startswith(str(path))


def lsp_joints(count: int = 2000) -> NDArray[np.float64]:
    """3 x 14 x N: every x is the image's number, and the left shoulder is 10 below the others."""
    joints = np.zeros((3, 14, count))
    joints[0] = np.arange(1, count + 1)
    joints[1, LSP.normalizer[0]] = 10
    return joints


def test_lsp_samples_are_the_test_images_that_are_not_in_training(tmp_path) -> None:
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": lsp_joints()})
    truth = read_ground_truth(tmp_path / "joints.mat")
    assert truth.skeleton is LSP and truth.first_pixel == 1
    numbers = truth.joints_NK2[:, 0, 0]
    expected = [n for n in range(1001, 2001) if n not in (1211, 1436, 1805)]
    assert numbers.tolist() == expected
    assert (truth.normalizer_N == 10).all()
    assert "1001 to 2000 without 1211, 1436, 1805" in truth.description


def test_predictions_may_cover_all_test_or_scored_images(tmp_path) -> None:
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": lsp_joints()})
    truth = read_ground_truth(tmp_path / "joints.mat")
    all_numbers = np.arange(1, 2001)
    scored = truth.joints_NK2[:, 0, 0].astype(int)
    files = {2000: all_numbers, 1000: all_numbers[1000:], 997: scored}
    assert set(truth.prediction_rows) == set(files)
    for count, numbers in files.items():
        np.testing.assert_array_equal(numbers[truth.prediction_rows[count]], scored)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"joints": np.zeros((14, 3, 10))}, "expected an array 'joints' of"),
        ({"other": np.zeros((2, 2))}, r"expected MPII's gt_valid.mat .* found other 2 x 2"),
        ({"text": "none"}, "found no array of numbers"),
    ],
)
def test_files_without_the_arrays_are_refused(tmp_path, content, message) -> None:
    scipy.io.savemat(tmp_path / "joints.mat", content)
    with pytest.raises(ValueError, match=message):
        read_ground_truth(tmp_path / "joints.mat")


def test_other_formats_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "joints.npz", joints=lsp_joints(20))
    with pytest.raises(ValueError, match=r"expected MPII's gt_valid\.mat"):
        read_ground_truth(tmp_path / "joints.npz")


def test_all_samples_of_an_lsp_file_of_another_size_are_scored(tmp_path) -> None:
    labels = lsp_joints(21)
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": labels})
    truth = read_ground_truth(tmp_path / "joints.mat")
    np.testing.assert_array_equal(truth.joints_NK2, labels[:2].transpose(2, 1, 0))
    assert truth.description == "all 21 of the file"
    assert [list(rows) for rows in truth.prediction_rows.values()] == [list(range(21))]


REAL = Path(__file__).parents[4] / "shared" / "data" / "lsp" / "joints.mat"


@pytest.mark.skipif(not REAL.is_file(), reason=f"LSP is not in {REAL}")
def test_the_published_file() -> None:
    truth = read_ground_truth(REAL)
    assert truth.joints_NK2.shape == (997, 14, 2)
    assert (truth.normalizer_N > 0).all()
