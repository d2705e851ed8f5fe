"""Photographs given by file or folder, rotated upright by their orientation tags.

Cameras store some pictures sideways, with a tag (EXIF orientation, 1 to 8) that specifies how to
rotate or flip them for display. A data set's labels refer to the pixels as stored, and its reader
ignores the tag (`images.ImageFolder`). For photographs given by a user, the tag is applied by
default, as image viewers do, and boxes and joints refer to the picture as displayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from .images import AS_STORED, TRANSPOSED, ImageFolder, read_orientation


class UprightFolder(ImageFolder):
    """Image files below one folder, with their orientation tags applied."""

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, orientation applied; see `ImageFolder.size`."""
        width, height = super().size(index)
        return (height, width) if self.orientation(index) in TRANSPOSED else (width, height)

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Decode an image and apply its orientation; see `ImageFolder.read`."""
        orientation = self.orientation(index)
        if orientation == AS_STORED:
            return super().read(index, zoom)
        # Not reduced: `views.crop_image` expects a reduced image's partial blocks (from sides that
        # the reduction does not divide) at the right and bottom; a rotation would move them.
        image, reduction = super().read(index, 1.0)
        return apply_orientation(image, orientation), reduction

    def note(self, index: int) -> str | None:
        """What a user should know of a readable image, besides its orientation; None: nothing."""
        return super().note(index) if self.orientation(index) == AS_STORED else None

    def orientation(self, index: int) -> int:
        """The tag that is applied, 1 to 8; 1 (`AS_STORED`): none."""
        if index not in self._orientations:  # Pillow decodes a whole PNG to look for a tag
            self._orientations[index] = read_orientation(self.path(index))
        return self._orientations[index]

    @cached_property
    def _orientations(self) -> dict[int, int]:
        return {}


class Photos(UprightFolder):
    """Image files anywhere, with their orientation tags applied."""

    def __init__(self, paths: Sequence[Path], *, as_stored: bool = False) -> None:
        """Use the files `paths`; none is opened yet.

        Args:
            as_stored: ignore the tags, as training does (except TIFF's, which always apply).
        """
        super().__init__(Path(), [])
        self.names = tuple(map(str, paths))
        self.as_stored = as_stored

    def path(self, index: int) -> Path:
        """The image's file, as given."""
        return Path(self.names[index])

    def orientation(self, index: int) -> int:
        """The tag that is applied, 1 to 8; 1 (`AS_STORED`): none."""
        return AS_STORED if self.as_stored else super().orientation(index)


def apply_orientation(image_HW3: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Rotate or flip a stored picture for display, by Pillow's `ImageOps.exif_transpose`.

    The pixels are decoded by OpenCV, as for training, so the tag is set on a Pillow image that is
    made from them: `exif_transpose` on the file would decode it a second time.

    Args:
        orientation: 1 to 8, as in EXIF.

    Returns:
        uint8 (H, W, 3), or (W, H, 3) for 5 to 8; contiguous.
    """
    image = Image.fromarray(image_HW3)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(image))
