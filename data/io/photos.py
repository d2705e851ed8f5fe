"""Photographs that a user names one by one or by the folder, and how they are turned.

Cameras store some pictures sideways, with a tag (EXIF orientation, 1 to 8) that says how to turn
them for viewing. A data set's labels refer to the pixels as stored, and its reader ignores the tag
(`images.ImageFolder`). Whoever names a photo means it as a viewer shows it: here the tag is obeyed,
unless asked otherwise, and boxes and joints refer to the picture as turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import ImageFolder

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""What is taken for an image in a folder; a file that is named itself may end in anything."""

MAX_PHOTOS = 1_000_000

ORIENTATION_TAG = 0x0112  # of EXIF 2.3, and of TIFF
AS_STORED = 1
SIDEWAYS = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""


def find_photos(named: Sequence[Path]) -> tuple[Path, ...]:
    """The files that are named, and the images that lie in the folders that are (not in theirs).

    Raises:
        ValueError: a name is of nothing, a folder has no image, or two images have one name.
    """
    found: dict[Path, None] = {}
    for path in named:
        found |= dict.fromkeys(_images_in(path) if path.is_dir() else [_existing(path)])
    if not 1 <= len(found) <= MAX_PHOTOS:
        raise ValueError(
            f"expected 1 to {MAX_PHOTOS} images, found {len(found)}: name files or folders"
        )
    by_name: dict[str, Path] = {}
    for path in found:
        other = by_name.setdefault(path.name, path)
        if other != path:
            raise ValueError(
                f"{other} and {path} have the same name, which results and boxes go by: predict "
                "them in two calls, each with its own -o"
            )
    return tuple(found)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"{path}: expected an image or a folder of images, found nothing there")
    return path


def _images_in(folder: Path) -> list[Path]:
    try:
        files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror})") from None
    if not files:
        raise ValueError(f"{folder}: expected images ({' '.join(sorted(SUFFIXES))}), found none")
    return sorted(files)


class Photos(ImageFolder):
    """Image files anywhere, turned as their orientation tags say."""

    def __init__(self, paths: Sequence[Path], *, as_stored: bool = False) -> None:
        """Take files without opening them.

        Args:
            as_stored: ignore the tags, as training does (but TIFF's, which are always obeyed).
        """
        super().__init__(Path(), [])
        self.names = tuple(map(str, paths))
        self.as_stored = as_stored

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, of the picture as turned; see `ImageFolder.size`."""
        width, height = super().size(index)
        return (height, width) if self._orientation(index) in SIDEWAYS else (width, height)

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Decode, and turn; see `ImageFolder.read`."""
        orientation = self._orientation(index)
        # Reduced, a picture whose sides 8 does not divide has its odd pixels at its right and
        # bottom, where `views.cut` has them; turned, they would lie elsewhere.
        image, reduction = super().read(index, zoom if orientation == AS_STORED else 1.0)
        return turn(image, orientation), reduction

    def _orientation(self, index: int) -> int:
        if self.as_stored:
            return AS_STORED
        try:
            with Image.open(self.names[index]) as image:
                if image.format == "TIFF":
                    return AS_STORED  # OpenCV and Pillow turn these themselves, asked or not
                value = image.getexif().get(ORIENTATION_TAG, AS_STORED)
        except Exception:  # Pillow raises many kinds for damaged metadata: viewers ignore it, too
            return AS_STORED
        return value if value in range(1, 9) else AS_STORED


def turn(image_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """A stored picture as its orientation tag has it shown (EXIF 2.3, 4.6.4, "Orientation").

    Args:
        orientation: 1 as stored, 2 mirrored left to right, 3 turned by half, 4 mirrored top to
            bottom, 5 mirrored on the main diagonal, 6 a quarter turn clockwise, 7 mirrored on the
            other diagonal, 8 a quarter turn counter-clockwise.

    Returns:
        uint8 (H, W, 3), or (W, H, 3) for 5 to 8; contiguous.
    """
    image = image_HW3.swapaxes(0, 1) if orientation in SIDEWAYS else image_HW3
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
