"""Image files: decoded at the resolution a crop needs; unusable ones are named."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fpd.data import MAX_PIXELS
from fpd.data.io.images import ImageFolder, is_whole_jpeg


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """Red increases to the right, green downwards; blue is 30."""
    x, y = np.meshgrid(np.linspace(60, 250, width), np.linspace(60, 250, height))
    return np.stack([x, y, np.full_like(x, 30)], axis=-1).astype(np.uint8)


def encode(array: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int, data: bytes = b"") -> bytes:
    """A one-bit gray PNG of any declared size; `data`: its rows, each after a byte 0."""

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


def jpeg_of_declared_size(width: int, height: int) -> bytes:
    """A small JPEG with a false size in SOF0 (marker, length, precision, height, width)."""
    encoded = bytearray(encode(smooth(16, 16)))
    start = encoded.index(b"\xff\xc0") + 5
    encoded[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(encoded)


@pytest.fixture
def folder(tmp_path):
    """folder(encoded, name): an `ImageFolder` with this one file."""

    def write(encoded: bytes, name: str = "photo.jpg") -> ImageFolder:
        (tmp_path / name).write_bytes(encoded)
        return ImageFolder(tmp_path, [name])

    return write


JPEG = encode(smooth(80, 60))


def test_pixels_are_rgb_as_stored(folder) -> None:
    image, reduction = folder(encode(smooth(80, 60), "PNG"), "photo.png").read(0, 1.0)
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
        (0.51, 1),
        (0.5, 2),
        (0.25, 4),
        (0.126, 4),
        (0.125, 8),
        (0.01, 8),
    ],
)
def test_a_jpeg_is_reduced_as_far_as_the_crop_allows(folder, zoom, reduction) -> None:
    """The crop never enlarges the decoded image: zoom x reduction <= 1."""
    image, actual_reduction = folder(encode(smooth(203, 101))).read(0, zoom)
    assert actual_reduction == reduction
    assert image.shape == (-(-101 // reduction), -(-203 // reduction), 3)


def test_a_reduced_jpeg_is_the_mean_of_its_blocks(folder) -> None:
    array = smooth(160, 120)
    image, _ = folder(encode(array)).read(0, 0.125)
    means = array.reshape(15, 8, 20, 8, 3).mean(axis=(1, 3))
    assert np.abs(image - means).max() < 4


def test_a_png_is_never_reduced(folder) -> None:
    image, reduction = folder(encode(smooth(80, 60), "PNG"), "photo.png").read(0, 0.01)
    assert reduction == 1 and image.shape == (60, 80, 3)


def test_the_format_is_detected_from_the_content(folder) -> None:
    image, reduction = folder(encode(smooth(80, 60), "PNG"), "photo.jpg").read(0, 0.01)
    assert reduction == 1
    np.testing.assert_array_equal(image, smooth(80, 60))


@pytest.mark.parametrize("zoom", [1.0, 0.1])
def test_a_gray_jpeg_has_three_equal_channels(folder, zoom) -> None:
    image, _ = folder(encode(smooth(80, 64)[..., 0])).read(0, zoom)
    assert image.ndim == 3 and image.shape[2] == 3
    assert (np.ptp(image, axis=2) == 0).all() and np.ptp(image) > 150


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "I;16"])
def test_other_png_kinds_have_three_channels_of_bytes(folder, mode) -> None:
    file = io.BytesIO()
    Image.new(mode, (12, 8)).save(file, "PNG")
    image, _ = folder(file.getvalue(), "photo.png").read(0, 1.0)
    assert image.shape == (8, 12, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_orientation_tags_are_ignored(folder, zoom) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    tagged = folder(encode(smooth(80, 60), exif=exif.tobytes()), "tagged.jpg")
    with Image.open(tagged.locate(0)) as image:
        assert image.getexif()[ExifTags.Base.Orientation] == 6
    plain = folder(JPEG, "plain.jpg")
    assert tagged.size(0) == (80, 60)
    np.testing.assert_array_equal(tagged.read(0, zoom)[0], plain.read(0, zoom)[0])


@pytest.mark.parametrize("name", ["/etc/photo.jpg", "a/../../photo.jpg"])
def test_names_may_not_lead_out_of_the_folder(tmp_path, name) -> None:
    with pytest.raises(ValueError, match=r"^expected image names inside .*, got '") as error:
        ImageFolder(tmp_path, ["photo.jpg", name])
    assert repr(name) in str(error.value) and str(tmp_path) in str(error.value)


def test_names_may_contain_folders(tmp_path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "photo..jpg").write_bytes(JPEG)
    images = ImageFolder(tmp_path, ["missing.jpg", "a/b/photo..jpg"])
    assert images.size(1) == (80, 60)
    assert images.locate(1) == str(tmp_path / "a" / "b" / "photo..jpg")


def test_files_are_not_opened_before_they_are_read(tmp_path) -> None:
    assert ImageFolder(tmp_path / "nowhere", ["photo.jpg"]).names == ("photo.jpg",)


def test_identity_changes_with_name_and_file_size(folder) -> None:
    identity = folder(JPEG).identity(0)
    assert identity == f"photo.jpg {len(JPEG)}"
    assert folder(JPEG).identity(0) == identity
    assert folder(JPEG + b"\0").identity(0) != identity
    assert folder(JPEG, "other.jpg").identity(0) != identity


def test_identity_does_not_contain_the_folder(tmp_path) -> None:
    """Data sets may be moved; teacher and student may run on different machines."""
    identities = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_bytes(JPEG)
        identities.add(ImageFolder(tmp_path / name, ["photo.jpg"]).identity(0))
    assert len(identities) == 1


def test_a_missing_file_is_named(tmp_path) -> None:
    images = ImageFolder(tmp_path, ["missing.jpg"])
    path = str(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match="is missing") as error:
        images.size(0)
    assert path in str(error.value)
    with pytest.raises(ValueError, match="is missing: restore it, or leave it out with") as error:
        images.read(0, 1.0)
    assert path in str(error.value)


def test_a_folder_is_not_an_image(tmp_path) -> None:
    (tmp_path / "photo.jpg").mkdir()
    images = ImageFolder(tmp_path, ["photo.jpg"])
    for use in (lambda: images.size(0), lambda: images.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"photo\.jpg cannot be read"):
            use()


@pytest.mark.parametrize(
    "encoded",
    [b"", b"This is a letter, not an image.\n", JPEG[:2] + JPEG[-2:]],
    ids=["empty", "text", "JPEG start and end markers only"],
)
def test_files_that_are_not_images_are_named(folder, encoded) -> None:
    images = folder(encoded)
    for use in (lambda: images.size(0), lambda: images.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"photo\.jpg"):
            use()


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_jpeg_cut_short_is_refused(folder, share) -> None:
    """Decoders only warn, and fill the rest with gray."""
    images = folder(JPEG[: int(share * len(JPEG))])
    for zoom in (1.0, 0.1):
        with pytest.raises(ValueError, match=r"photo\.jpg is a JPEG cut short"):
            images.read(0, zoom)


def test_a_jpeg_cut_short_is_refused_without_decoding_it(folder) -> None:
    with pytest.raises(ValueError, match=r"photo\.jpg is a JPEG cut short"):
        folder(JPEG[:-10]).size(0)


def test_a_jpeg_may_have_trailing_padding(folder) -> None:
    image, _ = folder(JPEG + b"\0" * 1000).read(0, 1.0)
    assert image.shape == (60, 80, 3)


@pytest.mark.parametrize("trailer", [b"\0" * 9000, b"\0\0\0\x18ftypmp42" + bytes(60000), JPEG])
def test_a_jpeg_with_data_behind_its_end_is_whole(folder, trailer) -> None:
    """Phones append a video ("motion photo") or a second picture (MPO)."""
    images = folder(JPEG + trailer)
    assert images.size(0) == (80, 60)
    np.testing.assert_array_equal(images.read(0, 1.0)[0], folder(JPEG, "a.jpg").read(0, 1.0)[0])


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 2}, {}])
def test_every_kind_of_jpeg_has_its_end_found(options) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    encoded = encode(noise, **options)
    assert is_whole_jpeg(encoded) and is_whole_jpeg(encoded + b"\0" * 9)
    assert not any(is_whole_jpeg(encoded[:end]) for end in range(2, len(encoded), 97))
    assert not is_whole_jpeg(encoded[:-2] + b"\0" * 5000)


def test_the_end_of_a_thumbnail_is_not_the_end(folder) -> None:
    """An EXIF thumbnail is a whole JPEG in the header of another."""
    segment = b"Exif\0\0" + encode(smooth(16, 16))
    header = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    whole = header + JPEG[2:]
    assert folder(whole).size(0) == (80, 60)
    cut = folder(whole[: len(whole) * 9 // 10])
    assert JPEG[-2:] in whole[: len(whole) * 9 // 10][-4096:]
    for use in (lambda: cut.size(0), lambda: cut.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"photo\.jpg is a JPEG cut short"):
            use()


def gray_16(values: NDArray[np.uint16], suffix: str) -> bytes:
    return bytes(cv2.imencode(suffix, values)[1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_pictures_are_scaled_to_the_bits_in_use(folder, suffix, bits, channels) -> None:
    """A microscope's 12 bits, taken for 16, would be nearly black."""
    values = np.linspace(0, 2**bits - 1, 240).astype(np.uint16).reshape(12, 20)
    picture = values if channels == 1 else np.dstack([values] * 3)
    images = folder(gray_16(picture, suffix), f"photo{suffix}")
    image, _ = images.read(0, 1.0)
    expected = np.dstack([values >> (bits - 8)] * 3)
    assert np.abs(image.astype(int) - expected).max() <= 1  # OpenCV rounds 16-bit TIFF
    assert image.max() == 255
    note = images.note(0)
    if bits == 16:
        assert note is None
    else:
        assert f"photo{suffix} uses the lower {bits} of its 16 bits" in note


