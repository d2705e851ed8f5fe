"""MPII's own label file: nested like the published one, and as incomplete here and there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fpd.data.datasets import Data, load, read
from fpd.data.readers import mpii_official
from fpd.data.readers.mpii_official import FILE
from fpd.data.skeletons import MPII

EMPTY = np.zeros((0, 0))


def struct(**fields: Any) -> np.ndarray:
    made = np.zeros((1, 1), dtype=[(name, "O") for name in fields])
    for name, value in fields.items():
        made[0, 0][name] = value
    return made


def row(structs: list[np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Structs as one 1 x N array; what one of them lacks is an empty array there."""
    made = np.zeros((1, len(structs)), dtype=[(name, "O") for name in names])
    for index, one in enumerate(structs):
        for name in names:
            made[0, index][name] = one[0, 0][name] if name in one.dtype.names else EMPTY
    return made


POINT = ("x", "y", "id", "is_visible")
RECT = ("x1", "y1", "x2", "y2", "annopoints", "scale", "objpos")
FIELDS = ("annolist", "img_train", "version", "single_person", "act", "video_list")


def points(first: float, joints: range = range(16), visible: Any = 1) -> np.ndarray:
    """Joint k at (first + k, 20 + 2 k), 1-based."""
    made = [struct(x=first + k, y=20.0 + 2 * k, id=k, is_visible=visible) for k in joints]
    return struct(point=row(made, POINT))


def person(first: float = 10.0, **changes: Any) -> np.ndarray:
    fields = {
        "x1": 10.0,
        "y1": 20.0,
        "x2": 40.0,
        "y2": 60.0,
        "annopoints": points(first),
        "scale": 0.5,
        "objpos": struct(x=41.0, y=30.0),
    }
    return struct(**{k: v for k, v in (fields | changes).items() if v is not None})


def image(name: str, people: list[np.ndarray], fields: tuple[str, ...] = RECT) -> np.ndarray:
    rects = row(people, fields) if people else EMPTY
    return struct(image=struct(name=name), annorect=rects, frame_sec=EMPTY, vididx=EMPTY)


def write(root: Path, images: list[np.ndarray], train: list[int] | None = None) -> Path:
    annolist = row(images, ("image", "annorect", "frame_sec", "vididx"))
    flags = np.array([train if train is not None else [1] * len(images)], np.uint8)
    release = dict.fromkeys(FIELDS, EMPTY) | {"annolist": annolist, "img_train": flags}
    path = root / "mpii" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"RELEASE": struct(**release)}, do_compression=True)
    return path


def everyone(root: Path) -> Any:
    """Both splits, by the people's ids."""
    sets = [mpii_official.mpii_official(root, split) for split in ("train", "test")]
    return {i: people[n] for people in sets for n, i in enumerate(people.ids)}


def test_people_joints_boxes_and_heads(tmp_path) -> None:
    write(tmp_path, [image("a.jpg", [person(), person(first=30.0)])])
    people = everyone(tmp_path)
    assert list(people) == ["mpii/official/a.jpg/0", "mpii/official/a.jpg/1"]
    second = people["mpii/official/a.jpg/1"]
    np.testing.assert_allclose(second.joints_K2[3], [30 + 3 - 1, 20 + 6 - 1])
    # objpos (41, 30), 1-based, lowered by 15 x 0.5; side 200 x 0.5 x 1.25.
    np.testing.assert_allclose(second.center_2, [40, 36.5])
    assert second.side_px == pytest.approx(125)
    assert second.normalizer_px == pytest.approx(0.6 * 50)  # a head box of 30 x 40


def test_joints_are_annotated_where_they_have_a_point_occluded_or_not(tmp_path) -> None:
    hidden, texts, empty = np.uint8(0), "0", EMPTY
    write(
        tmp_path,
        [
            image(
                "a.jpg",
                [
                    person(annopoints=points(10.0, range(2, 16), visible))
                    for visible in (hidden, texts, empty)
                ],
            )
        ],
    )
    for one in everyone(tmp_path).values():
        missing = np.isnan(one.joints_K2).any(-1)
        assert missing.tolist() == [True, True] + [False] * 14


