"""Sets of whole numbers as people write them: 0-3,6."""

from __future__ import annotations

import re
from collections.abc import Iterable


def parse_ranges(text: str, below: int) -> frozenset[int]:
    """Numbers such as "3", "4-7" or "0-3,6".

    Args:
        below: every number is to be smaller than this.

    Raises:
        ValueError: it is something else, or has a number that is not in 0..below - 1.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if not found:
            raise ValueError(f"expected numbers such as 3, 4-7 or 0-3,6, got {text!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < below:
            raise ValueError(f"expected numbers in 0..{below - 1}, in order, got {part.strip()!r}")
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def show_ranges(numbers: Iterable[int], most: int | None = None) -> str:
    """The text that `parse_ranges` reads; of `most` ranges, "and N more" for the rest."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in ranges[:most]]
    left = sum(b - a + 1 for a, b in ranges[len(shown) :])
    return ",".join(shown) + (f" and {left} more" if left else "")
