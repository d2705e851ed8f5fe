"""Pixels from image files: found, checked and decoded at the size a crop needs."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .. import MAX_PIXELS

MAX_FILE_BYTES = 1 << 28
JPEG_MAGIC = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
# Cameras may write some padding behind the end marker.
JPEG_TRAILER_BYTES = 4096
CUT_SHORT = "{} is a JPEG cut short: replace or remove it"

# libjpeg scales by these while decoding (fewer DCT coefficients), which is faster and an area
# average: no aliasing when the crop is much smaller than the image.
REDUCED_FLAGS = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


class ImageFolder:
    """Image files below one folder, which no name may lead out of.

    Names come from label files that strangers wrote; links lie on the user's own disk, where data
    sets are often linked together. So `..` and absolute names are refused, and links are followed.
    What is at the end of one must be a regular file: a pipe or a device would never end.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        """Take the files `names`, relative to `root`, without opening them.

        Raises:
            ValueError: a name is absolute or climbs out of `root`.
        """
        self.root = root
        self.names = tuple(names)
        for name in self.names:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"expected image names inside {root}, got {name!r}")

    def locate(self, index: int) -> str:
        return str(self.root / self.names[index])

    def identity(self, index: int) -> str:
        """Name and size in bytes: catches another or a re-encoded file, not an edit in place."""
        return f"{self.names[index]} {(self.root / self.names[index]).stat().st_size}"

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, from the file's header and, of a JPEG, its end.

        Raises:
            ValueError: there is no such file, it is no image, or a JPEG cut short.
        """
        path = self.root / self.names[index]
        try:
            with warnings.catch_warnings(), _open_regular(path) as file:
                # Pillow warns from half its own limit on; ours is below.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    width, height = image.size
                    is_jpeg = image.format == "JPEG"
                if is_jpeg:
                    _check_end(path, file)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing") from None
        except UnidentifiedImageError:
            raise ValueError(
                f"{path} cannot be read as an image (no format that is known)"
            ) from None
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error})") from None
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path} has {width} x {height} pixels, more than {MAX_PIXELS}")
        return width, height

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Decode at the smallest of 1, 1/2, 1/4, 1/8 that is still no smaller than the crop.

        Orientation tags are ignored: labels refer to the pixels as stored.

        Raises:
            ValueError: the file is missing, too large, cut short or cannot be decoded.
        """
        path = self.root / self.names[index]
        encoded = _read_bytes(path)
        is_jpeg = encoded.startswith(JPEG_MAGIC)
        if is_jpeg and JPEG_END not in encoded[-JPEG_TRAILER_BYTES:]:
            raise ValueError(CUT_SHORT.format(path))
        reduction = next(r for r in REDUCED_FLAGS if r == 1 or (is_jpeg and zoom * r <= 1))
        flags = REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        except cv2.error:
            bgr = None
        if bgr is None:
            raise ValueError(f"{path} cannot be decoded as an image: replace or remove it")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), reduction


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe is neither opened nor waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} cannot be read (no regular file)")
    return path.open("rb")


def _check_end(path: Path, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - JPEG_TRAILER_BYTES))
    if JPEG_END not in file.read(JPEG_TRAILER_BYTES):
        raise ValueError(CUT_SHORT.format(path))


def _read_bytes(path: Path) -> bytes:
    try:
        with _open_regular(path) as file:
            # Asked first: a read of up to the limit would set the limit's memory aside.
            size = os.fstat(file.fileno()).st_size
            encoded = file.read(size) if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if not encoded:
        raise ValueError(f"{path}: expected an image of 1 to {MAX_FILE_BYTES} bytes")
    return encoded
