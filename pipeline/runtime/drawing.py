"""Draws skeletons, boxes and heatmaps onto pixels, for contact sheets, figures and predictions.

Skeletons: the left side is orange, the right side blue, and the rest white. Heatmaps: each joint
has a hue of its own, warm ones on the left side and cold ones on the right (`palette`). Every
stroke has a black rim.

Shape letters: K joints, H and W height and width.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...data.skeletons import Skeleton
from . import palette
from .palette import LEFT, MIDDLE, RIGHT, RIM, Color

SUBPIXEL_BITS = 4
"""OpenCV draws at sixteenths of a pixel."""

FARTHEST_PX = 1 << 20
"""Positions are clipped to this: beyond it, OpenCV's integers overflow."""

SIDE_COLORS = {"left": LEFT, "right": RIGHT}
SIDE_HUES = {
    "left": palette.LEFT_HUES,
    "right": palette.RIGHT_HUES,
    "middle": palette.MIDDLE_HUES,
}

CHIPS_KEPT = 512
"""Scores have two decimals, so that a video needs about a hundred chips of each size."""


def joint_color(skeleton: Skeleton, joint: int) -> Color:
    """The color of a joint's side."""
    return SIDE_COLORS.get(skeleton.side(joint), MIDDLE)


def limb_color(skeleton: Skeleton, one: int, other: int) -> Color:
    """The color of a limb's side; `MIDDLE` if it connects both sides."""
    sides = {joint_color(skeleton, joint) for joint in (one, other)} - {MIDDLE}
    return sides.pop() if len(sides) == 1 else MIDDLE


def joint_hues(skeleton: Skeleton) -> NDArray[np.uint8]:
    """A hue for each joint's heatmap, from those of its side: uint8 (K, 3) RGB.

    A joint and its counterpart are at the same place in the hues of their sides.
    """
    hues_K3 = np.zeros((skeleton.num_joints, 3), np.uint8)
    sides = [skeleton.side(joint) for joint in range(skeleton.num_joints)]
    left = [joint for joint, side in enumerate(sides) if side == "left"]
    joints_by_side = {
        "left": left,
        "right": [skeleton.flip_indices[joint] for joint in left],
        "middle": [joint for joint, side in enumerate(sides) if side == "middle"],
    }
    for side, joints in joints_by_side.items():
        hues = np.array(SIDE_HUES[side], float)
        places = np.linspace(0, len(hues) - 1, len(joints))
        for channel in range(3):
            values = np.interp(places, np.arange(len(hues)), hues[:, channel])
            hues_K3[joints, channel] = np.rint(values)
    return hues_K3


def color_heatmaps(
    heatmaps_KHW: NDArray[np.float32], hues_K3: NDArray[np.uint8], top: float
) -> NDArray[np.float32]:
    """Heatmaps as one layer to draw over a picture: each pixel has the hue of its clearest joint.

    A map is transparent below `HEAT_THRESHOLD` of its own peak, and the opacity of its peak is in
    proportion to the peak's height.

    Args:
        heatmaps_KHW: NaN and negative values are transparent.
        hues_K3: of the joints, `joint_hues`.
        top: a peak of this height or more has `HEAT_OPACITY`.

    Returns:
        float32 (H, W, 4) RGBA in 0..1.
    """
    heatmaps_KHW = np.nan_to_num(heatmaps_KHW, nan=0.0)
    peaks_K11 = heatmaps_KHW.max((1, 2), keepdims=True)
    shares_KHW = heatmaps_KHW / np.maximum(peaks_K11, np.finfo(np.float32).tiny)
    above_KHW = (shares_KHW - palette.HEAT_THRESHOLD) / (1 - palette.HEAT_THRESHOLD)
    heights_K11 = (peaks_K11 / top).clip(0, 1)
    opacity_KHW = palette.HEAT_OPACITY * above_KHW.clip(0, 1) * heights_K11
    hues_HW3 = hues_K3[opacity_KHW.argmax(0)] / np.float32(255)
    return np.concatenate([hues_HW3, opacity_KHW.max(0)[..., None]], -1).astype(np.float32)


