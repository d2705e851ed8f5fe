"""Unusable samples are found before training, and named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from fpd.data.io.images import ImageFolder
from fpd.data.validation import check, find_problems

JOINTS = np.tile([[40.0, 30.0], [60.0, 50.0]], (7, 1))  # (14, 2), inside the 120 x 90 images


def with_joint(joint: int, x: float, y: float) -> np.ndarray:
    joints = JOINTS.copy()
    joints[joint] = x, y
    return joints


def test_good_samples_pass(make_samples) -> None:
    check(make_samples([JOINTS, with_joint(3, np.nan, np.nan)]))
    check(make_samples(np.empty((0, 14, 2))))


def test_joints_a_little_outside_pass(make_samples) -> None:
    """By up to the longer image side (120): annotators estimate joints that are cut off."""
    check(make_samples([with_joint(0, -119.0, -119.0), with_joint(5, 239.0, 209.0)]))


def test_unlabeled_samples_with_a_box_pass(make_samples) -> None:
    """Students with a teacher train on them."""
    check(make_samples([np.full((14, 2), np.nan)]))


@pytest.mark.parametrize(
    ("joint", "x", "y", "message"),
    [
        (0, np.inf, 3.0, "a joint's coordinates are not finite"),
        (4, 3.0, np.nan, "a joint's coordinates are not finite"),
        (2, 241.0, 3.0, r"right hip at \(241, 3\) is far outside its 120 x 90 image"),
        (13, 3.0, -121.0, r"head top at \(3, -121\) is far outside its 120 x 90 image"),
    ],
)
def test_impossible_joints_are_named(make_samples, joint, x, y, message) -> None:
    samples = make_samples([JOINTS, with_joint(joint, x, y)])
    with pytest.raises(
        ValueError, match=f"^toy: 1 of 2 samples cannot be used: sample/1: {message}$"
    ):
        check(samples)


@pytest.mark.parametrize("side", [3.9, np.nan, np.inf])
def test_impossible_box_sides_are_named(make_samples, side) -> None:
    samples = make_samples([JOINTS, JOINTS], side=[100.0, side])
    with pytest.raises(ValueError, match=rf"1 of 2 .*: sample/1: expected .*box.*found.* {side:g}"):
        check(samples)


@pytest.mark.parametrize(("center", "value"), [((np.nan, 1.0), "nan"), ((1.0, np.inf), "inf")])
def test_impossible_box_centers_are_named(make_samples, center, value) -> None:
    samples = make_samples([JOINTS, JOINTS], center=[(50.0, 40.0), center])
    with pytest.raises(ValueError, match=rf"1 of 2 .*: sample/1: expected .*center.*{value}"):
        check(samples)


def test_unusable_images_are_named(make_samples, tmp_path) -> None:
    Image.new("RGB", (120, 90)).save(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    names = ["good.jpg", "missing.jpg", "text.jpg", "empty.jpg"]
    samples = make_samples([JOINTS] * 4, ImageFolder(tmp_path, names), ids=list("abcd"))
    with pytest.raises(ValueError, match=r"^toy: 3 of 4 samples cannot be used: b: ") as error:
        check(samples)
    for sample, name in (("b", "missing.jpg is missing"), ("c", "text.jpg"), ("d", "empty.jpg")):
        assert f"{sample}: {tmp_path / name.split()[0]}" in str(error.value)
        assert name in str(error.value)


def test_samples_may_share_images_in_any_order(make_samples, tmp_path) -> None:
    Image.new("RGB", (120, 90)).save(tmp_path / "good.jpg")
    images = ImageFolder(tmp_path, ["missing.jpg", "good.jpg"])
    samples = dataclasses.replace(
        make_samples([JOINTS] * 3, images), image_N=np.array([1, 1, 1], dtype=np.int64)
    )
    check(samples)
    with pytest.raises(
        ValueError,
        match=r"1 of 3 .*: sample/1: .*missing\.jpg is missing: restore it, or leave .*$",
    ):
        check(dataclasses.replace(samples, image_N=np.array([1, 0, 1])))


def test_images_and_folders_are_reported_once(make_samples, tmp_path) -> None:
    """Five people on a missing image, and three images in a missing folder."""
    Image.new("RGB", (120, 90)).save(tmp_path / "good.jpg")
    names = ["good.jpg", "missing.jpg", *(f"none/{i}.jpg" for i in range(3))]
    samples = dataclasses.replace(
        make_samples([JOINTS] * 9, ImageFolder(tmp_path, names)),
        image_N=np.array([0, 1, 1, 1, 1, 1, 2, 3, 4]),
    )
    image, folder = find_problems(samples)
    assert (image.sample, image.samples, image.of_image) == ("sample/1", 5, True)
    assert str(image).endswith("(4 more samples)") and "missing.jpg is missing" in str(image)
    assert (folder.sample, folder.samples) == ("sample/6", 3)
    assert folder.message.startswith(f"{tmp_path / 'none'} is missing, a folder")
    with pytest.raises(ValueError, match=r"^toy: 8 of 9 samples cannot be used: ") as error:
        check(samples)
    assert str(error.value).count("is missing") == 2


def message_for(make_samples, bad_count: int) -> str:
    """The message for ten samples, the first `bad_count` of which are unusable."""
    side = np.where(np.arange(10) < bad_count, 1.0, 100.0)
    with pytest.raises(ValueError, match="cannot be used") as error:
        check(make_samples([JOINTS] * 10, side=side))
    return str(error.value)


def test_up_to_five_problems_are_all_listed(make_samples) -> None:
    message = message_for(make_samples, 5)
    assert message.startswith("toy: 5 of 10 samples cannot be used: sample/0: ")
    assert all(f"sample/{i}: expected a box" in message for i in range(5))
    assert "more" not in message


def test_a_longer_list_is_truncated(make_samples) -> None:
    message = message_for(make_samples, 8)
    assert message.startswith("toy: 8 of 10 samples cannot be used: sample/0: ")
    assert all(f"sample/{i}: " in message for i in range(5)) and "sample/5" not in message
    assert message.endswith("; and 3 more (`fpd check-data` lists all)")
    assert "; and 1 more" in message_for(make_samples, 6)
