"""What makes a sample unusable is found before training, and named."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from fpd.data.io.images import ImageFolder
from fpd.data.validation import check

JOINTS = np.tile([[40.0, 30.0], [60.0, 50.0]], (7, 1))  # (14, 2), inside the 120 x 90 pictures


def with_joint(joint: int, x: float, y: float) -> np.ndarray:
    joints = JOINTS.copy()
    joints[joint] = x, y
    return joints


def test_good_people_pass(make_people) -> None:
    check(make_people([JOINTS, with_joint(3, np.nan, np.nan)]))
    check(make_people(np.empty((0, 14, 2))))


def test_joints_a_little_outside_pass(make_people) -> None:
    """Up to one image side (the longer: 120) beyond an edge; annotators guess what is cut off."""
    check(make_people([with_joint(0, -119.0, -119.0), with_joint(5, 239.0, 209.0)]))


def test_nobody_labeled_passes_where_there_is_a_box(make_people) -> None:
    """The teacher teaches the images that nobody labeled, too."""
    check(make_people([np.full((14, 2), np.nan)]))


@pytest.mark.parametrize(
    ("joint", "x", "y", "message"),
    [
        (0, np.inf, 3.0, "a joint's coordinates are not finite"),
        (13, 3.0, -np.inf, "a joint's coordinates are not finite"),
        (4, np.nan, 3.0, "a joint's coordinates are not finite"),
        (4, 3.0, np.nan, "a joint's coordinates are not finite"),
        (2, 241.0, 3.0, r"right hip at \(241, 3\) is far outside its 120 x 90 image"),
        (3, 3.0, 211.0, r"left hip at \(3, 211\) is far outside its 120 x 90 image"),
        (12, -121.0, 3.0, r"neck at \(-121, 3\) is far outside its 120 x 90 image"),
        (13, 3.0, -121.0, r"head top at \(3, -121\) is far outside its 120 x 90 image"),
    ],
)
def test_impossible_joints_are_named(make_people, joint, x, y, message) -> None:
    people = make_people([JOINTS, with_joint(joint, x, y)])
    with pytest.raises(
        ValueError, match=f"^people: 1 of 2 samples cannot be used: person/1: {message}$"
    ):
        check(people)


@pytest.mark.parametrize("side", [0.0, 3.9, -50.0, np.nan, np.inf])
def test_impossible_box_sides_are_named(make_people, side) -> None:
    people = make_people([JOINTS, JOINTS], side=[100.0, side])
    with pytest.raises(ValueError, match=rf"1 of 2 .*: person/1: expected .*box.*found.* {side:g}"):
        check(people)


@pytest.mark.parametrize("center", [(np.nan, 1.0), (1.0, np.inf)])
def test_impossible_box_centers_are_named(make_people, center) -> None:
    people = make_people([JOINTS, JOINTS], center=[(50.0, 40.0), center])
    with pytest.raises(ValueError, match=r"1 of 2 .*: person/1: expected .*box"):
        check(people)


def test_a_message_about_the_center_shows_the_center(make_people) -> None:
    """ "Expected a box of at least 4 pixels, found side 100" would explain nothing."""
    with pytest.raises(ValueError, match=r"nan"):
        check(make_people([JOINTS], center=(np.nan, 1.0)))


def test_unusable_images_are_named(make_people, tmp_path) -> None:
    Image.new("RGB", (120, 90)).save(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    names = ["good.jpg", "missing.jpg", "text.jpg", "empty.jpg"]
    people = make_people([JOINTS] * 4, ImageFolder(tmp_path, names), ids=list("abcd"))
    with pytest.raises(ValueError, match=r"^people: 3 of 4 samples cannot be used: b: ") as error:
        check(people)
    for sample, name in (("b", "missing.jpg is missing"), ("c", "text.jpg"), ("d", "empty.jpg")):
        assert f"{sample}: {tmp_path / name.split()[0]}" in str(error.value)
        assert name in str(error.value)


def test_every_image_is_looked_at_through_its_own_index(make_people, tmp_path) -> None:
    """Several people may share an image, in any order."""
    Image.new("RGB", (120, 90)).save(tmp_path / "good.jpg")
    images = ImageFolder(tmp_path, ["missing.jpg", "good.jpg"])
    people = dataclasses.replace(
        make_people([JOINTS] * 3, images), image_N=np.array([1, 1, 1], dtype=np.int64)
    )
    check(people)
    with pytest.raises(ValueError, match=r"1 of 3 .*: person/1: .*missing\.jpg is missing$"):
        check(dataclasses.replace(people, image_N=np.array([1, 0, 1])))


def bad(make_people, count: int, of: int = 10) -> str:
    side = np.full(of, 100.0)
    side[:count] = 1.0
    with pytest.raises(ValueError, match="cannot be used") as error:
        check(make_people([JOINTS] * of, side=side))
    return str(error.value)


def test_several_problems_are_counted_and_all_named(make_people) -> None:
    message = bad(make_people, 5)
    assert message.startswith("people: 5 of 10 samples cannot be used: person/0: ")
    assert all(f"person/{i}: expected a box" in message for i in range(5))
    assert "more" not in message


def test_a_long_list_is_cut(make_people) -> None:
    message = bad(make_people, 8)
    assert message.startswith("people: 8 of 10 samples cannot be used: person/0: ")
    assert all(f"person/{i}: " in message for i in range(5)) and "person/5" not in message
    assert message.endswith("; and 3 more (`fpd check-data` lists all)")
    assert "; and 1 more" in bad(make_people, 6)
