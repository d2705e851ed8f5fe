"""Files of boxes: all documented forms are read, others are refused."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from fpd.data.io.boxes import (
    Box,
    BoxFile,
    match_images,
    match_names,
    people_boxes,
    read_boxes,
)

XYWH = [1.5, 2.0, 30.0, 40.25]


def written(tmp_path: Path, content: object, name: str = "boxes.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"image": "some\\where/a.jpg", "bbox": XYWH}], Box("some/where/a.jpg", tuple(XYWH))),
        ([{"image": "a.jpg", "bbox": ["1.5", "2", 30, "40.25"]}], Box("a.jpg", tuple(XYWH))),
        ([{"image": "a.jpg", "bbox": []}], Box("a.jpg", None)),
        ([{"image": "a.jpg"}], Box("a.jpg", None)),
        ([{"image_id": "7", "bbox": XYWH}], Box(7, tuple(XYWH), "7")),
        ([{"image_id": 7.0, "bbox": XYWH}], Box(7, tuple(XYWH), 7)),
        (
            [{"image": "a.jpg", "bbox": XYWH, "iscrowd": "1", "category_id": "3", "score": "0.5"}],
            Box("a.jpg", tuple(XYWH), None, 3, 0.5, is_crowd=True),
        ),
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
            Box("train/a.jpg", tuple(XYWH), 7, 1),
        ),
        (
            {
                "images": [{"id": "7", "file_name": "a.jpg", "width": 640, "height": "480"}],
                "annotations": [{"image_id": 7, "bbox": XYWH, "iscrowd": 0}],
            },
            Box("a.jpg", tuple(XYWH), 7, image_size=(640, 480)),
        ),
    ],
)
def test_every_form_of_json(tmp_path: Path, content: object, expected: Box) -> None:
    assert read_boxes(written(tmp_path, content)).boxes == [expected]


def test_csv(tmp_path: Path) -> None:
    text = "\ufeffimage,x,y,w,h,score\nd/a.jpg,1.5,2,30,40.25,\nb.jpg,0,0,1,1,0.5\n"
    boxes = read_boxes(written(tmp_path, text, "boxes.csv")).boxes
    assert boxes == [Box("d/a.jpg", tuple(XYWH)), Box("b.jpg", (0, 0, 1, 1), score=0.5)]


def test_csv_as_typed_by_hand(tmp_path: Path) -> None:
    text = "image, x, y, w, h\r\na.jpg, 1.5, 2, 30, 40.25\r\n"
    assert read_boxes(written(tmp_path, text, "boxes.CSV")).boxes == [Box("a.jpg", tuple(XYWH))]


def test_csv_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """Its names would match no image."""
    (tmp_path / "b.csv").write_bytes("image,x,y,w,h\nä.jpg,1,2,3,4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"b\.csv cannot be read as CSV: 'utf-8' codec"):
        read_boxes(tmp_path / "b.csv")


def matched(names: list[str], photos: list[str]) -> list[list[int]]:
    """For each photograph, the numbers of the boxes, whose images are `names`, that it has."""
    boxes = [Box(name, tuple(XYWH), score=number) for number, name in enumerate(names)]
    by_photo, others = match_images(BoxFile(Path("b.json"), boxes), list(map(Path, photos)))
    found = [[int(box.score) for box in by_photo.get(i, [])] for i in range(len(photos))]
    assert others == len(names) - sum(map(len, found))
    return found


@pytest.mark.parametrize(
    ("names", "photos", "expected"),
    [
        (["a.jpg", "b.jpg", "a.jpg"], ["b.jpg", "a.jpg"], [[1], [0, 2]]),
        ([785, 7], ["000000000785.jpg"], [[0]]),
        (["im0001", "0002", "b.jpg"], ["im0001.jpg", "0002.png", "b.jpg.png"], [[0], [1], []]),
        ([3], ["\u0663.jpg"], [[]]),
        ([3], ["9" * 5000 + ".jpg"], [[]]),
        (["train/a.jpg"], ["elsewhere/a.jpg"], [[0]]),
        (["day1/a.jpg", "day2/a.jpg"], ["day2/a.jpg"], [[1]]),
        (["day1/a.jpg", "day2/a.jpg", "a.jpg"], ["x/day1/a.jpg"], [[0, 2]]),
        (["caf\u00e9.jpg"], ["cafe\u0301.jpg"], [[0]]),
        (["caf\u00e9.jpg", "cafe\u0301.jpg"], ["cafe\u0301.jpg", "caf\u00e9.jpg"], [[1], [0]]),
    ],
)
def test_images_are_matched(names: list[str], photos: list[str], expected: list[list[int]]) -> None:
    assert matched(names, photos) == expected


@pytest.mark.parametrize(
    ("names", "photos", "message"),
    [
        ([7], ["7.jpg", "007.png"], r"7 can be 7\.jpg or 007\.png"),
        (["a"], ["a.jpg", "a.png"], r"'a' can be a\.jpg or a\.png"),
        (["day1/a.jpg", "day2/a.jpg"], ["other/a.jpg"], r"several images called a\.jpg"),
    ],
)
def test_unclear_images_are_refused(names: list[str], photos: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        matched(names, photos)


def people(
    boxes: list[dict[str, object]],
    categories: list[dict[str, object]] | None = None,
    **options: object,
) -> tuple[list[int], dict[str, int]]:
    """The numbers of the boxes that are people's, and the counts of the others."""
    rows = [{"image": str(i), "bbox": XYWH} | row for i, row in enumerate(boxes)]
    content: object = rows
    if categories is not None:
        content = {"images": [], "categories": categories, "annotations": rows}
    with tempfile.TemporaryDirectory() as folder:
        file = read_boxes(written(Path(folder), content))
    chosen, left_out = people_boxes(file, {0: file.boxes}, **{"skeleton": "lsp"} | options)
    return [int(box.image) for box in chosen.get(0, [])], left_out