def test_pixels_of_32_bits_are_refused(folder) -> None:
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 80, dtype=np.float32).reshape(8, 10)).save(file, "TIFF")
    with pytest.raises(ValueError, match=r"photo\.tif has pixels of 32 bits .* convert it to 8"):
        folder(file.getvalue(), "photo.tif").size(0)


def test_formats_that_cannot_be_decoded_are_refused_by_their_header(folder) -> None:
    file = io.BytesIO()
    Image.fromarray(smooth(12, 8)).save(file, "TGA")
    with pytest.raises(ValueError, match=r"photo\.tga is .* format TGA.*: convert it to JPEG"):
        folder(file.getvalue(), "photo.tga").size(0)


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_are_found_in_either_form(tmp_path, written, stored) -> None:
    """macOS' tools write names decomposed, others composed."""
    name = "café/é.jpg"
    path = tmp_path / unicodedata.normalize(stored, name)
    path.parent.mkdir()
    path.write_bytes(JPEG)
    listed = unicodedata.normalize(written, name)
    images = ImageFolder(tmp_path, [listed])
    assert images.size(0) == (80, 60) and images.read(0, 1.0)[0].shape == (60, 80, 3)
    assert images.identity(0) == f"{listed} {len(JPEG)}"


def test_names_that_differ_in_their_form_alone_are_told_apart(tmp_path) -> None:
    for form, width in (("NFC", 80), ("NFD", 40)):
        (tmp_path / unicodedata.normalize(form, "é.jpg")).write_bytes(encode(smooth(width, 60)))
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    images = ImageFolder(tmp_path, names)
    assert [images.size(index)[0] for index in range(2)] == [80, 40]


