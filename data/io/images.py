"""Image files: checked, and decoded at the resolution that a crop needs."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from .. import MAX_PIXELS

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""The files of a folder that are images; a file given by name may have any suffix."""

COMMON_FORMATS = frozenset({"JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF"})
"""Pillow's names of the formats that every OpenCV decodes."""

MAX_FILE_BYTES = 1 << 28
JPEG_MAGIC = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
# In a scan's data, 0xFF is followed by 0 (a data byte), a restart marker (D0 to D7) or fill bytes
# (ITU T.81, B.1.1.2 and F.1.2.3); everything else is the marker of the next segment.
JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
JPEG_END_CODE = 0xD9
JPEG_WITHOUT_LENGTH = (0x01, 0xD8)
"""The markers TEM and SOI, which no length follows."""
MISSING_ADVICE = ": restore it, or leave it out with --set data.missing_images=skip"
CUT_SHORT = "{} is a JPEG cut short: replace or remove it"

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_DEPTH_OFFSET = 24
"""Of the bits per channel in a PNG: signature, IHDR's length and type, width, height (RFC 2083)."""
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SENSOR_BITS = (8, 10, 12, 14)
"""Bits per channel that cameras and microscopes store in 16-bit files without scaling them up."""

EXIF_NAMES = (b"Exif", b"eXIf", b"EXIF")
"""What precedes orientation tags in JPEG, PNG and WebP."""
AS_STORED = 1
"""The orientation of a picture that needs neither rotation nor flip."""
TRANSPOSED = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height (EXIF 2.3, section 4.6.4, "Orientation")."""

BAD_NAME = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(?:^|[/\\])\.\.(?:[/\\]|$)|[\0\ud800-\udfff]")
"""Absolute names (also of Windows), names with `..`, and names that no file can have."""

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

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        *,
        label_file: Path | None = None,
        labeled_size_N2: NDArray[np.int64] | None = None,
    ) -> None:
        """Use the files `names`, relative to `root`; none is opened yet.

        Args:
            label_file: the file that has the names, for messages.
            labeled_size_N2: int64, each image's (width, height) in pixels by the label file, 0
                where it has none; None: it has none at all.

        Raises:
            ValueError: a name is absolute or contains `..`.
        """
        self.root = root
        self.names = tuple(names)
        self.label_file = label_file
        self.labeled_size_N2 = labeled_size_N2
        check_names(self.names, root, label_file)

    def path(self, index: int) -> Path:
        """The image's file: under its name, or where that is missing, another spelling of it."""
        path = self.root / self.names[index]
        if path.exists():
            return path
        spelled = (self.root / name for name in _other_spellings(self.names[index]))
        return next((other for other in spelled if other.exists()), path)

    def locate(self, index: int) -> str:
        return str(self.root / self.names[index])

    def identity(self, index: int) -> str:
        """Name and size in bytes: detects a re-encoded file, but not an edit of the same size."""
        return f"{self.names[index]} {self.path(index).stat().st_size}"

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, from the file's header; a JPEG's end is checked too.

        Raises:
            ValueError: the file is missing, not an image that can be decoded, too large, a JPEG cut
                short, or of another size than in the label file.
        """
        path = self.root / self.names[index]
        try:
            path = self.path(index)
            with warnings.catch_warnings(), _open_regular(path) as file:
                # Pillow warns above half its own limit; `MAX_PIXELS` is checked below.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    width, height = image.size
                    _check_kind(path, image)
                _check_end(path, file)
        except FileNotFoundError:
            raise ValueError(_describe_missing(path)) from None
        except UnidentifiedImageError:
            raise ValueError(
                f"{path} cannot be read as an image (unknown format): replace it by a JPEG or PNG, "
                "or remove it"
            ) from None
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{path} cannot be read as an image ({error}): replace or remove it"
            ) from None
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{path} has {width} x {height} pixels, more than {MAX_PIXELS}: reduce or remove it"
            )
        self._check_labeled_size(index, path, (width, height))
        return width, height

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Decode a JPEG at the smallest of 1, 1/2, 1/4, 1/8 that keeps the crop's resolution.

        Other formats are never reduced. Orientation tags are ignored: labels refer to the pixels
        as stored. Of 16 bits per channel, the upper 8 are kept; of a picture that uses only the
        lower 8, 10, 12 or 14 bits, the upper 8 of those. See `ImageSource.read`.

        Raises:
            ValueError: the file is missing, too large, a JPEG cut short, or cannot be decoded.
        """
        path = self.path(index)
        encoded = _read_bytes(path)
        is_jpeg = encoded.startswith(JPEG_MAGIC)
        if is_jpeg and not is_whole_jpeg(encoded):
            raise ValueError(CUT_SHORT.format(path))
        reduction = next(r for r in REDUCED_FLAGS if r == 1 or (is_jpeg and zoom * r <= 1))
        bgr = _decode(encoded, REDUCED_FLAGS[reduction])
        if bgr is None:
            raise ValueError(f"{path} cannot be decoded as an image: replace or remove it")
        if (low := low_bit_pixels(encoded)) is not None:
            deep, bits = low
            bgr = (deep >> (bits - min(SENSOR_BITS))).astype(np.uint8)
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False), reduction

    def note(self, index: int) -> str | None:
        """What a user should know of a readable image; None: nothing.

        An orientation tag, unless the label file has the size of the stored pixels and not of the
        turned ones; or 16 bits per channel that do not use their range.
        """
        path = self.path(index)
        width, height = self.size(index)
        encoded = _read_bytes(path)
        # Pillow would decode a whole PNG to look for a tag.
        has_tags = any(name in encoded for name in EXIF_NAMES)
        orientation = read_orientation(path) if has_tags else AS_STORED
        sizes_differ = orientation in TRANSPOSED and width != height
        if orientation != AS_STORED and not (sizes_differ and self._labeled_size(index)):
            return (
                f"{path} has an orientation tag ({orientation}), which training ignores: its "
                "labels must refer to the pixels as stored"
            )
        if (low := low_bit_pixels(encoded)) is not None:
            return f"{path} uses the lower {low[1]} of its 16 bits, which are scaled to 8"
        return None

    def _labeled_size(self, index: int) -> tuple[int, int] | None:
        if self.labeled_size_N2 is None or not self.labeled_size_N2[index].all():
            return None
        width, height = self.labeled_size_N2[index].tolist()
        return width, height

    def _check_labeled_size(self, index: int, path: Path, stored: tuple[int, int]) -> None:
        """Check that an image has the size that the label file gives.

        Raises:
            ValueError: it has another one.
        """
        labeled = self._labeled_size(index)
        if labeled is None or labeled == stored:
            return
        text = f"{path} has {stored[0]} x {stored[1]} pixels, {self.label_file or 'its label'} says"
        if labeled == stored[::-1] and read_orientation(path) in TRANSPOSED:
            raise ValueError(
                f"{text} {labeled[0]} x {labeled[1]}, the size after turning it by its orientation "
                "tag, but training reads pixels as stored: turn the pixels and remove the tag, "
                "such as with `mogrify -auto-orient`"
            )
        raise ValueError(
            f"{text} {labeled[0]} x {labeled[1]}: restore the picture that was labeled, or correct "
            "the label file"
        )


