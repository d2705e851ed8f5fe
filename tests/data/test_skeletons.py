"""The skeletons agree with their benchmarks' publications."""

from __future__ import annotations

import pytest

from fpd.data.skeletons import LSP, MPII

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
