"""People drawn over the photograph they were found in.

Shape letters: N people, K joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.skeletons import Skeleton
from ..runtime.drawing import draw_skeleton
from ..runtime.files import atomic

FAINTEST = 0.1
"""Joints with a lower peak are left out: where they are, the model does not say (`peak_floor`)."""

THINNEST_PX = 2
BOX_SIDES_A_STROKE = 100
"""A stroke is a hundredth of the person's box wide, and no less than `THINNEST_PX`."""

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
    drawn_HW3 = image_HW3.copy()
    for keypoints_K3, side_px in zip(keypoints_NK3, sides_N, strict=True):
        width_px = max(THINNEST_PX, round(side_px / BOX_SIDES_A_STROKE))
        shown_K = keypoints_K3[:, 2] >= FAINTEST
        draw_skeleton(drawn_HW3, keypoints_K3[:, :2], shown_K, skeleton, width_px)
    png = path.suffix.lower() == ".png"
    quality = [] if png else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(drawn_HW3, cv2.COLOR_RGB2BGR), quality)
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
