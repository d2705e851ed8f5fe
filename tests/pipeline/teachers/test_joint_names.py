"""Matching joints by name, against pairs written out by hand."""

from __future__ import annotations

import pytest

from fpd.data.skeletons import COCO, LSP, MPII
from fpd.pipeline.teachers.joint_names import canonical, find_joints, skeleton_of


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_spellings_of_a_name_are_equal(name: str, expected: str) -> None:
    assert canonical(name) == expected


def test_mpii_covers_all_joints_of_lsp() -> None:
    # MPII: r-ankle 0 ... l-ankle 5, pelvis 6, thorax 7, upper neck 8, head top 9, r-wrist 10 ...
    assert find_joints(LSP.joints, MPII.joints) == (
        *(0, 1, 2, 3, 4, 5),
        *(10, 11, 12, 13, 14, 15),
        *(8, 9),
    )


def test_lsp_covers_mpii_except_pelvis_and_thorax() -> None:
    indices = find_joints(MPII.joints, LSP.joints)
    assert [MPII.joints[k] for k, index in enumerate(indices) if index is None] == [
        "pelvis",
        "thorax",
    ]
    assert indices[8] == 12  # upper neck: neck


def test_coco_has_no_head_top_neck_thorax_or_pelvis() -> None:
    missing = {
        name
        for name, k in zip(MPII.joints, find_joints(MPII.joints, COCO.joints), strict=True)
        if k is None
    }
    assert missing == {"head top", "upper neck", "thorax", "pelvis"}
    indices = find_joints(LSP.joints, COCO.joints)
    # COCO: left shoulder 5, right 6, elbows 7 and 8, wrists, hips, knees, left ankle 15, right 16.
    assert indices == (16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9, None, None)


def test_a_duplicate_name_is_refused() -> None:
    with pytest.raises(ValueError, match="upper neck twice"):
        find_joints(LSP.joints, ("neck", "upper neck"))


def test_skeletons_are_found_by_number_of_joints() -> None:
    assert skeleton_of(14) is LSP
    assert skeleton_of(16) is MPII
    assert skeleton_of(17) is COCO
    with pytest.raises(ValueError, match=r"14 \(lsp\).* found 133"):
        skeleton_of(133)
