"""Differences of two trees: every leaf that differs, and no other."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.pipeline.runtime.diff import differences

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
)
values = leaves | st.lists(leaves, max_size=3)
keys = st.text("abcdef_", min_size=1, max_size=4)
trees = st.recursive(
    st.dictionaries(keys, values, max_size=4),
    lambda below: st.dictionaries(keys, values | below, max_size=4),
    max_leaves=12,
)


def test_the_two_values_have_the_names_that_the_caller_gives() -> None:
    [text] = differences({"a": {"b": 1}}, {"a": {"b": 2}}, ("kept", "in demo"))
    assert text == "a.b: kept 1, in demo 2"


def paths(tree: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return [above]
    return [path for key, below in tree.items() for path in paths(below, (*above, key))]


def test_a_leaf_is_named_with_what_was_expected_and_found() -> None:
    expected = {"training": {"epochs": 3, "model": {"stages": 8}}, "seed": 0}
    found = {"training": {"epochs": 3, "model": {"stages": 4}}, "seed": 1}
    assert differences(expected, found) == [
        "seed: expected 0, found 1",
        "training.model.stages: expected 8, found 4",
    ]


def test_equal_trees_have_no_differences() -> None:
    assert differences({"a": {"b": [1, 2.5, "x", None]}}, {"a": {"b": [1, 2.5, "x", None]}}) == []
    assert differences({}, {}) == []


def test_tuples_equal_lists() -> None:
    assert differences({"scale": (0.75, 1.25)}, {"scale": [0.75, 1.25]}) == []
    assert differences({"scale": (0.75, 1.25)}, {"scale": [0.75, 1.5]}) == [
        "scale: expected [0.75, 1.25], found [0.75, 1.5]"
    ]


@pytest.mark.parametrize(
    ("expected", "found", "text"),
    [
        ({"a": 1}, {}, "a: expected 1, found none"),
        ({}, {"a": 1}, "a: expected none, found 1"),
        ({"a": {"b": 1}}, {"a": 2}, "a: expected {'b': 1}, found 2"),
        ({"a": [1]}, {"a": [1, 2]}, "a: expected [1], found [1, 2]"),
        ({"a": "1"}, {"a": 1}, "a: expected 1, found 1"),
    ],
)
def test_missing_added_and_changed_values(expected: Any, found: Any, text: str) -> None:
    assert differences(expected, found) == [text]


def test_long_values_are_shortened_and_still_differ() -> None:
    (text,) = differences({"ids": "a" * 64}, {"ids": "b" * 64})
    assert len(text) < 100
    assert "aaaa" in text and "bbbb" in text


def test_long_lists_that_start_alike_still_differ() -> None:
    """As the `joints` of two skeletons."""
    names = ["right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"]
    (text,) = differences({"joints": names}, {"joints": [*names[:-1], "tail"]})
    expected, found = text.removeprefix("joints: expected ").split(", found ")
    assert expected != found


@settings(deadline=None, max_examples=20)
@given(trees)
def test_a_tree_equals_itself_after_a_round_trip_through_json(tree: dict[str, Any]) -> None:
    assert differences(tree, tree) == []
    assert differences(tree, json.loads(json.dumps(tree))) == []


@settings(deadline=None, max_examples=20)
@given(trees, st.data())
def test_one_changed_leaf_is_one_difference(tree: dict[str, Any], data: st.DataObject) -> None:
    leaf_paths = paths(tree)
    if leaf_paths in ([], [()]):
        tree = {"a": {"b": 1}}
        leaf_paths = [("a", "b")]
    *sections, key = data.draw(st.sampled_from(leaf_paths))
    changed = copy.deepcopy(tree)
    table = changed
    for section in sections:
        table = table[section]
    table[key] = "another value"
    dotted = ".".join([*sections, key])
    (text,) = differences(tree, changed)
    assert text.startswith(f"{dotted}: expected ")
    (text,) = differences(changed, tree)
    assert text.startswith(f"{dotted}: expected another value, found ")
