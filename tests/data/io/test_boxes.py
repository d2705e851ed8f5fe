"""Files of boxes: all documented forms are read, others are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fpd.data.io.boxes import Box, image_keys, read_boxes

XYWH = [1.5, 2.0, 30.0, 40.25]


def written(tmp_path: Path, content: object, name: str = "boxes.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"image": "some/where/a.jpg", "bbox": XYWH}], Box("a.jpg", tuple(XYWH))),
        ([{"file_name": "a.jpg", "bbox": XYWH}], Box("a.jpg", tuple(XYWH))),
        ([{"image": "a.jpg", "x": 1.5, "y": 2, "w": 30, "h": 40.25}], Box("a.jpg", tuple(XYWH))),
        (
            [{"image_id": 7, "bbox": XYWH, "score": 0, "category_id": 3}],
            Box(7, tuple(XYWH), 7, 3, 0.0),
        ),
        ([{"image_id": "a.jpg", "bbox": XYWH}], Box("a.jpg", tuple(XYWH), "a.jpg")),
        (
            {
                "images": [{"id": 7, "file_name": "train/a.jpg"}],
                "annotations": [{"image_id": 7, "bbox": XYWH, "category_id": 1}],
            },
            Box("a.jpg", tuple(XYWH), 7),
        ),
    ],
)
def test_every_form_of_json(tmp_path: Path, content: object, expected: Box) -> None:
    assert read_boxes(written(tmp_path, content)) == [expected]


def test_csv(tmp_path: Path) -> None:
    text = "\ufeffimage,x,y,w,h,score\nd/a.jpg,1.5,2,30,40.25,\nb.jpg,0,0,1,1,0.5\n"
    boxes = read_boxes(written(tmp_path, text, "boxes.csv"))
    assert boxes == [Box("a.jpg", tuple(XYWH)), Box("b.jpg", (0, 0, 1, 1), score=0.5)]


def test_csv_as_typed_by_hand(tmp_path: Path) -> None:
    text = "image, x, y, w, h\r\na.jpg, 1.5, 2, 30, 40.25\r\n"
    assert read_boxes(written(tmp_path, text, "boxes.CSV")) == [Box("a.jpg", tuple(XYWH))]


def test_csv_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """Its names would match no image."""
    (tmp_path / "b.csv").write_bytes("image,x,y,w,h\nä.jpg,1,2,3,4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.csv cannot be read as CSV: 'utf-8' codec"):
        read_boxes(tmp_path / "b.csv")


def test_cocos_file_names_are_numbers() -> None:
    assert image_keys("000000000785.jpg") == ("000000000785.jpg", 785)
    assert image_keys("photo7.jpg") == ("photo7.jpg",)
    assert image_keys("٣.jpg") == ("٣.jpg",)
    assert image_keys("9" * 5000 + ".jpg") == ("9" * 5000 + ".jpg",)


@pytest.mark.parametrize(
    ("content", "name", "part"),
    [
        ("{", "b.json", "cannot be read as JSON"),
        ("[]", "b.json", "expected 1 to"),
        ('{"samples": []}', "b.json", "found neither"),
        ('[{"image": "a.jpg", "bbox": [1, 2, 3]}]', "b.json", "as box 1, found [1, 2, 3]"),
        ('[{"image": "a.jpg", "bbox": [1, 2, 3, NaN]}]', "b.json", "four finite numbers"),
        ('[{"image": "a.jpg", "bbox": [1, 2, 3, "x"]}]', "b.json", "four finite numbers"),
        ('[{"bbox": [1, 2, 3, 4]}]', "b.json", '"image_id" of box 1, found none'),
        ('[{"image": ["a"], "bbox": [1, 2, 3, 4]}]', "b.json", '"image_id" of box 1'),
        ("image,x,y\na.jpg,1,2\n", "b.csv", "image,x,y,w,h, found 'image,x,y'"),
        ("image,x,y,w,h\na.jpg,1,2\n", "b.csv", "four finite numbers"),
        ("", "b.csv", "expected a first line"),
        ("image;x;y;w;h\na.jpg;1;2;3;4\n", "b.csv", "found 'image;x;y;w;h'"),
        ("x" * 200_000, "b.csv", "cannot be read as CSV: field larger than"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, name: str, part: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        read_boxes(written(tmp_path, content, name))
    assert part in str(refused.value) and name in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as boxes"):
        read_boxes(tmp_path / "none.json")
