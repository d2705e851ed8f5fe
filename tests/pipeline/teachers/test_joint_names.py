"""Joints by name, against pairs written out by hand."""

from __future__ import annotations

import pytest

from fpd.data.skeletons import COCO, LSP, MPII
from fpd.pipeline.teachers.joint_names import canonical, find_joints, skeleton_of


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("left shoulder", "left shoulder"),
        ("left_shoulder", "left shoulder"),
        ("L_Shoulder", "left shoulder"),
        ("R-Ear", "right ear"),
        ("Nose", "nose"),
        (" Head  Top ", "head top"),
        ("neck", "upper neck"),
        ("upper_neck", "upper neck"),
    ],
)
def test_names_in_many_spellings(name: str, plain: str) -> None:
    assert canonical(name) == plain


def test_mpii_teaches_lsp_all_its_joints() -> None:
    # MPII: r-ankle 0 ... l-ankle 5, pelvis 6, thorax 7, upper neck 8, head top 9, r-wrist 10 ...
    assert find_joints(LSP.joints, MPII.joints) == (
        *(0, 1, 2, 3, 4, 5),
        *(10, 11, 12, 13, 14, 15),
        *(8, 9),
    )


def test_lsp_teaches_mpii_all_but_pelvis_and_thorax() -> None:
    found = find_joints(MPII.joints, LSP.joints)
    assert [MPII.joints[k] for k, source in enumerate(found) if source is None] == [
        "pelvis",
        "thorax",
    ]
    assert found[8] == 12  # upper neck: neck


def test_coco_has_no_head_top_neck_thorax_or_pelvis() -> None:
    missing = {
        name
        for name, k in zip(MPII.joints, find_joints(MPII.joints, COCO.joints), strict=True)
        if k is None
    }
    assert missing == {"head top", "upper neck", "thorax", "pelvis"}
    found = find_joints(LSP.joints, COCO.joints)
    # COCO: left shoulder 5, right 6, elbows 7 and 8, wrists, hips, knees, left ankle 15, right 16.
    assert found == (16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9, None, None)


def test_one_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="upper neck twice"):
        find_joints(LSP.joints, ("neck", "upper neck"))


def test_skeletons_by_their_number_of_joints() -> None:
    assert skeleton_of(14) is LSP
    assert skeleton_of(16) is MPII
    assert skeleton_of(17) is COCO
    with pytest.raises(ValueError, match=r"14 \(lsp\).* found 133"):
        skeleton_of(133)