def test_boxes_without_categories_and_scores_are_all_people() -> None:
    assert people([{}, {}]) == ([0, 1], {})


def test_crowds_low_scores_and_empty_boxes_are_left_out() -> None:
    rows = [{}, {"iscrowd": 1}, {"score": 0.29}, {"score": 0.3}, {"bbox": None}]
    chosen, left_out = people(rows)
    assert chosen == [0, 3]
    assert left_out == {
        "around crowds": 1,
        "with a score below 0.3": 1,
        "without numbers": 1,
    }
    assert people(rows, min_score=0)[0] == [0, 2, 3]


def ids(*values: object) -> list[dict[str, object]]:
    return [{"category_id": value} for value in values]


PERSON, CAT = {"id": 5, "name": "Person"}, {"id": 1, "name": "cat"}
FLY = {"id": 9, "name": "fly", "keypoints": ["head"]}


@pytest.mark.parametrize(
    ("rows", "categories", "options", "expected"),
    [
        (ids(1, 17, 1), None, {}, [0, 2]),  # COCO's numbers
        (ids(0, 1, 0), None, {}, [0, 2]),  # YOLO's, where 1 is a bicycle
        (ids(1, None), None, {}, [0, 1]),
        (ids(1, 17), None, {"category": "17"}, [1]),
        (ids(1, 5, "5"), [PERSON, CAT], {}, [1, 2]),
        (ids(1, 5), [PERSON, CAT], {"category": "cat"}, [0]),
        (ids(1, 9), [CAT, FLY], {"skeleton": "fly"}, [1]),
        (ids(9), [FLY], {}, [0]),
        (ids(5, 6), [PERSON, {"id": 6, "name": "person"}], {}, [0, 1]),
    ],
)
def test_the_category_of_people(rows, categories, options, expected) -> None:
    chosen, left_out = people(rows, categories, **options)
    assert chosen == expected and sum(left_out.values()) == len(rows) - len(expected)


