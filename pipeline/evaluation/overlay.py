"""Predicted skeletons, with boxes and scores, drawn over a photograph.

Shape letters: N persons, K joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.skeletons import Skeleton
from ..runtime.drawing import draw_box, draw_skeleton
from ..runtime.files import atomic

MIN_PEAK = 0.1
"""Joints with a lower peak are not drawn: the heatmap is too faint to locate them."""

BOX_SIDE_PER_WIDTH = 160
MIN_WIDTH_PX = 2
"""Limbs are 1/160 of the box's side wide, and at least `MIN_WIDTH_PX`, without their rims."""

SMALL_SIDE_PX = 100
"""People with a smaller box have limbs of 1 pixel, or their limbs would hide them."""

MIN_TEXT_PX = 10
IMAGE_SIDE_PER_TEXT = 50
"""The letters of scores are 1/50 of the image's shorter side, and at least `MIN_TEXT_PX`."""

JPEG_QUALITY = 92
WRITABLE_SUFFIXES = (".jpg", ".jpeg", ".png")


def overlay_name(file_name: str) -> str:
    """The file name of an image's overlay: the image's own, plus .png unless it is JPEG or PNG."""
    suffix = Path(file_name).suffix.lower()
    return file_name if suffix in WRITABLE_SUFFIXES else f"{file_name}.png"


def draw_overlay(
    image_HW3: NDArray[np.uint8],
    keypoints_NK3: NDArray[np.float64],
    sides_N: Sequence[float],
    skeleton: Skeleton,
    *,
    boxes_N4: NDArray[np.float64] | None = None,
    scores_N: Sequence[float] | None = None,
) -> NDArray[np.uint8]:
    """Draw skeletons over a copy of an image.

    Args:
        image_HW3: uint8 RGB.
        keypoints_NK3: float64 (x, y, peak), x and y in pixels of the image.
        sides_N: longer side of each person's box, pixels.
        boxes_N4: left edge, top edge, width and height of each person's box, pixels, drawn with the
            person's score; None: neither.
        scores_N: None: the mean of each person's peaks.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    overlay_HW3 = image_HW3.copy()
    for keypoints_K3, side_px in zip(keypoints_NK3, sides_N, strict=True):
        min_width_px = MIN_WIDTH_PX if side_px >= SMALL_SIDE_PX else 1
        width_px = max(min_width_px, round(side_px / BOX_SIDE_PER_WIDTH))
        shown_K = keypoints_K3[:, 2] >= MIN_PEAK
        draw_skeleton(overlay_HW3, keypoints_K3[:, :2], shown_K, skeleton, width_px)
    if boxes_N4 is not None:
        scores = keypoints_NK3[:, :, 2].mean(-1) if scores_N is None else scores_N
        text_px = max(MIN_TEXT_PX, min(image_HW3.shape[:2]) // IMAGE_SIDE_PER_TEXT)
        # After the skeletons, and from the last person to the first: a score stays readable.
        for box_4, score in reversed([*zip(boxes_N4, scores, strict=True)]):
            draw_box(overlay_HW3, box_4, f"{score:.2f}", text_px)
    return overlay_HW3


def write_image(image_HW3: NDArray[np.uint8], path: Path) -> None:
    """Write an image atomically, as JPEG or PNG by the suffix of `path`.

    Raises:
        ValueError: it has another suffix.
    """
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(WRITABLE_SUFFIXES)}")
    is_png = path.suffix.lower() == ".png"
    options = [] if is_png else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), options)
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
