"""Joint names, against pairs written out by hand."""

from __future__ import annotations

import pytest

from fpd.data.joint_names import (
    canonical,
    find_joints,
    joint_order,
    pair_sides,
    side_in_pair,
    without_side,
)
from fpd.data.skeletons import COCO, LSP, MPII


@pytest.mark.parametrize(
    ("left", "right", "rest"),
    [
        ("left ear", "right ear", "ear"),
        ("left_ear", "right_ear", "ear"),
        ("LeftEar", "RightEar", "Ear"),
        ("leftEar", "rightEar", "Ear"),
        ("leftear", "rightear", "ear"),
        ("LEFTear", "RIGHTear", "ear"),
        ("LEFT EAR", "RIGHT EAR", "EAR"),
        ("left-Ear", "right-Ear", "Ear"),
        ("Left.Ear", "Right.Ear", "Ear"),
        ("ear (left)", "ear (right)", "ear"),
        ("left_Ear", "Right_ear", "Ear"),
        ("Ear_left_tip", "Ear_right_Tip", "Ear__tip"),
        ("earleft", "earright", "ear"),
        ("EarLeft", "EarRight", "Ear"),
        ("ear left", "ear right", "ear"),
        ("frontleftpaw", "frontrightpaw", "frontpaw"),
        ("l_ear", "r_ear", "ear"),
        ("L_Ear", "R_Ear", "Ear"),
        ("LEar", "REar", "Ear"),
        ("ear_l", "ear_r", "ear"),
        ("ear.L", "ear.R", "ear"),
        ("eyeL", "eyeR", "eye"),
        ("eyeLTip", "eyeRTip", "eyeTip"),
        ("L1", "R1", "1"),
        ("lear", "rear", "ear"),
        ("Lear", "Rear", "ear"),
        ("earl", "earr", "ear"),
        ("LF_paw", "RF_paw", "F_paw"),
        ("lt_ear", "rt_ear", "t_ear"),
        ("left", "right", "left"),
        ("OhrLinks", "OhrRechts", "Ohr"),
        ("左耳", "右耳", "耳"),
    ],
)
def test_every_common_form_of_a_side(left: str, right: str, rest: str) -> None:
    assert pair_sides(("nose", left, "tail", right)) == ((0, 3, 2, 1), ())
    assert side_in_pair(left, right) == "left" and side_in_pair(right, left) == "right"
    assert without_side(left, right) == rest


def test_letters_inside_words_are_sides_only_beside_their_counterpart() -> None:
    joints = ("rear", "lip", "leg", "tail", "collar", "rump", "snout")
    assert pair_sides(joints) == (tuple(range(7)), ())
    assert pair_sides(("fl", "fr", "rl", "rr", "tail")) == ((1, 0, 3, 2, 4), ())


def test_words_that_contain_a_side_and_state_none() -> None:
    assert pair_sides(("chin cleft", "upright", "Bright", "nose")) == ((0, 1, 2, 3), ())


@pytest.mark.parametrize("name", ["left ear", "leftear", "earLeft", "L_ear", "eyeR", "R1"])
def test_a_side_without_counterpart_is_named(name: str) -> None:
    assert pair_sides(("nose", name, "tail")) == ((0, 1, 2), (name,))


def test_several_possible_counterparts_are_not_guessed() -> None:
    wheels = ("ll", "lr", "rl", "rr")
    assert pair_sides(wheels) == ((0, 1, 2, 3), wheels)


def test_the_same_spelling_is_preferred() -> None:
    joints = ("left_ear", "right_ear", "leftear", "rightear", "l_ear", "r_ear")
    assert pair_sides(joints) == ((1, 0, 3, 2, 5, 4), ())


def test_both_sides_of_a_name_are_exchanged() -> None:
    """The left corner of the left eye becomes the right corner of the right eye."""
    joints = ("left eye left", "left eye right", "right eye left", "right eye right")
    assert pair_sides(joints) == ((3, 2, 1, 0), ())


@pytest.mark.parametrize("skeleton", [LSP, MPII, COCO])
def test_the_known_skeletons_are_paired_by_name(skeleton) -> None:
    assert pair_sides(skeleton.joints) == (skeleton.flip_indices, ())


@pytest.mark.parametrize(
    "name", ["left upper arm", "LeftUpperArm", "left_upperarm", "L Upper-Arm", "UpperArmLeft"]
)
def test_joints_are_found_in_every_spelling(name: str) -> None:
    assert find_joints(("left upper arm", "nose"), ("Nose", name)) == (1, 0)


def test_numbers_stay_apart() -> None:
    assert find_joints(("toe 1 1",), ("toe 11", "toe1_1")) == (1,)
    assert canonical("toe 1 1") == "toe 1 1"


def test_letters_inside_words_are_found_beside_their_counterpart() -> None:
    assert find_joints(("left ear", "right ear"), ("rear", "lear")) == (1, 0)
    assert find_joints(("left ear",), ("lear",)) == (None,)


def test_another_order_of_the_same_joints() -> None:
    assert joint_order(("a", "b", "c"), ("c", "a", "b"), "x", "y") == (1, 2, 0)
    names = ("snout", "left_ear", "right_ear")
    assert joint_order(names, ("rightEar", "leftEar", "Snout"), "x", "y") == (2, 1, 0)


@pytest.mark.parametrize(
    ("available", "message"),
    [
        (("a", "b"), "in model and in file: model alone has c$"),
        (("a", "b", "c", "d"), "file alone has d$"),
        (("a", "b", "x"), "model alone has c; file alone has x$"),
        (("A", "a", "b"), "different names, found a twice"),
    ],
)
def test_unmatched_joints_are_named(available: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint_order(("a", "b", "c"), available, "model", "file")
