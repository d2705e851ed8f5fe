"""The text that `fpd check-data` prints."""

from __future__ import annotations

from typing import Any

import pytest

from fpd.commands.summaries.check_data import MAX_PROBLEMS_BELOW_THEIR_NUMBER, describe


def report(problems: int) -> dict[str, Any]:
    return {
        "splits": {},
        "problems": [f"train: image {n} is missing" for n in range(problems)],
        "image_notes": [],
        "label_files": [],
        "flip": None,
        "order_note": None,
    }


@pytest.mark.parametrize("more", [0, 1])
def test_many_problems_are_counted_below_them_too(more: int) -> None:
    count = MAX_PROBLEMS_BELOW_THEIR_NUMBER + more
    first, *lines = describe(report(count)).splitlines()
    assert first == f"{count} problems:"
    assert len(lines) == count + more
    assert lines[-1].endswith(f"{count} problems in all" if more else f"{count - 1} is missing")


def test_no_problems() -> None:
    assert describe(report(0)) == "no problems"
