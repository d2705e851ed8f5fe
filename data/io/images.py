"""Image files: checked, and decoded at the resolution that a crop needs."""

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

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""The files of a folder that are images; a file given by name may have any suffix."""

MAX_FILE_BYTES = 1 << 28
JPEG_MAGIC = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
# Some cameras write padding after the end marker.
JPEG_TRAILER_BYTES = 4096
CUT_SHORT = "{} is a JPEG cut short: replace or remove it"

# libjpeg can reduce by these factors while decoding, by using fewer DCT coefficients. That is
# faster and averages over areas: no aliasing when the crop is much smaller than the image.
REDUCED_FLAGS = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


class ImageFolder:
    """Image files below one folder.

    Names come from label files, which are not trusted: absolute names and names with `..` are
    refused. Symbolic links are followed: they are on the user's own disk, where data sets are often
    linked together. Only regular files are opened: reading a pipe or a device might never end.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        """Use the files `names`, relative to `root`; none is opened yet.

        Raises:
            ValueError: a name is absolute or contains `..`.
        """
        self.root = root
        self.names = tuple(names)
        for name in self.names:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"expected image names inside {root}, got {name!r}")

    def locate(self, index: int) -> str:
        return str(self.root / self.names[index])

    def identity(self, index: int) -> str:
        """Name and size in bytes: detects a re-encoded file, but not an edit of the same size."""
        return f"{self.names[index]} {(self.root / self.names[index]).stat().st_size}"

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, from the file's header; a JPEG's end is checked too.

        Raises:
            ValueError: the file is missing, not an image, too large, or a JPEG cut short.
        """
        path = self.root / self.names[index]
        try:
            with warnings.catch_warnings(), _open_regular(path) as file:
                # Pillow warns above half its own limit; `MAX_PIXELS` is checked below.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    width, height = image.size
                    is_jpeg = image.format == "JPEG"
                if is_jpeg:
                    _check_end(path, file)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing") from None
        except UnidentifiedImageError:
            raise ValueError(f"{path} cannot be read as an image (unknown format)") from None
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error})") from None
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path} has {width} x {height} pixels, more than {MAX_PIXELS}")
        return width, height

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Decode a JPEG at the smallest of 1, 1/2, 1/4, 1/8 that keeps the crop's resolution.

        Other formats are never reduced. Orientation tags are ignored: labels refer to the pixels
        as stored. See `ImageSource.read`.

        Raises:
            ValueError: the file is missing, too large, a JPEG cut short, or cannot be decoded.
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
    """Open a file for reading; a pipe or device is refused without opening it."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} cannot be read (not a regular file)")
    return path.open("rb")


def _check_end(path: Path, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - JPEG_TRAILER_BYTES))
    if JPEG_END not in file.read(JPEG_TRAILER_BYTES):
        raise ValueError(CUT_SHORT.format(path))


def _read_bytes(path: Path) -> bytes:
    try:
        with _open_regular(path) as file:
            # `read(n)` allocates n bytes, so n is the file's size, not the limit.
            size = os.fstat(file.fileno()).st_size
            encoded = file.read(size) if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    if not encoded:
        raise ValueError(f"{path}: expected an image of 1 to {MAX_FILE_BYTES} bytes")
    return encoded