def draw_skeleton(
    image_HW3: NDArray[np.uint8],
    joints_K2: NDArray[np.floating],
    confident_K: NDArray[np.bool_],
    skeleton: Skeleton,
    width_px: int,
    *,
    faint_dots: bool = False,
) -> None:
    """Draw a person's limbs and joints over an image, in place.

    Args:
        image_HW3: uint8 RGB.
        joints_K2: float (x, y) in pixels of the image; NaN and infinity are not drawn.
        confident_K: bool, whether to draw a joint with its limbs.
        width_px: of a limb.
        faint_dots: draw the other joints too, as small dots without limbs.
    """
    finite_K = np.isfinite(joints_K2).all(-1)
    placed_K2 = np.nan_to_num(joints_K2).clip(-FARTHEST_PX, FARTHEST_PX) * (1 << SUBPIXEL_BITS)
    points = [(int(x), int(y)) for x, y in placed_K2.round()]
    shown_K = confident_K & finite_K
    dots_K = finite_K if faint_dots else shown_K
    rim_px = max(1, width_px // 2)
    limbs = [
        (points[one], points[other], limb_color(skeleton, one, other))
        for one, other in skeleton.limbs
        if shown_K[one] and shown_K[other]
    ]
    dots = [
        (points[joint], joint_color(skeleton, joint), width_px if shown_K[joint] else width_px - 1)
        for joint in np.flatnonzero(dots_K).tolist()
    ]
    style = (cv2.LINE_AA, SUBPIXEL_BITS)
    for is_rim in (True, False):  # all rims first, so that none crosses another limb
        for start, end, color in limbs:
            stroke_px = width_px + 2 * is_rim * rim_px
            cv2.line(image_HW3, start, end, RIM if is_rim else color, stroke_px, *style)
        for point, color, radius_px in dots:
            radius = (max(1, radius_px) + is_rim * rim_px) << SUBPIXEL_BITS
            cv2.circle(image_HW3, point, radius, RIM if is_rim else color, -1, *style)


def draw_box(
    image_HW3: NDArray[np.uint8], box_4: NDArray[np.floating], text: str, text_px: int
) -> None:
    """Draw a person's box over an image, in place, and a short text at its top-left corner.

    The text is above the box, or inside it where the image has no space above. A box of the whole
    image has only its text.

    Args:
        image_HW3: uint8 RGB.
        box_4: float (left edge, top edge, width, height) in pixels; not drawn unless finite.
        text: one line.
        text_px: font size.
    """
    if not np.isfinite(box_4).all():
        return
    height, width = image_HW3.shape[:2]
    x, y, w, h = box_4.tolist()
    # From edges to the pixels inside of them.
    left, right = (round(min(max(edge, -9), width + 9)) for edge in (x, x + w - 1))
    top, bottom = (round(min(max(edge, -9), height + 9)) for edge in (y, y + h - 1))
    if left > 0 or top > 0 or right < width - 1 or bottom < height - 1:
        for color, thickness in ((palette.CHIP, 3), (palette.BOX, 1)):
            cv2.rectangle(image_HW3, (left, top), (right, bottom), color, thickness)
    chip = _chip(text, text_px)
    chip_h, chip_w = chip.shape[:2]
    chip_y = top - chip_h if top >= chip_h else max(top, 0)
    chip_x = max(min(left, width - chip_w), 0)
    target = image_HW3[chip_y : chip_y + chip_h, chip_x : chip_x + chip_w]
    target[:] = chip[: target.shape[0], : target.shape[1]]


@lru_cache(CHIPS_KEPT)
def _chip(text: str, text_px: int) -> NDArray[np.uint8]:
    """A text on a dark background: uint8 (h, w, 3) RGB, read-only."""
    font = ImageFont.load_default(text_px)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    pad = max(2, text_px // 4)
    size = (round(right - left) + 2 * pad, round(bottom - top) + 2 * pad)
    image = Image.new("RGB", size, palette.CHIP)
    pen = ImageDraw.Draw(image)
    pen.text((pad - left, pad - top), text, palette.CHIP_TEXT, font=font, anchor="ls")
    chip = np.array(image)
    chip.setflags(write=False)
    return chip
