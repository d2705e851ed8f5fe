"""Photographs: oriented as image viewers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from fpd.data.io.photos import Photos


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, image: np.ndarray, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(image).save(path, exif=exif)
    return path


# EXIF 2.3, section 4.6.4: where the stored picture's rows and columns are in the displayed one.
DISPLAYED = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", DISPLAYED)
def test_orientations_are_those_of_the_standard(tmp_path: Path, orientation: int) -> None:
    photos = Photos([save(tmp_path / "a.png", noise(10, 16), orientation)])
    expected = DISPLAYED[orientation](noise(10, 16))
    image, reduction = photos.read(0, zoom=1.0)
    np.testing.assert_array_equal(image, expected)
    assert (reduction, photos.size(0)) == (1, expected.shape[1::-1])
    assert image.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".tif", ".webp"])
def test_other_formats_are_oriented_as_by_pillow(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(10, 16)).save(path, exif=exif, lossless=True)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    photos = Photos([path])
    np.testing.assert_array_equal(photos.read(0, zoom=1.0)[0], expected)
    assert photos.size(0) == (10, 16)


def test_a_rotated_jpeg_is_not_reduced(tmp_path: Path) -> None:
    """Its partial blocks would not be at the right and bottom."""
    path = save(tmp_path / "a.jpg", noise(161, 243), orientation=6)
    image, reduction = Photos([path]).read(0, zoom=0.1)
    assert (image.shape, reduction) == ((243, 161, 3), 1)
    plain = save(tmp_path / "b.jpg", noise(161, 243))
    assert Photos([plain]).read(0, zoom=0.1)[1] == 8


def test_tags_are_ignored_on_request(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(10, 16), orientation=6)
    photos = Photos([path], as_stored=True)
    np.testing.assert_array_equal(photos.read(0, 1.0)[0], noise(10, 16))
    assert photos.size(0) == (16, 10)


@pytest.mark.parametrize("orientation", [0, 9])
def test_undefined_orientations_are_ignored(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", noise(10, 16), orientation)
    np.testing.assert_array_equal(Photos([path]).read(0, 1.0)[0], noise(10, 16))


def test_damaged_metadata_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", noise(10, 16), orientation=6)
    content = path.read_bytes()
    header = content.index(b"Exif\0\0") + 6
    path.write_bytes(content[:header] + b"\xff" * 8 + content[header + 8 :])
    assert Photos([path]).size(0) == (16, 10)
    assert Photos([path]).read(0, 1.0)[0].shape == (10, 16, 3)
