"""MPII in HRNet's layout: tiny copies, and five published samples if available."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fpd.data.datasets import load
from fpd.data.geometry import Geometry
from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS, mpii
from fpd.data.samples import SampleSet
from fpd.data.sections import Augmentation, Data
from fpd.data.skeletons import MPII
from fpd.data.validation import check
from fpd.data.views import CENTER_CROP, Views

IMAGE_NAMES = ["b.jpg", "a.jpg", "b.jpg"]


def record(number: int) -> dict[str, Any]:
    """Joint k at (10 + k + number, 20 + 2 k), 1-based; the right ankle is missing."""
    joints = [[10.0 + k + number, 20.0 + 2 * k] for k in range(16)]
    joints[0] = [-1.0, -1.0]
    return {
        "image": IMAGE_NAMES[number],
        "center": [40.0 + number, 30.0],
        "scale": 0.5,
        "joints": joints,
        "joints_vis": [0] + [1] * 15,
    }


def write(root: Path, samples: Any, name: str = "valid.json") -> None:
    path = root / "mpii" / "annot" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(samples))


def write_heads(root: Path, count: int = 3) -> None:
    """Head boxes of 30 x 40 pixels, a diagonal of 50; the last sample has none."""
    names = np.empty((1, 16), object)
    names[0, :] = GROUND_TRUTH_JOINTS
    heads = np.zeros((2, 2, count))
    heads[1, :, : count - 1] = [[30.0], [40.0]]
    content = {
        "dataset_joints": names,
        "jnt_missing": np.zeros((16, count)),
        "pos_gt_src": np.ones((16, 2, count)),
        "headboxes_src": heads,
    }
    scipy.io.savemat(root / "mpii" / "annot" / "gt_valid.mat", content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train.json", "valid.json"):
        write(tmp_path, [record(n) for n in range(3)], name)
    (tmp_path / "mpii" / "images").mkdir()
    for name in set(IMAGE_NAMES):
        Image.new("RGB", (120, 90)).save(tmp_path / "mpii" / "images" / name)
    return tmp_path


def test_ids_boxes_and_joints(root) -> None:
    samples = mpii(root, "test")
    assert samples.name == "mpii" and samples.skeleton is MPII
    assert samples.ids == ("mpii/valid/b.jpg/0", "mpii/valid/a.jpg/0", "mpii/valid/b.jpg/1")
    assert samples.image_N.tolist() == [0, 1, 0]  # each image is listed once
    assert [samples.images.locate(i) for i in samples.image_N] == [
        str(root / "mpii" / "images" / name) for name in IMAGE_NAMES
    ]
    # Center (41, 30), 1-based, lowered by 15 x 0.5; side 200 x 0.5 x 1.25.
    np.testing.assert_allclose(samples.center_N2[1], [41 - 1, 30 + 7.5 - 1])
    np.testing.assert_allclose(samples.side_N, 125)
    assert samples.joints_NK2[1, 3].tolist() == [10 + 3 + 1 - 1, 20 + 6 - 1]
    check(samples)


def test_joints_that_are_not_annotated_are_nan(root) -> None:
    changed = record(0)
    changed["joints"][4] = [-1.0, -1.0]  # annotated, but without coordinates
    changed["joints"][5] = [-1.0, 7.0]  # slightly outside the image: valid coordinates
    changed["joints_vis"][9] = 0
    write(root, [changed])
    joints = mpii(root, "test").joints_NK2[0]
    assert np.flatnonzero(np.isnan(joints).any(-1)).tolist() == [0, 4, 9]
    assert joints[5].tolist() == [-2.0, 6.0]


def test_pckhs_unit_of_test_samples_is_from_the_head_boxes(root, caplog) -> None:
    assert np.isnan(mpii(root, "test").normalizer_N).all()
    assert "gt_valid.mat is missing: without head boxes" in caplog.text
    write_heads(root)
    np.testing.assert_allclose(mpii(root, "test").normalizer_N, [30, 30, 0])


def test_pckhs_unit_of_training_samples_is_the_heads_length(root) -> None:
    write_heads(root)
    samples = mpii(root, "train")
    assert samples.ids[0] == "mpii/train/b.jpg/0"
    np.testing.assert_allclose(samples.normalizer_N, np.hypot(1, 2))


def test_head_boxes_of_another_number_of_samples_are_refused(root) -> None:
    write_heads(root, 4)
    with pytest.raises(ValueError, match=r"gt_valid\.mat: expected 3 samples, as in the"):
        mpii(root, "test")


def changed(**changes: Any) -> list[dict[str, Any]]:
    return [record(0), record(1) | changes]


def test_every_form_of_a_joint_that_is_not_annotated(root) -> None:
    """True and false, text, and joints without coordinates, as DeepLabCut writes them."""
    joints = [[float(k), float(k)] for k in range(16)]
    joints[0] = joints[1] = [np.nan, np.nan]
    joints[2] = [None, None]
    write(root, changed(joints=joints, joints_vis=[0, 1, True, False, "0", "1", *[1.0] * 10]))
    missing_K = np.isnan(mpii(root, "test").joints_NK2[1]).any(-1)
    assert np.flatnonzero(missing_K).tolist() == [0, 1, 2, 3, 4]
    (tally,) = mpii(root, "test").tallies
    assert (tally.people, tally.kept, tally.left_out) == (2, 2, ())


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"annolist": []}, "expected a list of objects"),
        ([{"image": "a.jpg"}], "expected 'joints' of 16 x 2 in finite numbers, .* at sample 1$"),
        (changed(joints=[[1, 2]] * 15), "expected 'joints' of 16 x 2 .* at sample 2$"),
        (changed(joints_vis=[1, 1]), "expected 'joints_vis' of 16 .* at sample 2$"),
        (changed(joints_vis=[2] * 16), "sample 2: joints_vis: expected 0 or 1, found .2, 2"),
        (changed(joints_vis=[0.4] * 16), "sample 2: joints_vis: expected 0 or 1"),
        (changed(joints=[[1, None]] * 16), "sample 2: joints: expected x and y of every joint"),
        (changed(image=None), "sample 2: image: expected text, found nothing"),
        (changed(image=5), "sample 2: image: expected text, found 5"),
        (changed(scale="large"), "expected 'scale' as a number, found 'large' at sample 2$"),
        (changed(center=[1, float("nan")]), "expected 'center' of 2 .* at sample 2$"),
        (changed(image="../../secret.jpg"), "expected image names inside"),
    ],
)
def test_impossible_labels_are_refused(root, samples, message) -> None:
    write(root, samples)
    with pytest.raises(ValueError, match=message):
        mpii(root, "test")


def test_missing_and_damaged_files_are_named(root) -> None:
    path = root / "mpii" / "annot" / "valid.json"
    path.write_text("[{")
    with pytest.raises(ValueError, match=r"valid\.json cannot be read as labels: "):
        mpii(root, "test")
    path.unlink()
    with pytest.raises(ValueError, match=r"valid\.json is missing: .* --set data\.root=FOLDER$"):
        mpii(root, "test")


def test_samples_with_missing_images_are_named(root) -> None:
    write(root, changed(image="none.jpg"))
    with pytest.raises(ValueError, match=r"mpii/valid/none\.jpg/0: .*none\.jpg is missing"):
        load(Data(reader="mpii", root=root), "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_joints": ["a"] * 16}, "expected dataset_joints rank rkne .* found a a"),
        ({"jnt_missing": np.full((16, 3), 2.0)}, "expected jnt_missing 0 or 1"),
        ({"headboxes_src": np.full((2, 2, 3), np.nan)}, "found NaN or inf at sample 1$"),
        ({"pos_gt_src": np.ones((16, 2, 4))}, "expected jnt_missing 16 x N, .* found .* x 4"),
    ],
)
def test_damaged_ground_truth_is_refused(root, change, message) -> None:
    write_heads(root)
    path = root / "mpii" / "annot" / "gt_valid.mat"
    content = scipy.io.loadmat(path)
    content = {key: value for key, value in content.items() if not key.startswith("__")}
    scipy.io.savemat(path, content | change)
    with pytest.raises(ValueError, match=rf"gt_valid\.mat.*{message}"):
        mpii(root, "test")


@pytest.fixture
def published(published_root) -> SampleSet:
    """The first five validation samples of MPII."""
    return load(Data(reader="mpii", root=published_root("mpii/annot/valid.json")), "test")


def test_published_samples_are_read(published) -> None:
    samples = published
    assert len(samples) == 5 and samples.ids[0] == "mpii/valid/005808361.jpg/0"
    # Joint 0, center and scale of the first sample in valid.json.
    np.testing.assert_allclose(samples.joints_NK2[0, 0], [804 - 1, 711 - 1])
    np.testing.assert_allclose(samples.center_N2[0], [966 - 1, 340 + 15 * 4.718488 - 1])
    assert samples.side_N[0] == pytest.approx(200 * 1.25 * 4.718488)
    missing = np.argwhere(np.isnan(samples.joints_NK2).any(-1)).tolist()
    assert missing == [[2, 0], [2, 5], [3, 0], [3, 5]]


def test_published_joints_are_in_their_crops(published) -> None:
    views = Views(published, Geometry(crop_px=64), Augmentation(), seed=0)
    for index in range(len(published)):
        view = views[index, CENTER_CROP]
        labeled = view["joints"][~np.isnan(view["joints"]).any(-1)]
        assert view["crop"].std() > 5
        assert (labeled > -0.5).all() and (labeled < 15.5).all()
        assert labeled[-1, 0] > 0  # the left wrist, the last joint, is labeled in all
