"""People drawn over photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fpd.data.skeletons import LSP, MPII
from fpd.pipeline.evaluation.overlay import draw_people, drawing_name
from fpd.pipeline.runtime.drawing import joint_color, limb_color
from fpd.pipeline.runtime.palette import LEFT, MIDDLE, RIGHT


def standing() -> np.ndarray:
    """LSP's joints, far from each other, in order down two columns; all sure."""
    xy = np.array([[30 + 100 * (k % 2), 20 + 25 * (k // 2)] for k in range(14)], float)
    return np.column_stack([xy, np.ones(14)])


@pytest.mark.parametrize("light", [0, 255])
def test_strokes_show_on_light_and_dark(tmp_path: Path, light: int) -> None:
    image = np.full((200, 160, 3), light, np.uint8)
    draw_people(image, standing()[None], [400.0], LSP, tmp_path / "a.png")
    drawn = cv2.cvtColor(cv2.imread(str(tmp_path / "a.png")), cv2.COLOR_BGR2RGB)
    assert (image == light).all()
    for joint, (x, y, _) in enumerate(standing()):
        np.testing.assert_array_equal(drawn[int(y), int(x)], joint_color(LSP, joint))
    # Both a dark and a bright shade, whatever is behind.
    assert drawn.min() == 0 and drawn.max() == 255


def test_sides_are_told_apart() -> None:
    for skeleton in (LSP, MPII):
        for joint, name in enumerate(skeleton.joints):
            side = {"left": LEFT, "right": RIGHT}.get(name.split()[0], MIDDLE)
            assert joint_color(skeleton, joint) == side
    assert limb_color(LSP, 0, 1) == RIGHT and limb_color(LSP, 9, 12) == LEFT
    assert limb_color(LSP, 2, 3) == MIDDLE


def test_faint_joints_are_left_out(tmp_path: Path) -> None:
    image = np.full((200, 160, 3), 120, np.uint8)
    keypoints = standing()
    keypoints[:, 2] = 0.05
    draw_people(image, keypoints[None], [400.0], LSP, tmp_path / "a.png")
    assert (cv2.imread(str(tmp_path / "a.png")) == 120).all()


def test_joints_far_outside_do_no_harm(tmp_path: Path) -> None:
    image = np.full((200, 160, 3), 120, np.uint8)
    keypoints = standing()
    keypoints[0, :2] = 1e12, -1e12
    draw_people(image, keypoints[None], [400.0], LSP, tmp_path / "a.jpg")
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (200, 160, 3)


def test_drawings_are_jpeg_or_png() -> None:
    assert [drawing_name(n) for n in ("a.JPG", "b.png", "c.tif")] == ["a.JPG", "b.png", "c.tif.png"]