def test_backslashes_separate_folders_too(tmp_path) -> None:
    (tmp_path / "day1").mkdir()
    (tmp_path / "day1" / "x.jpg").write_bytes(JPEG)
    assert ImageFolder(tmp_path, ["day1\\x.jpg"]).size(0) == (80, 60)


@pytest.mark.parametrize(
    "name", ["C:\\x.jpg", "\\\\host\\x.jpg", "a\\..\\..\\x.jpg", "a\0.jpg", "\ud800"]
)
def test_other_names_outside_the_folder(tmp_path, name) -> None:
    with pytest.raises(ValueError, match=r"^labels\.json: expected image names inside .*relative"):
        ImageFolder(tmp_path, [name], label_file=Path("labels.json"))


def test_a_missing_folder_has_one_message_for_all_its_images(tmp_path) -> None:
    images = ImageFolder(tmp_path, ["a/b/1.jpg", "a/b/2.jpg", "a/c/3.jpg"])
    messages = set()
    for index in range(3):
        for use in (lambda i=index: images.size(i), lambda i=index: images.read(i, 1.0)):
            with pytest.raises(ValueError, match="is missing, a folder") as error:
                use()
            messages.add(str(error.value))
    (message,) = messages
    assert message.startswith(f"{tmp_path / 'a'} is missing") and "data.root" in message


def labeled(tmp_path: Path, encoded: bytes, size: tuple[int, int]) -> ImageFolder:
    (tmp_path / "photo.jpg").write_bytes(encoded)
    return ImageFolder(
        tmp_path,
        ["photo.jpg"],
        label_file=Path("labels.json"),
        labeled_size_N2=np.array([size], np.int64),
    )


