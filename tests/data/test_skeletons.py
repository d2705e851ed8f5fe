"""The skeletons agree with their benchmarks' publications."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fpd.data.skeletons import COCO, LSP, MPII, Skeleton, check_pairs

# Order of the published joints.mat, from the data set's README.
PUBLISHED = (
    "right ankle, right knee, right hip, left hip, left knee, left ankle, right wrist, "
    "right elbow, right shoulder, left shoulder, left elbow, left wrist, neck, head top"
)
OTHER_SIDE = {"left": "right", "right": "left"}


def flipped_name(name: str) -> str:
    return " ".join(OTHER_SIDE.get(word, word) for word in name.split())


def test_joints_are_in_the_published_order() -> None:
    assert ", ".join(LSP.joints) == PUBLISHED
    assert LSP.num_joints == 14


@pytest.mark.parametrize("skeleton", [LSP, MPII], ids=["lsp", "mpii"])
def test_a_flip_swaps_left_and_right_by_name(skeleton) -> None:
    assert [skeleton.joints[m] for m in skeleton.flip_indices] == [
        flipped_name(name) for name in skeleton.joints
    ]
    assert [skeleton.flip_indices[m] for m in skeleton.flip_indices] == list(
        range(skeleton.num_joints)
    )


@pytest.mark.parametrize("skeleton", [LSP, MPII], ids=["lsp", "mpii"])
def test_limbs_connect_all_joints_symmetrically(skeleton) -> None:
    limbs = {frozenset(limb) for limb in skeleton.limbs}
    assert len(limbs) == len(skeleton.limbs)
    assert all(len(limb) == 2 for limb in limbs), "a limb connects two different joints"
    assert limbs == {frozenset(skeleton.flip_indices[j] for j in limb) for limb in limbs}
    reached = {0}
    for _ in skeleton.joints:
        reached |= {j for limb in limbs if limb & reached for j in limb}
    assert reached == set(range(skeleton.num_joints))


def test_limbs_follow_arms_and_legs() -> None:
    limbs = {frozenset(LSP.joints[j] for j in limb) for limb in LSP.limbs}
    for side in ("left", "right"):
        for one, other in [
            ("ankle", "knee"),
            ("knee", "hip"),
            ("hip", "shoulder"),
            ("shoulder", "elbow"),
            ("elbow", "wrist"),
        ]:
            assert {f"{side} {one}", f"{side} {other}"} in limbs
    assert {"neck", "head top"} in limbs


def test_groups_are_the_table_columns() -> None:
    groups = {name: {LSP.joints[j] for j in joints} for name, joints in LSP.groups}
    assert groups.pop("head") == {"neck", "head top"}
    assert groups == {
        part: {f"left {part}", f"right {part}"}
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    }
    assert sorted(j for _, joints in LSP.groups for j in joints) == list(range(14))


def test_lsps_unit_is_the_torso_diagonal() -> None:
    assert [LSP.joints[j] for j in LSP.normalizer] == ["left shoulder", "right hip"]
    assert LSP.threshold == 0.2


# HRNet, lib/dataset/mpii.py: flip_pairs, and the names of the table's rows and their joints.
FLIP_PAIRS = [[0, 5], [1, 4], [2, 3], [10, 15], [11, 14], [12, 13]]


def test_mpii_flips_as_in_hrnet() -> None:
    assert MPII.num_joints == 16
    swapped = [[a, b] for a, b in enumerate(MPII.flip_indices) if a < b]
    assert swapped == FLIP_PAIRS


def test_mpii_groups_are_hrnets_rows() -> None:
    groups = {name: {MPII.joints[j] for j in joints} for name, joints in MPII.groups}
    assert groups.pop("head") == {"head top"}
    assert groups == {
        part: {f"left {part}", f"right {part}"}
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    }


def test_pelvis_and_thorax_are_not_scored() -> None:
    assert [MPII.joints[j] for j in MPII.unscored] == ["pelvis", "thorax"]
    assert not set(MPII.unscored) & {j for _, joints in MPII.groups for j in joints}
    assert LSP.unscored == ()


def test_pckh_and_its_curve() -> None:
    assert (MPII.metric, MPII.threshold, MPII.curve_steps) == ("PCKh", 0.5, 50)
    assert (LSP.metric, LSP.curve_steps) == ("PCK", 20)
    assert [MPII.joints[j] for j in MPII.normalizer] == ["upper neck", "head top"]


def test_sides_are_those_of_the_names() -> None:
    sides = {LSP.joints[joint]: LSP.side(joint) for joint in range(LSP.num_joints)}
    assert sides["left wrist"] == "left" and sides["right ankle"] == "right"
    assert sides["neck"] == sides["head top"] == "middle"


def test_sides_of_names_in_other_forms() -> None:
    """A name that begins with l is not left, and one that does not may be."""
    joints = ("lip", "eyeR", "eyeL", "top", "bottom")
    skeleton = replace(LSP, joints=joints, flip_indices=(0, 2, 1, 4, 3))
    assert [skeleton.side(k) for k in range(5)] == ["middle", "right", "left", "left", "right"]
    assert skeleton.pairs == (("eyeL", "eyeR"), ("top", "bottom"))
    assert skeleton.describe_pairs() == "a flip exchanges eyeL/eyeR, top/bottom; it keeps lip"


@pytest.mark.parametrize("skeleton", [LSP, MPII, COCO])
def test_joints_in_another_order(skeleton: Skeleton) -> None:
    """Every part of a reordered skeleton names the same joints; the inverse order restores it."""
    order = np.random.default_rng(1).permutation(skeleton.num_joints).tolist()
    other = skeleton.reordered(order)
    names, others = np.array(skeleton.joints), np.array(other.joints)
    assert others.tolist() == names[order].tolist()
    twin = dict(zip(names, names[list(skeleton.flip_indices)], strict=True))
    assert dict(zip(others, others[list(other.flip_indices)], strict=True)) == twin
    assert others[np.array(other.limbs)].tolist() == names[np.array(skeleton.limbs)].tolist()
    assert other.reordered(np.argsort(order).tolist()) == skeleton
    check_pairs(other, other, "one", "other")
    with pytest.raises(ValueError, match="left and right in one and in other, found other count"):
        check_pairs(
            skeleton, replace(skeleton, flip_indices=tuple(range(len(order)))), "one", "other"
        )
