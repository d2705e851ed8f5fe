"""Crops as JPEG: what is decoded is bounded, checked, and the same as OpenCV's."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from fpd.data.io.jpeg import decode_jpeg, encode_jpeg, max_jpeg_bytes
from fpd.data.readers.synthetic.people import synthetic_samples

CROP_PX = 64


def picture(crop_px: int = CROP_PX) -> NDArray[np.uint8]:
    """A drawn person."""
    image, _ = synthetic_samples("train", 2).images.read(1, 1.0)
    return np.asarray(cv2.resize(image, (crop_px, crop_px), interpolation=cv2.INTER_AREA), np.uint8)


def noise(crop_px: int = CROP_PX) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (crop_px, crop_px, 3), np.uint8)


def saved(crop: NDArray[np.uint8], kind: str = "JPEG", mode: str = "", **options: Any) -> bytes:
    """A file by Pillow, as somebody else may have put it into a store."""
    file, image = io.BytesIO(), Image.fromarray(crop)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def with_size(jpeg: bytes, height: int, width: int) -> bytes:
    """The file with another size in its header."""
    start = jpeg.index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return jpeg[:start] + size + jpeg[start + 4 :]


@pytest.mark.parametrize("crop_px", [16, 33, 64, 256])
def test_a_crop_is_the_same_up_to_what_jpeg_loses(crop_px: int) -> None:
    crop = picture(crop_px)
    decoded = decode_jpeg(encode_jpeg(crop, 95), crop_px)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (crop_px, crop_px, 3)
    assert np.abs(decoded.astype(int) - crop).mean() < 6  # chroma has half the resolution


def test_the_channels_are_red_green_and_blue() -> None:
    red = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
    red[..., 0] = 200
    decoded = decode_jpeg(encode_jpeg(red, 90), CROP_PX)
    np.testing.assert_allclose(decoded.reshape(-1, 3).mean(0), [200, 0, 0], atol=2)


@pytest.mark.parametrize("crop", [picture(), noise()], ids=["picture", "noise"])
@pytest.mark.parametrize("quality", [30, 90, 100])
def test_the_pixels_are_those_that_opencv_decodes(crop: NDArray[np.uint8], quality: int) -> None:
    encoded = encode_jpeg(crop, quality)
    by_opencv = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decode_jpeg(encoded, CROP_PX), by_opencv)


def test_bytes_and_arrays_decode_alike_and_the_pixels_can_be_changed() -> None:
    encoded = encode_jpeg(picture(), 90)
    array = np.frombuffer(encoded, np.uint8)
    decoded = decode_jpeg(array, CROP_PX)
    np.testing.assert_array_equal(decoded, decode_jpeg(encoded, CROP_PX))
    assert decoded.flags.writeable


def test_a_lower_quality_takes_fewer_bytes() -> None:
    sizes = [len(encode_jpeg(picture(256), quality)) for quality in (30, 60, 90, 100)]
    assert sizes == sorted(sizes)
    assert sizes[2] < max_jpeg_bytes(256) / 2


@pytest.mark.parametrize("crop_px", [16, 64, 256, 1024])
def test_noise_lowers_the_quality_until_it_fits(crop_px: int) -> None:
    encoded = encode_jpeg(noise(crop_px), 100)
    assert len(encoded) <= max_jpeg_bytes(crop_px)
    assert decode_jpeg(encoded, crop_px).shape == (crop_px, crop_px, 3)
    if crop_px > 64:  # in small crops, the allowance for the tables holds noise of full quality
        at_100 = cv2.imencode(".jpg", noise(crop_px), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
        assert len(at_100) > max_jpeg_bytes(crop_px)


def test_what_takes_too_many_bytes_at_any_quality_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fpd.data.io.jpeg.max_jpeg_bytes", lambda _: 100)
    with pytest.raises(RuntimeError, match="could not be encoded"):
        encode_jpeg(picture(), 90)


JPEG = encode_jpeg(picture(), 90)


def progressive_bomb(scans: int = 1000) -> bytes:
    """A progressive file whose last scan is repeated: 87,000 of them, 1 MB, take three minutes."""
    jpeg = saved(np.zeros((CROP_PX, CROP_PX, 3), np.uint8), progressive=True)
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[:start] + jpeg[start:-2] * scans + jpeg[-2:]


def scans_of_single_components() -> bytes:
    """A baseline file whose first scan has one component instead of three."""
    start = JPEG.index(b"\xff\xda")
    one = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return JPEG[:start] + one + JPEG[start + 14 :]


REFUSED = {
    "other size": encode_jpeg(picture(32), 90),
    "not square": with_size(JPEG, CROP_PX, CROP_PX + 8),
    "huge header": with_size(JPEG, 65500, 65500),
    "no height": with_size(JPEG, 0, CROP_PX),
    "gray": saved(picture()[..., 0]),
    "four channels": saved(picture(), mode="CMYK"),
    "not YCbCr": saved(picture(), keep_rgb=True),
    "progressive": saved(picture(), progressive=True),
    "progressive bomb": progressive_bomb(),
    "several scans": scans_of_single_components(),
    "large header": JPEG[:2] + 3 * (b"\xff\xfe\x03\xe8" + bytes(998)) + JPEG[2:],
    "truncated": JPEG[: len(JPEG) // 2],
    "header alone": JPEG[:20],
    "empty": b"",
    "zeros": bytes(500),
    "garbage": np.random.default_rng(1).bytes(500),
    "PNG": saved(picture(), "PNG"),
    "damaged": JPEG[:3] + bytes([JPEG[3] ^ 255]) + JPEG[4:],
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("read", [bytes, lambda content: np.frombuffer(content, np.uint8)])
def test_what_is_no_crop_is_refused(kind: str, read: Any) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode_jpeg(read(REFUSED[kind]), CROP_PX)


@pytest.mark.parametrize(
    "kind", ["other size", "not square", "huge header", "gray", "four channels", "progressive bomb"]
)
def test_it_is_refused_before_anything_is_decoded(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def decode(*_: object, **__: object) -> None:
        raise AssertionError("memory would be allocated by the file's own size")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    with pytest.raises(ValueError, match="expected a"):
        decode_jpeg(REFUSED[kind], CROP_PX)


def test_the_message_states_both_sizes() -> None:
    with pytest.raises(ValueError, match="expected a JPEG of 64 x 64 pixels in color, found 65500"):
        decode_jpeg(REFUSED["huge header"], CROP_PX)