def tagged(width: int, height: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(smooth(width, height), exif=exif.tobytes())


def test_sizes_that_contradict_the_label_file_are_refused(tmp_path) -> None:
    assert labeled(tmp_path, JPEG, (80, 60)).size(0) == (80, 60)
    assert labeled(tmp_path, JPEG, (0, 0)).size(0) == (80, 60)  # the file does not give one
    with pytest.raises(
        ValueError, match=r"photo\.jpg has 80 x 60 pixels, labels\.json says 160 x 120: restore"
    ):
        labeled(tmp_path, JPEG, (160, 120)).size(0)


def test_labels_of_turned_pictures_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"says 60 x 80, the size after turning it .*auto-orient"):
        labeled(tmp_path, tagged(80, 60, 6), (60, 80)).size(0)
    stored = labeled(tmp_path, tagged(80, 60, 6), (80, 60))
    assert stored.size(0) == (80, 60) and stored.note(0) is None


@pytest.mark.parametrize(
    ("encoded", "size"),
    [(tagged(80, 60, 3), (80, 60)), (tagged(60, 60, 6), (60, 60)), (tagged(80, 60, 6), (0, 0))],
    ids=["upside down", "square", "no size"],
)
def test_orientation_tags_that_sizes_do_not_explain_are_told(tmp_path, encoded, size) -> None:
    note = labeled(tmp_path, encoded, size).note(0)
    assert note is not None and "orientation tag" in note and "as stored" in note
    assert labeled(tmp_path, JPEG, (80, 60)).note(0) is None


def test_a_png_cut_short_is_refused(folder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    encoded = encode(noise, "PNG")
    images = folder(encoded[: len(encoded) * 6 // 10], "photo.png")
    with pytest.raises(ValueError, match=r"photo\.png cannot be decoded"):
        images.read(0, 1.0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_headers_with_too_large_sizes_are_refused(folder, kind) -> None:
    encoded = {"PNG": png_header(60000, 60000), "JPEG": jpeg_of_declared_size(60000, 60000)}[kind]
    images = folder(encoded)
    for use in (lambda: images.size(0), lambda: images.read(0, 1.0)):
        with pytest.raises(ValueError, match=r"photo\.jpg"):
            use()


def test_sizes_up_to_the_limit_are_accepted_without_a_warning(folder) -> None:
    """Pillow alone would warn from 90 million pixels on."""
    assert 11000 * 11000 < MAX_PIXELS < 12000 * 12000
    assert folder(png_header(11000, 11000)).size(0) == (11000, 11000)


def test_sizes_above_the_limit_are_named(folder) -> None:
    with pytest.raises(ValueError, match=r"photo\.jpg has 12000 x 12000 pixels, more than"):
        folder(png_header(12000, 12000)).size(0)


def test_images_above_the_limit_are_not_decoded(tmp_path) -> None:
    """A file may be replaced after its size was checked, so `read` enforces the limit itself.

    In a new process: OpenCV reads its limit from the environment once, when it is imported.
    """
    (tmp_path / "small.png").write_bytes(png_header(800, 800, bytes((1 + 100) * 800)))
    assert ImageFolder(tmp_path, ["small.png"]).read(0, 1.0)[0].shape == (800, 800, 3)
    side = 12000
    (tmp_path / "large.png").write_bytes(png_header(side, side, bytes((1 + side // 8) * side)))
    script = f"""
from pathlib import Path
from fpd.data.io.images import ImageFolder
try:
    print("decoded", ImageFolder(Path({str(tmp_path)!r}), ["large.png"]).read(0, 1.0)[0].shape)
except ValueError as error:
    print("refused", error)
"""
    environment = {k: v for k, v in os.environ.items() if k != "OPENCV_IO_MAX_IMAGE_PIXELS"}
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment
    ).stdout
    assert output.startswith("refused") and "large.png" in output


def test_too_large_files_are_refused(folder, monkeypatch) -> None:
    monkeypatch.setattr("fpd.data.io.images.MAX_FILE_BYTES", len(JPEG))
    assert folder(JPEG).read(0, 1.0)[0].shape == (60, 80, 3)
    with pytest.raises(ValueError, match=rf"photo\.jpg: expected .* 1 to {len(JPEG)} bytes"):
        folder(JPEG + b"\0").read(0, 1.0)


def test_the_root_may_be_relative(folder, tmp_path, monkeypatch) -> None:
    folder(JPEG)
    monkeypatch.chdir(tmp_path.parent)
    images = ImageFolder(Path(tmp_path.name), ["photo.jpg"])
    assert images.read(0, 1.0)[0].shape == (60, 80, 3)
