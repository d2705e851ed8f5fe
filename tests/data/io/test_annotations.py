"""Label files: bounded, and what is wrong with them is said."""

from __future__ import annotations

import numpy as np
import pytest

from fpd.data.io import annotations as labels
from fpd.data.io.annotations import column, numbered_ids, people_list, read_json, shared

HERE = "expected it here"


def test_json_is_bounded(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2, 3]")
    assert read_json(path, HERE) == [1, 2, 3]
    monkeypatch.setattr(labels, "MAX_JSON_BYTES", 8)
    with pytest.raises(ValueError, match=r"a\.json cannot be read as labels: expected at most"):
        read_json(path, HERE)


@pytest.mark.parametrize("text", ["", "[1, 2", '{"a": ', "\x00", "[" * 100_000])
def test_damaged_json_is_named(tmp_path, text) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json cannot be read as labels: "):
        read_json(path, HERE)


def test_no_text_and_no_file(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ValueError, match=r"a\.json cannot be read as labels: "):
        read_json(tmp_path / "a.json", HERE)
    for name in ("none.json", "."):
        with pytest.raises(ValueError, match=r"is missing: expected it here$"):
            read_json(tmp_path / name, HERE)


def test_lists_of_people(tmp_path, monkeypatch) -> None:
    assert people_list(tmp_path, [{}, {}]) == [{}, {}]
    for wrong in ({}, [1], [[]], None, "text"):
        with pytest.raises(ValueError, match="expected a list of people"):
            people_list(tmp_path, wrong)
    monkeypatch.setattr(labels, "MAX_PEOPLE", 1)
    for count in (0, 2):
        with pytest.raises(ValueError, match=f"expected 1 to 1 people, found {count}"):
            people_list(tmp_path, [{}] * count)


def test_columns(tmp_path) -> None:
    people = [{"a": [1, 2]}, {"a": ["3", 4.5]}]
    np.testing.assert_array_equal(column(tmp_path, people, "a", (2,)), [[1, 2], [3, 4.5]])
    assert column(tmp_path, [], "a", (2,)).shape == (0, 2)


@pytest.mark.parametrize(
    "wrong", [None, [1], [1, 2, 3], [[1, 2]], "text", [1, None], [1, float("inf")], {"b": 1}]
)
def test_the_first_wrong_person_is_named(tmp_path, wrong) -> None:
    people = [{"a": [1, 2]}, {"a": wrong}, {}]
    with pytest.raises(ValueError, match=r"expected 'a' of 2 in finite numbers, .* at person 2$"):
        column(tmp_path, people, "a", (2,))
    with pytest.raises(ValueError, match=r"at the second$"):
        column(tmp_path, people, "a", (2,), ["first", "the second", "third"])


def test_ids_and_images() -> None:
    names = ["b", "a", "b"]
    assert numbered_ids("set", names) == ("set/b/0", "set/a/0", "set/b/1")
    images, image_N = shared(names)
    assert images == ["b", "a"] and image_N.tolist() == [0, 1, 0]
    images, image_N = shared([])
    assert images == [] and image_N.dtype == np.int64
