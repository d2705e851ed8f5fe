"""Photographs: found by file and folder, turned as viewers turn them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from fpd.data.io.photos import Photos, find_photos, turn


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def save(path: Path, image: np.ndarray, orientation: int | None = None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_pictures_are_turned_as_pillow_turns_them(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(10, 16)).save(path, exif=exif, lossless=True)
    expected = np.array(ImageOps.exif_transpose(Image.open(path)))
    photos = Photos([path])
    found, reduction = photos.read(0, zoom=1.0)
    np.testing.assert_array_equal(found, expected)
    assert (reduction, photos.size(0)) == (1, expected.shape[1::-1])
    assert found.flags.c_contiguous


def test_a_turned_jpeg_is_not_reduced(tmp_path: Path) -> None:
    """Else its odd pixels would lie where nobody looks for them."""
    path = save(tmp_path / "a.jpg", noise(161, 243), orientation=6)
    found, reduction = Photos([path]).read(0, zoom=0.1)
    assert (found.shape, reduction) == ((243, 161, 3), 1)
    plain = save(tmp_path / "b.jpg", noise(161, 243))
    assert Photos([plain]).read(0, zoom=0.1)[1] == 8


def test_tags_are_ignored_on_request(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", noise(10, 16), orientation=6)
    photos = Photos([path], as_stored=True)
    np.testing.assert_array_equal(photos.read(0, 1.0)[0], noise(10, 16))
    assert photos.size(0) == (16, 10)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_tags_that_mean_nothing_are_ignored(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", noise(10, 16), orientation)
    np.testing.assert_array_equal(Photos([path]).read(0, 1.0)[0], noise(10, 16))


def test_damaged_metadata_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", noise(10, 16), orientation=6)
    content = path.read_bytes()
    header = content.index(b"Exif\0\0") + 6
    path.write_bytes(content[:header] + b"\xff" * 8 + content[header + 8 :])
    assert Photos([path]).size(0) == (16, 10)
    assert Photos([path]).read(0, 1.0)[0].shape == (10, 16, 3)


def test_turning_by_half_is_turning_the_array_about() -> None:
    image = noise(3, 4)
    np.testing.assert_array_equal(turn(image, 3), image[::-1, ::-1])
    np.testing.assert_array_equal(turn(image, 6), cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE))


def test_folders_give_their_images_in_order(tmp_path: Path) -> None:
    (tmp_path / "more" / "below").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "notes.txt", "more/c.jpeg", "more/below/d.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = find_photos([tmp_path, tmp_path / "more" / "c.jpeg", tmp_path / "a.png"])
    assert [path.name for path in found] == ["a.png", "b.JPG", "c.jpeg"]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x/a\.jpg and .*y/a\.jpg have the same name"):
        find_photos([tmp_path / "x", tmp_path / "y"])


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: expected an image or a folder"):
        find_photos([tmp_path / "a.jpg"])
    with pytest.raises(ValueError, match=r"expected images .* found none"):
        find_photos([tmp_path])
