"""Where two trees of plain values differ: the one way settings and inputs are compared."""

from __future__ import annotations

import json
from typing import Any

LONGEST_SHOWN = 60


def differences(expected: Any, found: Any) -> list[str]:
    """One text for each leaf that differs, by its dotted key; empty where all are equal.

    Tuples and lists compare as equal, as JSON has it.
    """
    return _walk(json.loads(json.dumps(expected)), json.loads(json.dumps(found)), "")


def _walk(expected: Any, found: Any, key: str) -> list[str]:
    if _are_long_lists(expected, found):
        expected, found = (dict(enumerate(values)) for values in (expected, found))
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted(expected.keys() | found.keys())
        parts = (_walk(expected.get(k), found.get(k), f"{key}.{k}".lstrip(".")) for k in keys)
        return [text for part in parts for text in part]
    return [] if expected == found else [f"{key}: expected {_show(expected)}, found {_show(found)}"]


def _are_long_lists(expected: Any, found: Any) -> bool:
    """Whether two values are lists of one length that would look alike, cut to what is shown."""
    lists = isinstance(expected, list) and isinstance(found, list)
    return lists and len(expected) == len(found) and len(str(expected)) > LONGEST_SHOWN


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:12]}…"
