"""The torso of a person, by the names of the joints."""

from __future__ import annotations

import numpy as np
import pytest

from fpd.data.skeletons import COCO, LSP, MPII
from fpd.data.torso import torso_indices, torso_of


@pytest.mark.parametrize("skeleton", [LSP, MPII, COCO], ids=lambda skeleton: skeleton.name)
def test_known_skeletons_have_a_torso(skeleton) -> None:
    indices = torso_indices(skeleton.joints)
    assert indices is not None
    names = [skeleton.joints[index] for index in indices]
    assert names == ["left hip", "right hip", "left shoulder", "right shoulder"]


def test_other_spellings_and_missing_joints() -> None:
    assert torso_indices(("R_Hip", "leftShoulder", "L_Hip", "right_shoulder")) == (2, 0, 1, 3)
    assert torso_indices(("left hip", "right hip", "neck")) is None


def test_ends_are_the_middles() -> None:
    joints = np.array([[0, 10], [4, 12], [1, 1], [2, 3], [np.nan, 0]], dtype=float)
    np.testing.assert_array_equal(torso_of(joints, (0, 1, 2, 3)), [[2, 11], [1.5, 2]])
    assert np.isnan(torso_of(joints, (0, 1, 2, 4))).all()
    assert np.isnan(torso_of(joints, None)).all()
