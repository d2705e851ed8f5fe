"""People drawn over the photograph they were found in.

Left is orange, right is blue (person-centric; told apart by the colour-blind, too), what is neither
is white; every stroke has a black rim, so that it shows on light and on dark.

Shape letters: N people, K joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..data.skeletons import Skeleton
from .workdir import atomic

Colour = tuple[int, int, int]

# RGB, of Okabe & Ito's palette (Color Universal Design, 2008): orange and sky blue.
LEFT: Colour = (230, 159, 0)
RIGHT: Colour = (86, 180, 233)
NEITHER: Colour = (255, 255, 255)
RIM: Colour = (0, 0, 0)

FAINTEST = 0.1
"""Joints with a lower peak are left out: where they are, the model does not say (`peak_floor`)."""

THINNEST_PX = 2
BOX_SIDES_A_STROKE = 100
"""A stroke is a hundredth of the person's box wide, and no less than `THINNEST_PX`."""

SHIFT = 4  # OpenCV takes positions in sixteenths of a pixel
MOST_PX = 1 << 20  # positions beyond would overflow there

JPEG_QUALITY = 92
KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")


def drawing_name(file_name: str) -> str:
    """A drawing's name: the image's, with .png behind what is neither JPEG nor PNG."""
    return file_name if Path(file_name).suffix.lower() in KEPT_SUFFIXES else f"{file_name}.png"


def draw_people(
    image_HW3: NDArray[np.uint8],
    keypoints_NK3: NDArray[np.float64],
    sides_N: Sequence[float],
    skeleton: Skeleton,
    path: Path,
) -> None:
    """Write an image with people over it, as JPEG or PNG by its name.

    Args:
        image_HW3: uint8 RGB; left as it is.
        keypoints_NK3: x, y in pixels of the image, and the peak.
        sides_N: longer side of each person's box, pixels.
    """
    canvas = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR)
    for keypoints_K3, side in zip(keypoints_NK3, sides_N, strict=True):
        _draw_person(
            canvas, keypoints_K3, max(THINNEST_PX, round(side / BOX_SIDES_A_STROKE)), skeleton
        )
    png = path.suffix.lower() == ".png"
    quality = [] if png else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(path.suffix, canvas, quality)
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def _draw_person(
    canvas: cv2.typing.MatLike, keypoints_K3: NDArray[np.float64], width: int, skeleton: Skeleton
) -> None:
    """Rims first, so that no limb cuts another in two."""
    places = np.clip(keypoints_K3[:, :2], -MOST_PX, MOST_PX) * (1 << SHIFT)
    points = [(int(x), int(y)) for x, y in places.round()]
    shown = keypoints_K3[:, 2] >= FAINTEST
    limbs = [pair for pair in skeleton.limbs if shown[list(pair)].all()]
    for rim in (True, False):
        for one, other in limbs:
            colour = RIM if rim else limb_colour(skeleton, one, other)
            thick = width + 2 * rim * max(1, width // 2)
            cv2.line(canvas, points[one], points[other], colour[::-1], thick, cv2.LINE_AA, SHIFT)
        for joint in np.flatnonzero(shown).tolist():
            colour = RIM if rim else joint_colour(skeleton, joint)
            radius = (width + rim * max(1, width // 2)) << SHIFT
            cv2.circle(canvas, points[joint], radius, colour[::-1], -1, cv2.LINE_AA, SHIFT)


def joint_colour(skeleton: Skeleton, joint: int) -> Colour:
    """By the side that the joint's name begins with, where it has a twin on the other."""
    if skeleton.mirror[joint] == joint:
        return NEITHER
    name = skeleton.joints[joint].lower()
    return LEFT if name.startswith("l") else RIGHT


def limb_colour(skeleton: Skeleton, one: int, other: int) -> Colour:
    """A side's, where one end is of that side and the other of it or of neither."""
    sides = {joint_colour(skeleton, joint) for joint in (one, other)} - {NEITHER}
    return sides.pop() if len(sides) == 1 else NEITHER