def check_names(names: Sequence[str], root: Path, label_file: Path | None = None) -> None:
    """Check that names of images, relative to `root`, do not lead out of it.

    Raises:
        ValueError: a name is absolute, contains `..`, or is no possible name of a file.
    """
    for name in names:
        if BAD_NAME.search(name):
            source = "" if label_file is None else f"{label_file}: "
            raise ValueError(
                f"{source}expected image names inside {root}, got {name!r:.200}: write it relative "
                "to that folder, without `..`"
            )


def is_whole_jpeg(encoded: bytes) -> bool:
    """Whether a JPEG has its end marker, whatever follows it: padding, a video, a second picture.

    Segments are skipped by their lengths, so that the end of an embedded thumbnail does not count.
    """
    position = len(JPEG_MAGIC)
    while marker := JPEG_MARKER.search(encoded, position):
        code, position = marker.group(1)[0], marker.end()
        if code == JPEG_END_CODE:
            return True
        if code not in JPEG_WITHOUT_LENGTH:
            position += int.from_bytes(encoded[position : position + 2], "big")
    return False


def read_orientation(path: Path) -> int:
    """The orientation tag of an image, 1 to 8; 1 (`AS_STORED`) if it has none that is valid."""
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":
                return AS_STORED  # OpenCV and Pillow always rotate these themselves
            orientation = image.getexif().get(ExifTags.Base.Orientation, AS_STORED)
    except Exception:  # of many types; damaged metadata is ignored, as image viewers do
        return AS_STORED
    return orientation if orientation in range(1, 9) else AS_STORED


