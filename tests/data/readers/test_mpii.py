"""MPII in HRNet's layout: tiny copies made here, and five published people where at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fpd.data.augmentation import Augmentation
from fpd.data.datasets import Data, load
from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS, mpii
from fpd.data.skeletons import MPII
from fpd.data.validation import check
from fpd.data.views import CENTER_CROP, Geometry, Views

PICTURES = ["b.jpg", "a.jpg", "b.jpg"]


def person(number: int) -> dict[str, Any]:
    """Joint k at (10 + k + number, 20 + 2 k), 1-based; the right ankle is missing."""
    joints = [[10.0 + k + number, 20.0 + 2 * k] for k in range(16)]
    joints[0] = [-1.0, -1.0]
    return {
        "image": PICTURES[number],
        "center": [40.0 + number, 30.0],
        "scale": 0.5,
        "joints": joints,
        "joints_vis": [0] + [1] * 15,
    }


def write(root: Path, people: Any, name: str = "valid.json") -> None:
    path = root / "mpii" / "annot" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(people))


def write_heads(root: Path, count: int = 3) -> None:
    """Head boxes of 30 x 40 pixels, a diagonal of 50; the last person has none."""
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
        write(tmp_path, [person(n) for n in range(3)], name)
    (tmp_path / "mpii" / "images").mkdir()
    for name in set(PICTURES):
        Image.new("RGB", (120, 90)).save(tmp_path / "mpii" / "images" / name)
    return tmp_path


def test_people_boxes_and_joints(root) -> None:
    people = mpii(root, "test")
    assert people.name == "mpii" and people.skeleton is MPII
    assert people.ids == ("mpii/valid/b.jpg/0", "mpii/valid/a.jpg/0", "mpii/valid/b.jpg/1")
    assert people.image_N.tolist() == [0, 1, 0]  # an image is named once
    assert [people.images.locate(i) for i in people.image_N] == [
        str(root / "mpii" / "images" / name) for name in PICTURES
    ]
    # Center (41, 30), 1-based, lowered by 15 x 0.5; side 200 x 0.5 x 1.25.
    np.testing.assert_allclose(people.center_N2[1], [41 - 1, 30 + 7.5 - 1])
    np.testing.assert_allclose(people.side_N, 125)
    assert people.joints_NK2[1, 3].tolist() == [10 + 3 + 1 - 1, 20 + 6 - 1]
    check(people)


def test_joints_that_are_not_annotated_are_missing(root) -> None:
    changed = person(0)
    changed["joints"][4] = [-1.0, -1.0]  # called annotated, but nowhere
    changed["joints"][5] = [-1.0, 7.0]  # a little beyond the image: a place like any other
    changed["joints_vis"][9] = 0
    write(root, [changed])
    joints = mpii(root, "test").joints_NK2[0]
    assert np.flatnonzero(np.isnan(joints).any(-1)).tolist() == [0, 4, 9]
    assert joints[5].tolist() == [-2.0, 6.0]


def test_head_boxes_are_the_unit_of_test_people(root, caplog) -> None:
    assert np.isnan(mpii(root, "test").normalizer_N).all()
    assert "gt_valid.mat is missing: without head boxes" in caplog.text
    write_heads(root)
    np.testing.assert_allclose(mpii(root, "test").normalizer_N, [30, 30, 0])


def test_the_heads_length_stands_in_for_training_people(root) -> None:
    write_heads(root)
    people = mpii(root, "train")
    assert people.ids[0] == "mpii/train/b.jpg/0"
    np.testing.assert_allclose(people.normalizer_N, np.hypot(1, 2))


def test_head_boxes_of_other_people_are_refused(root) -> None:
    write_heads(root, 4)
    with pytest.raises(ValueError, match=r"gt_valid\.mat: expected 3 people, as in the"):
        mpii(root, "test")


def changed(**changes: Any) -> list[dict[str, Any]]:
    return [person(0), person(1) | changes]


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ({"annolist": []}, "expected a list of people"),
        ([1, 2], "expected a list of people"),
        ([], "expected 1 to 1000000 people, found 0"),
        ([{"image": "a.jpg"}], "expected 'joints' of 16 x 2 in finite numbers, .* at person 1$"),
        (changed(joints=[[1, 2]] * 15), "expected 'joints' of 16 x 2 .* at person 2$"),
        (changed(joints=[[1, 2], [3]]), "expected 'joints' of 16 x 2 .* at person 2$"),
        (changed(joints_vis=[1, 1]), "expected 'joints_vis' of 16 .* at person 2$"),
        (changed(scale="large"), "expected 'scale' of a single number .* at person 2$"),
        (changed(center=[1, float("nan")]), "expected 'center' of 2 .* at person 2$"),
        (changed(image="../../secret.jpg"), "expected image names inside"),
    ],
)
def test_impossible_labels_are_refused(root, people, message) -> None:
    write(root, people)
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


def test_a_person_without_an_image_is_named(root) -> None:
    write(root, changed(image="none.jpg"))
    with pytest.raises(ValueError, match=r"mpii/valid/none\.jpg/0: .*none\.jpg is missing"):
        load(Data(reader="mpii", root=root), "test")


REAL = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(
    not (REAL / "mpii" / "annot" / "valid.json").is_file(), reason=f"MPII is not in {REAL}"
)


@real
def test_published_people_can_be_used() -> None:
    people = load(Data(reader="mpii", root=REAL), "test")
    assert len(people) == 5 and people.ids[0] == "mpii/valid/005808361.jpg/0"
    # Numbers read off valid.json: joint 0, center and scale of the first person.
    np.testing.assert_allclose(people.joints_NK2[0, 0], [804 - 1, 711 - 1])
    np.testing.assert_allclose(people.center_N2[0], [966 - 1, 340 + 15 * 4.718488 - 1])
    assert people.side_N[0] == pytest.approx(200 * 1.25 * 4.718488)
    missing = np.argwhere(np.isnan(people.joints_NK2).any(-1)).tolist()
    assert missing == [[2, 0], [2, 5], [3, 0], [3, 5]]


@real
def test_published_people_are_in_their_crops() -> None:
    people = load(Data(reader="mpii", root=REAL), "test")
    views = Views(people, Geometry(crop_px=64), Augmentation(), seed=0)
    for index in range(len(people)):
        view = views[index, CENTER_CROP]
        labeled = view["joints"][~np.isnan(view["joints"]).any(-1)]
        assert view["crop"].std() > 5
        assert (labeled > -0.5).all() and (labeled < 15.5).all()
        assert labeled[-1, 0] > 0  # the left wrist, the last one, is always there
