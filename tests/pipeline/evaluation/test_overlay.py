"""Skeletons drawn over photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fpd.data.skeletons import LSP, MPII
from fpd.pipeline.evaluation.overlay import draw_overlay, overlay_name, write_image
from fpd.pipeline.runtime.drawing import joint_color, limb_color
from fpd.pipeline.runtime.palette import BOX, LEFT, MIDDLE, RIGHT


def spread_keypoints() -> np.ndarray:
    """LSP's joints in two columns, far from each other, all with a peak of 1."""
    xy = np.array([[30 + 100 * (k % 2), 20 + 25 * (k // 2)] for k in range(14)], float)
    return np.column_stack([xy, np.ones(14)])


@pytest.mark.parametrize("gray", [0, 255])
def test_strokes_are_visible_on_light_and_dark_images(tmp_path: Path, gray: int) -> None:
    image = np.full((200, 160, 3), gray, np.uint8)
    write_image(draw_overlay(image, spread_keypoints()[None], [400.0], LSP), tmp_path / "a.png")
    overlay = cv2.cvtColor(cv2.imread(str(tmp_path / "a.png")), cv2.COLOR_BGR2RGB)
    assert (image == gray).all()
    for joint, (x, y, _) in enumerate(spread_keypoints()):
        np.testing.assert_array_equal(overlay[int(y), int(x)], joint_color(LSP, joint))
    assert overlay.min() == 0 and overlay.max() == 255  # strokes with a rim, on either gray


def test_boxes_and_scores_are_drawn_if_given() -> None:
    image = np.full((240, 200, 3), 120, np.uint8)
    keypoints = spread_keypoints()
    keypoints[:, 2] = 0.5
    plain = draw_overlay(image, keypoints[None], [400.0], LSP)
    box = np.array([[15.0, 10.0, 170.0, 200.0]])
    boxed = draw_overlay(image, keypoints[None], [400.0], LSP, boxes_N4=box)
    assert (plain[100, 15] == 120).all() and boxed[100, 15].tolist() == list(BOX)
    assert (image == 120).all()
    scored = draw_overlay(image, keypoints[None], [400.0], LSP, boxes_N4=box, scores_N=[0.5])
    other = draw_overlay(image, keypoints[None], [400.0], LSP, boxes_N4=box, scores_N=[0.25])
    np.testing.assert_array_equal(scored, boxed)  # by default, the mean of the peaks
    rows, columns = np.nonzero((scored != other).any(-1))
    assert rows.max() < 25 and columns.max() < 50  # only the number differs


@pytest.mark.parametrize(("side_px", "width_px"), [(50.0, 7), (300.0, 7), (960.0, 15)])
def test_limbs_are_thin(side_px: float, width_px: int) -> None:
    """Pixels across, with both rims and OpenCV's smooth edges."""
    image = np.full((200, 160, 3), 120, np.uint8)
    keypoints = spread_keypoints()
    keypoints[:, :2] = [[80, 40 * k - 160] for k in range(14)]  # one vertical line
    drawn = draw_overlay(image, keypoints[None], [side_px], LSP)
    across = (np.abs(drawn[100].astype(int) - 120) > 20).any(-1).sum()
    assert abs(across - width_px) <= 1


def test_left_right_and_middle_have_their_own_colors() -> None:
    for skeleton in (LSP, MPII):
        for joint, name in enumerate(skeleton.joints):
            side = {"left": LEFT, "right": RIGHT}.get(name.split()[0], MIDDLE)
            assert joint_color(skeleton, joint) == side
    assert limb_color(LSP, 0, 1) == RIGHT and limb_color(LSP, 9, 12) == LEFT
    assert limb_color(LSP, 2, 3) == MIDDLE


def test_joints_with_a_low_peak_are_not_drawn(tmp_path: Path) -> None:
    image = np.full((200, 160, 3), 120, np.uint8)
    keypoints = spread_keypoints()
    keypoints[:, 2] = 0.05
    write_image(draw_overlay(image, keypoints[None], [400.0], LSP), tmp_path / "a.png")
    assert (cv2.imread(str(tmp_path / "a.png")) == 120).all()


def test_joints_far_outside_the_image_are_accepted(tmp_path: Path) -> None:
    image = np.full((200, 160, 3), 120, np.uint8)
    keypoints = spread_keypoints()
    keypoints[0, :2] = 1e12, -1e12
    write_image(draw_overlay(image, keypoints[None], [400.0], LSP), tmp_path / "a.jpg")
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (200, 160, 3)


def test_overlays_are_jpeg_or_png() -> None:
    names = [overlay_name(name) for name in ("a.JPG", "b.png", "c.tif")]
    assert names == ["a.JPG", "b.png", "c.tif.png"]
