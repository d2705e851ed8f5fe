"""Label files: limited in size, and their mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest

from fpd.data.io import annotations
from fpd.data.io.annotations import (
    as_flag,
    as_id,
    as_number,
    column,
    numbered_ids,
    object_list,
    read_json,
    unique_images,
)

MISSING = "expected it in the folder"


def test_json_is_bounded(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    assert read_json(path, MISSING) == [1, 2, 3]
    monkeypatch.setattr(annotations, "MAX_JSON_BYTES", 8)
    with pytest.raises(ValueError, match=r"a\.json cannot be read as labels: expected at most"):
        read_json(path, MISSING)


@pytest.mark.parametrize("content", [b"[1, 2", b"\xff\xfe\xfd"])
def test_damaged_json_is_named(tmp_path, content) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json cannot be read as labels: "):
        read_json(path, MISSING)


def test_missing_files_are_named(tmp_path) -> None:
    for name in ("none.json", "."):
        with pytest.raises(ValueError, match=r"is missing: expected it in the folder$"):
            read_json(tmp_path / name, MISSING)


def test_lists_of_objects(tmp_path, monkeypatch) -> None:
    assert object_list(tmp_path, [{}, {}]) == [{}, {}]
    for wrong, found in (
        ({}, "an object with nothing"),
        ({"annotations": []}, "an object with annotations"),
        ([{}, 1], "1 at number 2"),
        ([[]], "a list at number 1"),
        (None, "nothing"),
        ("text", "'text'"),
    ):
        with pytest.raises(ValueError, match=f"expected a list of objects, found {found}$"):
            object_list(tmp_path, wrong)
    monkeypatch.setattr(annotations, "MAX_SAMPLES", 1)
    for count in (0, 2):
        with pytest.raises(ValueError, match=f"expected 1 to 1 objects, found {count}"):
            object_list(tmp_path, [{}] * count)


def test_columns(tmp_path) -> None:
    records = [{"a": [1, 2]}, {"a": ["3", 4.5]}]
    np.testing.assert_array_equal(column(tmp_path, records, "a", (2,)), [[1, 2], [3, 4.5]])
    assert column(tmp_path, [], "a", (2,)).shape == (0, 2)


@pytest.mark.parametrize("wrong", [None, [1, 2, 3], [[1, 2]], "text", [1, None], [1, float("inf")]])
def test_the_first_wrong_record_is_named(tmp_path, wrong) -> None:
    records = [{"a": [1, 2]}, {"a": wrong}, {}]
    with pytest.raises(ValueError, match=r"expected 'a' of 2 in finite numbers, .* at sample 2$"):
        column(tmp_path, records, "a", (2,))
    with pytest.raises(ValueError, match=r"at the second$"):
        column(tmp_path, records, "a", (2,), ["first", "the second", "third"])


@pytest.mark.parametrize(
    ("record", "shape", "message"),
    [
        ({}, (6,), "expected 'a' of 6 in finite numbers, found nothing at"),
        ({"a": [1, 2]}, (6,), "expected 'a' of 6 in finite numbers, found 2 values at"),
        ({"a": [[1, 2], [3]]}, (6,), "found lists of different lengths at"),
        ({"a": {"x": 1, "y": 2}}, (2,), "found an object with x, y at"),
        ({"a": [1, None]}, (2,), r"found \[1, None\] at"),
        ({}, (), "expected 'a' as a number, found nothing at"),
        ({"a": "x"}, (), "expected 'a' as a number, found 'x' at"),
    ],
)
def test_what_a_wrong_record_has_is_named(tmp_path, record, shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        column(tmp_path, [record], "a", shape)


def test_numbered_ids_and_unique_images() -> None:
    names = ["b", "a", "b"]
    assert numbered_ids("set", names) == ("set/b/0", "set/a/0", "set/b/1")
    images, image_N = unique_images(names)
    assert images == ["b", "a"] and image_N.tolist() == [0, 1, 0]
    images, image_N = unique_images([])
    assert images == [] and image_N.dtype == np.int64


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, 7), ("7", 7), (7.0, 7), (" 7 ", 7), ("007", "007"), ("a/b", "a/b"), (-1, -1), ("٣", "٣")],
)
def test_ids(value, expected) -> None:
    assert as_id(value) == expected and type(as_id(value)) is type(expected)


@pytest.mark.parametrize("value", [None, True, 1.5, float("nan"), float("inf"), "", " ", [1], {}])
def test_what_is_no_id(value) -> None:
    with pytest.raises(ValueError, match="expected a whole number or text, found "):
        as_id(value)


def test_flags() -> None:
    assert not any(map(as_flag, (0, "0", False, "false", None, "", 0.0, "0.0", "False")))
    assert all(map(as_flag, (1, "1", True, "true", 1.0, "1.0", "True")))
    for value in (2, "no", -1, [], [0], float("nan"), "None"):
        with pytest.raises(ValueError, match="expected 0 or 1, found "):
            as_flag(value)


def test_numbers() -> None:
    assert [as_number(v) for v in (1, "1", 1.5, " 2e3 ")] == [1, 1, 1.5, 2000]
    assert all(np.isnan(as_number(value)) for value in (None, "", float("nan"), "NaN"))
    for value in ("one", [1], {}, "1,5", 10**400):
        with pytest.raises(ValueError, match="expected a number, found "):
            as_number(value)
