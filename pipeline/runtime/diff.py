"""Differences between two trees of plain values, such as settings or fingerprints of inputs."""

from __future__ import annotations

import json
from typing import Any

MAX_SHOWN_CHARACTERS = 60


def differences(
    expected: Any, found: Any, names: tuple[str, str] = ("expected", "found")
) -> list[str]:
    """Describe each leaf that differs, in the order of their dotted keys.

    Both are compared as JSON: a tuple equals a list of the same values.

    Args:
        names: what the texts call the two values.

    Returns:
        Texts such as "store.views: expected 4, found 2"; empty if both are equal.
    """
    pairs = _walk(json.loads(json.dumps(expected)), json.loads(json.dumps(found)), "")
    first, second = names
    return [f"{key}: {first} {_show(a)}, {second} {_show(b)}" for key, a, b in pairs]


def _walk(expected: Any, found: Any, key: str) -> list[tuple[str, Any, Any]]:
    """The leaves that differ: their dotted keys and both values."""
    if _are_long_lists(expected, found):
        expected, found = (dict(enumerate(values)) for values in (expected, found))
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted(expected.keys() | found.keys())
        parts = (_walk(expected.get(k), found.get(k), f"{key}.{k}".lstrip(".")) for k in keys)
        return [leaf for part in parts for leaf in part]
    return [] if expected == found else [(key, expected, found)]


def _are_long_lists(expected: Any, found: Any) -> bool:
    """Whether both are lists of the same length, too long for `_show` to tell them apart."""
    lists = isinstance(expected, list) and isinstance(found, list)
    return lists and len(expected) == len(found) and len(str(expected)) > MAX_SHOWN_CHARACTERS


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:12]}…"
