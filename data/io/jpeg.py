"""Crops as JPEG: what a portable store holds of a view's pixels.

Whoever reads a view decodes the same bytes, so teacher and students get the same pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

QUALITY_STEP = 5
"""By which the quality of a crop is lowered until it fits; only noise needs it."""

MAX_HEADER_BYTES = 2048
"""Of a crop's tables; those that `encode_jpeg` writes take up to 700."""

FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of a frame's header (ITU T.81, table B.1)."""

BASELINE_FRAME, SCAN = 0xC0, 0xDA


def max_jpeg_bytes(crop_px: int) -> int:
    """The most bytes that a crop of this side may take: 1 a pixel, and 2 KiB for the tables.

    Photographs take about a quarter of that at quality 90, random noise nine tenths.
    """
    return crop_px**2 + 2048


def encode_jpeg(crop_SS3: NDArray[np.uint8], quality: int) -> bytes:
    """Encode a crop with chroma at half resolution (4:2:0).

    Args:
        crop_SS3: uint8 (S, S, 3) RGB.
        quality: 1 to 100; lowered in steps of `QUALITY_STEP` if the crop takes more than
            `max_jpeg_bytes`.
    """
    bgr = cv2.cvtColor(crop_SS3, cv2.COLOR_RGB2BGR)
    limit = max_jpeg_bytes(len(crop_SS3))
    for lowered in range(quality, 0, -QUALITY_STEP):
        # Optimized Huffman tables save 3.5 % of the bytes, and take as long to decode.
        options = [cv2.IMWRITE_JPEG_QUALITY, lowered, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        written, encoded = cv2.imencode(".jpg", bgr, options)
        if written and len(encoded) <= limit:
            return encoded.tobytes()
    raise RuntimeError(f"a crop of {crop_SS3.shape} could not be encoded as JPEG")


def decode_jpeg(encoded: bytes | NDArray[np.uint8], crop_px: int) -> NDArray[np.uint8]:
    """Decode a crop; its size is checked before memory is allocated by it.

    simplejpeg takes 0.8 of OpenCV's time for the same pixels, and refuses damaged files.

    Returns:
        uint8 (crop_px, crop_px, 3) RGB.

    Raises:
        ValueError: it is damaged, or no baseline color JPEG of this size.
    """
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    if (height, width, colorspace) != (crop_px, crop_px, "YCbCr"):
        raise ValueError(
            f"expected a JPEG of {crop_px} x {crop_px} pixels in color, found {width} x {height} "
            f"in {colorspace}"
        )
    if not _has_one_scan(bytes(encoded[:MAX_HEADER_BYTES])):
        raise ValueError("expected a baseline JPEG of one scan, found another kind")
    crop: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded)
    return crop


def _has_one_scan(head: bytes) -> bool:
    """Whether a color JPEG is baseline, with all components in the first scan, as ours are.

    Each scan of a progressive file goes over the whole picture: 1 MB of them take minutes.

    Args:
        head: its first bytes.
    """
    position, frame = 2, 0  # behind the marker of the start
    while position + 4 < len(head):
        marker = head[position + 1]
        if marker == SCAN:
            return frame == BASELINE_FRAME and head[position + 4] == 3
        frame = marker if marker in FRAMES else frame
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")
    return False