@pytest.mark.parametrize(
    ("rows", "categories", "options", "message"),
    [
        (ids(17), None, {}, r"'person' or 1, found 17: choose with --category"),
        (ids(1), [CAT], {}, r"found 'cat': choose with --category"),
        (ids(1, 5), [PERSON, CAT], {"category": "dog"}, r"--category dog: expected one of"),
    ],
)
def test_an_unclear_category_is_refused(rows, categories, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        people(rows, categories, **options)


@pytest.mark.parametrize(
    ("content", "name", "part"),
    [
        ("{", "b.json", "cannot be read as JSON"),
        ("[]", "b.json", "expected 1 to"),
        ('{"samples": []}', "b.json", "found neither"),
        ('[{"image": "a.jpg", "bbox": [1, 2, 3]}]', "b.json", "as box 1, found [1, 2, 3]"),
        ('[{"image": "a.jpg", "bbox": [1, 2, 3, NaN]}]', "b.json", "four finite numbers"),
        ('[{"image": "a.jpg", "bbox": [1, 2, 3, "x"]}]', "b.json", "four finite numbers"),
        (
            '[{"image": "a", "bbox": [1, 2, 3, 4], "score": "x"}]',
            "b.json",
            "box 1: score: expected",
        ),
        ('[{"image": "a", "bbox": [1, 2, 3, 4], "iscrowd": 2}]', "b.json", "box 1: iscrowd: exp"),
        ('[{"image": "a", "bbox": [1, 2, 3, 4], "category_id": 1.5}]', "b.json", "1: category_id"),
        ('[{"image_id": [7], "bbox": [1, 2, 3, 4]}]', "b.json", "box 1: image_id: expected"),
        (
            '{"images": [{"file_name": "a"}], "annotations": []}',
            "b.json",
            "image 1 of the list: id: expected",
        ),
        ('{"images": 3, "annotations": []}', "b.json", "images: expected a list of objects"),
        ('[{"bbox": [1, 2, 3, 4]}]', "b.json", '"image_id" of box 1, found none'),
        ('[{"image": ["a"], "bbox": [1, 2, 3, 4]}]', "b.json", '"image_id" of box 1'),
        ("image,x,y\na.jpg,1,2\n", "b.csv", "image,x,y,w,h, found 'image,x,y'"),
        ("image,x,y,w,h\na.jpg,1,2\n", "b.csv", "four finite numbers"),
        ("", "b.csv", "expected a first line"),
        ("image;x;y;w;h\na.jpg;1;2;3;4\n", "b.csv", "found 'image;x;y;w;h'"),
        (
            "image,x,y,w,h\na,b.jpg,1,2,3,4\n",
            "b.csv",
            "box 1 (line 2): expected one field for each of",
        ),
        ("image,x,y,w,h,x\na.jpg,1,2,3,4,5\n", "b.csv", "or a name twice"),
        (
            '{"images": [{"id": 1, "file_name": "a"}, {"id": "1", "file_name": "b"}],'
            ' "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}',
            "b.json",
            "expected a different id for every image, found 1 more than once",
        ),
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


def test_columns_may_have_long_names(tmp_path: Path) -> None:
    path = written(tmp_path, "image,x,y,width,height\na.jpg,1,2,3,4\n", "b.csv")
    assert read_boxes(path).boxes == [Box("a.jpg", (1.0, 2.0, 3.0, 4.0))]


def test_names_are_matched_with_their_folders_first(tmp_path: Path) -> None:
    content = "image,x,y,w,h\none/a.jpg,1,2,3,4\nb,1,2,3,4\nelse/b.jpg,1,2,3,4\nc.jpg,1,2,3,4\n"
    file = read_boxes(written(tmp_path, content, "b.csv"))
    names = ["one/a.jpg", "two/a.jpg", "two/b.jpg"]
    matched, unmatched = match_names(file, names)
    assert {index: len(boxes) for index, boxes in matched.items()} == {0: 1, 2: 2}
    assert unmatched == 1
    file = read_boxes(written(tmp_path, "image,x,y,w,h\na.jpg,1,2,3,4\n", "b.csv"))
    with pytest.raises(ValueError, match=r"'a\.jpg' can be one/a\.jpg or two/a\.jpg: write names"):
        match_names(file, names)
