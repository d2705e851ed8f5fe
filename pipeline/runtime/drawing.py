"""Draws skeletons onto pixels, for contact sheets and predictions.

The left side is orange, the right side blue, and the rest white; every stroke has a black rim.
Shape letters: K joints.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.skeletons import Skeleton
from .palette import LEFT, MIDDLE, RIGHT, RIM, Color

SUBPIXEL_BITS = 4
"""OpenCV draws at sixteenths of a pixel."""

FARTHEST_PX = 1 << 20
"""Positions are clipped to this: beyond it, OpenCV's integers overflow."""

SIDE_COLORS = {"left": LEFT, "right": RIGHT}


def joint_color(skeleton: Skeleton, joint: int) -> Color:
    """The color of a joint's side."""
    return SIDE_COLORS.get(skeleton.side(joint), MIDDLE)


def limb_color(skeleton: Skeleton, one: int, other: int) -> Color:
    """The color of a limb's side; `MIDDLE` if it connects both sides."""
    sides = {joint_color(skeleton, joint) for joint in (one, other)} - {MIDDLE}
    return sides.pop() if len(sides) == 1 else MIDDLE


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
    for is_rim in (True, False):  # all rims first, so that none crosses another limb
        for one, other in skeleton.limbs:
            if shown_K[one] and shown_K[other]:
                color = RIM if is_rim else limb_color(skeleton, one, other)
                thickness = width_px + 2 * is_rim * rim_px
                cv2.line(
                    image_HW3,
                    points[one],
                    points[other],
                    color,
                    thickness,
                    cv2.LINE_AA,
                    SUBPIXEL_BITS,
                )
        for joint in np.flatnonzero(dots_K).tolist():
            color = RIM if is_rim else joint_color(skeleton, joint)
            radius = max(1, width_px if shown_K[joint] else width_px - 1) + is_rim * rim_px
            cv2.circle(
                image_HW3,
                points[joint],
                radius << SUBPIXEL_BITS,
                color,
                -1,
                cv2.LINE_AA,
                SUBPIXEL_BITS,
            )
