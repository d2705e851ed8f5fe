"""Image files: decoded at the size a crop needs, and every unusable one named."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fpd.data import MAX_PIXELS
from fpd.data.io.images import ImageFolder


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """Red rises to the right, green downwards; blue stays at 30."""
    x, y = np.meshgrid(np.linspace(60, 250, width), np.linspace(60, 250, height))
    return np.stack([x, y, np.full_like(x, 30)], axis=-1).astype(np.uint8)


def encode(array: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """A one-bit gray PNG of any claimed size; `data` are its lines, a byte 0 before each."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data, 1))
        + chunk(b"IEND", b"")
    )


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    """A small JPEG whose frame header (SOF0: marker, length, precision, height, width) lies."""
    encoded = bytearray(encode(smooth(16, 16)))
    start = encoded.index(b"\xff\xc0") + 5
    encoded[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(encoded)


@pytest.fixture
def folder(tmp_path):
    """folder(encoded, name): an `ImageFolder` that holds this one file."""

    def write(encoded: bytes, name: str = "person.jpg") -> ImageFolder:
        (tmp_path / name).write_bytes(encoded)
        return ImageFolder(tmp_path, [name])

    return write


JPEG = encode(smooth(80, 60))


def test_pixels_are_rgb_as_stored(folder) -> None:
    image, reduction = folder(encode(smooth(80, 60), "PNG"), "person.png").read(0, 1.0)
    assert reduction == 1 and image.dtype == np.uint8
    np.testing.assert_array_equal(image, smooth(80, 60))


def test_a_jpeg_is_read_and_measured(folder) -> None:
    images = folder(JPEG)
    image, reduction = images.read(0, 1.0)
    assert images.size(0) == (80, 60)
    assert reduction == 1 and image.shape == (60, 80, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - smooth(80, 60)).max() <= 8


@pytest.mark.parametrize(
    ("zoom", "reduction"),
    [
        (3.0, 1),
        (1.0, 1),
        (0.51, 1),
        (0.5, 2),
        (0.26, 2),
        (0.25, 4),
        (0.126, 4),
        (0.125, 8),
        (0.01, 8),
    ],
)
def test_a_jpeg_is_reduced_as_far_as_the_crop_allows(folder, zoom, reduction) -> None:
    """Never so far that the crop would have to enlarge what was decoded: zoom x reduction <= 1."""
    image, found = folder(encode(smooth(203, 101))).read(0, zoom)
    assert found == reduction
    assert image.shape == (-(-101 // reduction), -(-203 // reduction), 3)


def test_a_reduced_jpeg_is_the_mean_of_its_blocks(folder) -> None:
    array = smooth(160, 120)
    image, _ = folder(encode(array)).read(0, 0.125)
    means = array.reshape(15, 8, 20, 8, 3).mean(axis=(1, 3))
    assert np.abs(image - means).max() < 4


def test_a_png_is_never_reduced(folder) -> None:
    image, reduction = folder(encode(smooth(80, 60), "PNG"), "person.png").read(0, 0.01)
    assert reduction == 1 and image.shape == (60, 80, 3)


def test_the_content_decides_what_a_file_is_not_its_name(folder) -> None:
    image, reduction = folder(encode(smooth(80, 60), "PNG"), "person.jpg").read(0, 0.01)
    assert reduction == 1
    np.testing.assert_array_equal(image, smooth(80, 60))


@pytest.mark.parametrize("zoom", [1.0, 0.1])
def test_a_gray_jpeg_has_three_equal_channels(folder, zoom) -> None:
    image, _ = folder(encode(smooth(80, 64)[..., 0])).read(0, zoom)
    assert image.ndim == 3 and image.shape[2] == 3
    assert (np.ptp(image, axis=2) == 0).all() and np.ptp(image) > 150


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16"])
def test_other_png_kinds_have_three_channels_of_bytes(folder, mode) -> None:
    file = io.BytesIO()
    Image.new(mode, (12, 8)).save(file, "PNG")
    image, _ = folder(file.getvalue(), "person.png").read(0, 1.0)
    assert image.shape == (8, 12, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("zoom", [1.0, 0.5])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_tags_are_ignored(folder, orientation, zoom) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    tagged = folder(encode(smooth(80, 60), exif=exif.tobytes()), "tagged.jpg")
    with Image.open(tagged.locate(0)) as image:
        assert image.getexif()[0x0112] == orientation
    plain = folder(JPEG, "plain.jpg")
    assert tagged.size(0) == (80, 60)
    np.testing.assert_array_equal(tagged.read(0, zoom)[0], plain.read(0, zoom)[0])


@pytest.mark.parametrize("name", ["/etc/person.jpg", "../person.jpg", "a/../../person.jpg", ".."])
def test_names_may_not_lead_out_of_the_folder(tmp_path, name) -> None:
    with pytest.raises(ValueError, match=r"^expected image names inside .*, got '") as error:
        ImageFolder(tmp_path, ["person.jpg", name])
    assert repr(name) in str(error.value) and str(tmp_path) in str(error.value)


def test_names_lead_into_folders(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "person..jpg").write_bytes(JPEG)
    images = ImageFolder(tmp_path, ["nobody.jpg", "a/b/person..jpg"])
    assert images.size(1) == (80, 60)
    assert images.locate(1) == str(tmp_path / "a" / "b" / "person..jpg")


def test_nothing_is_opened_before_it_is_asked_for(tmp_path) -> None:
    assert ImageFolder(tmp_path / "nowhere", ["person.jpg"]).names == ("person.jpg",)


def test_identity_changes_with_name_and_file_size(folder) -> None:
    first = folder(JPEG).identity(0)
    assert first == f"person.jpg {len(JPEG)}"
    assert folder(JPEG).identity(0) == first
    assert folder(JPEG + b"\0").identity(0) != first
    assert folder(JPEG, "other.jpg").identity(0) != first


def test_identity_does_not_name_the_folder(tmp_path) -> None:
    """A data set may be moved, and teacher and student may run on different machines."""
    identities = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "person.jpg").write_bytes(JPEG)
        identities.add(ImageFolder(tmp_path / place, ["person.jpg"]).identity(0))
    assert len(identities) == 1


def test_a_missing_file_is_named(tmp_path) -> None:
    images = ImageFolder(tmp_path, ["nobody.jpg"])
    path = str(tmp_path / "nobody.jpg")
    with pytest.raises(ValueError, match="is missing") as error:
        images.size(0)
    assert path in str(error.value)
    with pytest.raises(ValueError, match="No such file") as error:
        images.read(0, 1.0)
    assert path in str(error.value)


def test_a_folder_is_no_image(tmp_path) -> None:
    (tmp_path / "person.jpg").mkdir()
    images = ImageFolder(tmp_path, ["person.jpg"])
    for look in (lambda: images.size(0), lambda: images.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"person\.jpg cannot be read"):
            look()


@pytest.mark.parametrize(
    "encoded",
    [b"", b"This is a letter, not a picture.\n", b"\0" * 4000, JPEG[:2], JPEG[:2] + JPEG[-2:]],
    ids=["empty", "text", "zeros", "magic alone", "start and end alone"],
)
def test_what_is_no_image_is_named(folder, encoded) -> None:
    images = folder(encoded)
    for look in (lambda: images.size(0), lambda: images.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"person\.jpg"):
            look()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("zoom", [1.0, 0.1])
def test_a_jpeg_cut_short_is_refused(folder, share, zoom) -> None:
    """Decoders only warn of it, and fill the rest with gray."""
    images = folder(JPEG[: int(share * len(JPEG))])
    with pytest.raises(ValueError, match=r"person\.jpg is a JPEG cut short"):
        images.read(0, zoom)


def test_a_jpeg_may_be_padded(folder) -> None:
    image, _ = folder(JPEG + b"\0" * 1000).read(0, 1.0)
    assert image.shape == (60, 80, 3)


def test_a_png_cut_short_is_refused(folder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    encoded = encode(noise, "PNG")
    images = folder(encoded[: len(encoded) * 6 // 10], "person.png")
    with pytest.raises(ValueError, match=r"person\.png cannot be decoded"):
        images.read(0, 1.0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_header_that_claims_too_much_is_refused(folder, kind) -> None:
    encoded = {"PNG": png_header(60000, 60000), "JPEG": jpeg_of_claimed_size(60000, 60000)}[kind]
    images = folder(encoded)
    for look in (lambda: images.size(0), lambda: images.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"person\.jpg"):
            look()


def test_sizes_up_to_the_limit_are_measured_without_a_warning(folder) -> None:
    """Pillow warns, on standard error, of 90 million pixels and more; ours is the limit here."""
    assert 11000 * 11000 < MAX_PIXELS < 12000 * 12000
    assert folder(png_header(11000, 11000)).size(0) == (11000, 11000)


def test_sizes_above_the_limit_are_named(folder) -> None:
    with pytest.raises(ValueError, match=r"person\.jpg has 12000 x 12000 pixels, more than"):
        folder(png_header(12000, 12000)).size(0)


@pytest.mark.parametrize("first", ["fpd.data.io.images", "fpd.data.views", "fpd.data.readers"])
def test_no_more_than_the_limit_is_decoded_whatever_is_imported_first(tmp_path, first) -> None:
    """A file may have been replaced since it was checked: `read` has to hold the limit by itself.

    OpenCV reads its own limit from the environment once, when it is imported.
    """
    (tmp_path / "small.png").write_bytes(png_header(800, 800, bytes((1 + 100) * 800)))
    assert ImageFolder(tmp_path, ["small.png"]).read(0, 1.0)[0].shape == (800, 800, 3)
    side = 12000
    (tmp_path / "large.png").write_bytes(png_header(side, side, bytes((1 + side // 8) * side)))
    script = f"""
import {first}
from pathlib import Path
from fpd.data.io.images import ImageFolder
try:
    print("decoded", ImageFolder(Path({str(tmp_path)!r}), ["large.png"]).read(0, 1.0)[0].shape)
except ValueError as error:
    print("refused", error)
"""
    own = {k: v for k, v in os.environ.items() if k != "OPENCV_IO_MAX_IMAGE_PIXELS"}
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=own
    )
    assert done.stdout.startswith("refused") and "large.png" in done.stdout


def test_files_too_large_to_be_a_picture_are_refused(folder, monkeypatch) -> None:
    monkeypatch.setattr("fpd.data.io.images.MAX_FILE_BYTES", len(JPEG))
    assert folder(JPEG).read(0, 1.0)[0].shape == (60, 80, 3)
    with pytest.raises(ValueError, match=rf"person\.jpg: expected .* 1 to {len(JPEG)} bytes"):
        folder(JPEG + b"\0").read(0, 1.0)


def test_paths_are_taken_relative_to_the_root(folder, tmp_path, monkeypatch) -> None:
    folder(JPEG)
    monkeypatch.chdir(tmp_path.parent)
    images = ImageFolder(Path(tmp_path.name), ["person.jpg"])
    assert images.read(0, 1.0)[0].shape == (60, 80, 3)