def low_bit_pixels(encoded: bytes) -> tuple[NDArray[np.uint16], int] | None:
    """The pixels of a picture with 16 bits per channel that uses only the lower ones.

    Returns:
        uint16 (H, W, 3) in OpenCV's order, and the number of bits in use, one of `SENSOR_BITS`;
        None for all other pictures.
    """
    is_deep_png = encoded.startswith(PNG_MAGIC) and encoded[PNG_DEPTH_OFFSET:][:1] == b"\x10"
    if not (is_deep_png or encoded.startswith(TIFF_MAGICS)):
        return None
    deep = _decode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if deep is None or deep.dtype != np.uint16:
        return None
    highest = int(deep.max(initial=0))
    bits = next((bits for bits in SENSOR_BITS if highest < 1 << bits), None)
    return None if bits is None else (deep, bits)


def _decode(encoded: bytes, flags: int) -> NDArray[Any] | None:
    """An image's pixels in OpenCV's order (B, G, R), without orientation; None: not decodable."""
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def _other_spellings(name: str) -> Iterator[str]:
    """The forms of a name in which the same file is often stored.

    Composed or decomposed accents (macOS writes the latter), and Windows' backslashes as slashes.
    """
    for text in dict.fromkeys((name, name.replace("\\", "/"))):
        for form in ("NFC", "NFD"):
            yield unicodedata.normalize(form, text)
        yield text


def _describe_missing(path: Path) -> str:
    """A missing file, or the outermost missing folder: the same text for all images in it."""
    for folder in reversed(path.parents):
        if not folder.is_dir():
            return (
                f"{folder} is missing, a folder with images: restore it, or correct data.root (in "
                "COCO's format also data.coco.train_images and data.coco.test_images)"
            )
    return f"{path} is missing{MISSING_ADVICE}"


def _check_kind(path: Path, image: Image.Image) -> None:
    """Check that OpenCV can decode what Pillow recognizes.

    Raises:
        ValueError: it cannot.
    """
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise ValueError(
            f"{path} has pixels of 32 bits or with signs: convert it to 8 or 16 bits without signs"
        )
    if image.format not in COMMON_FORMATS and not cv2.haveImageReader(str(path)):
        raise ValueError(
            f"{path} is a picture of format {image.format}, which cannot be decoded: convert it to "
            "JPEG or PNG"
        )


def _open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or device is refused without opening it."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} cannot be read (not a regular file): replace or remove it")
    return path.open("rb")


def _check_end(path: Path, file: BinaryIO) -> None:
    """Check that a JPEG is whole; only one that does not end with its end marker is read for that.

    Raises:
        ValueError: it is cut short, or larger than `MAX_FILE_BYTES`.
    """
    file.seek(0)
    if file.read(len(JPEG_MAGIC)) != JPEG_MAGIC:
        return
    file.seek(-len(JPEG_END), os.SEEK_END)
    if file.read() != JPEG_END and not is_whole_jpeg(_read_bytes(path)):
        raise ValueError(CUT_SHORT.format(path))


def _read_bytes(path: Path) -> bytes:
    try:
        with _open_regular(path) as file:
            # `read(n)` allocates n bytes, so n is the file's size, not the limit.
            size = os.fstat(file.fileno()).st_size
            encoded = file.read(size) if size <= MAX_FILE_BYTES else b""
    except FileNotFoundError:
        raise ValueError(_describe_missing(path)) from None
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): replace or remove it"
        ) from None
    if not encoded:
        raise ValueError(
            f"{path}: expected an image of 1 to {MAX_FILE_BYTES} bytes: replace or remove it"
        )
    return encoded