def test_who_is_left_out(tmp_path) -> None:
    """As in the published file: test images, people without joints, fields that aren't there."""
    write(
        tmp_path,
        [
            image("test.jpg", [person()]),
            image("nobody.jpg", []),
            image("mixed.jpg", [person(annopoints=None), person(scale=None), person(objpos=EMPTY)]),
            image("bare.jpg", [person()], fields=("x1", "y1", "x2", "y2")),
            image("good.jpg", [person(x1=None)]),
        ],
        train=[0, 1, 1, 1, 1],
    )
    people = everyone(tmp_path)
    assert list(people) == ["mpii/official/good.jpg/0"]
    assert people["mpii/official/good.jpg/0"].normalizer_px == 0  # no head box: not scored


def test_test_people_share_no_image_with_training_people(tmp_path) -> None:
    write(tmp_path, [image(f"{n:03d}.jpg", [person()] * 2) for n in range(100)])
    data = Data(reader="mpii-official", root=tmp_path)
    sets = read(data, ("train", "validation", "test"))
    images = {
        split: {people.images.locate(int(i)) for i in people.image_N}
        for split, people in sets.items()
    }
    assert not images["test"] & (images["train"] | images["validation"])
    assert sum(map(len, sets.values())) == 200
    assert 4 <= len(sets["test"]) <= 40 and len(sets["test"]) % 2 == 0


def test_people_can_be_used(tmp_path) -> None:
    write(tmp_path, [image(f"{n}.jpg", [person()]) for n in range(30)])
    (tmp_path / "mpii" / "images").mkdir()
    for n in range(30):
        Image.new("RGB", (120, 90)).save(tmp_path / "mpii" / "images" / f"{n}.jpg")
    people = load(Data(reader="mpii-official", root=tmp_path, validation=0), "train")
    assert people.skeleton is MPII
    (tmp_path / "mpii" / "images" / people.ids[0].split("/")[2]).unlink()
    with pytest.raises(ValueError, match=rf"1 of \d+ .* {people.ids[0]}: .* is missing"):
        load(Data(reader="mpii-official", root=tmp_path, validation=0), "train")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": np.nan},
        {"objpos": struct(x=np.inf, y=3.0)},
        {"annopoints": points(np.nan)},
        {"annopoints": points(10.0, range(10, 17))},
        {"annopoints": struct(point=struct(x=3.0, y=EMPTY, id=2))},
        {"annopoints": struct(points=3.0)},
        {"scale": "large"},
    ],
)
def test_impossible_labels_are_named(tmp_path, wrong) -> None:
    write(tmp_path, [image("a.jpg", [person()]), image("b.jpg", [person(), person(**wrong)])])
    with pytest.raises(ValueError, match=r"v1_u12_1\.mat: image 2, person 2: expected finite"):
        everyone(tmp_path)


def test_files_that_are_not_mpiis(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"v1_u12_1\.mat is missing: .* --set data\.root=FOLDER$"):
        everyone(tmp_path)
    path = write(tmp_path, [image("a.jpg", [person()])])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"v1_u12_1\.mat cannot be read: "):
        everyone(tmp_path)
    scipy.io.savemat(path, {"joints": np.zeros((3, 14, 2000))})
    with pytest.raises(ValueError, match="expected a struct 'RELEASE', found joints"):
        everyone(tmp_path)
    scipy.io.savemat(path, {"RELEASE": struct(something=3.0)})
    with pytest.raises(ValueError, match="expected MPII's RELEASE with annolist and img_train"):
        everyone(tmp_path)
    write(tmp_path, [image("a.jpg", [])])
    with pytest.raises(ValueError, match="expected 1 to 1000000 labeled people, found 0"):
        everyone(tmp_path)


def test_names_do_not_lead_out_of_the_folder(tmp_path) -> None:
    write(tmp_path, [image("../../../secret.jpg", [person()])])
    with pytest.raises(ValueError, match="expected image names inside"):
        everyone(tmp_path)
