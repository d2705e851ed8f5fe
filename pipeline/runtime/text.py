"""Counts, sizes and durations as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise

PREFIXES = "kMGTPE"

_SIZE = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)"
    r"[ _]*(?:bytes?|(?P<prefix>[kmgtpe]?)(?P<binary>(?<=[kmgtpe])i)?b?)",
    re.IGNORECASE,
)

DURATIONS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def parse_bytes(text: str) -> int:
    """A size in bytes.

    Args:
        text: a number and a unit, such as `20GB`, `1.5 TiB`, `1,000 MB`, `2g` or `1e9`: kB, MB, GB,
            TB, PB and EB are powers of 1,000, KiB, MiB, ... of 1,024, capitals or not.

    Raises:
        ValueError: it is not a size, or below one byte.
    """
    found = _SIZE.fullmatch(text.strip())
    try:
        number = float(found["number"].replace(",", "")) if found else math.nan
    except ValueError:  # a unit without a number
        number = math.nan
    if found and found["prefix"]:
        power = PREFIXES.lower().index(found["prefix"].lower()) + 1
        number *= (1024 if found["binary"] else 1000) ** power
    if not 1 <= number < math.inf:
        raise ValueError(f"expected a size above zero, such as 20GB or 1.5 TiB; got {text!r}")
    return round(number)


def format_bytes(count: float) -> str:
    """A size for people, in powers of 1,000: `21.3 GB`."""
    if count < 999.5:
        return f"{count:.0f} bytes"
    for prefix in PREFIXES:
        count /= 1000
        if count < 999.95:  # above, it would be rounded to 1000.0
            return f"{count:.1f} {prefix}B"
    return f"{count:,.1f} {PREFIXES[-1]}B"


def format_duration(seconds: float) -> str:
    """A duration for people, in its two largest units: `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for (large, size), (small, part) in pairwise(DURATIONS):
        whole, rest = divmod(round(seconds / part), size // part)
        if whole:
            return f"{whole:,} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.0f} s"


def pluralize(count: int, one: str, more: str | None = None) -> str:
    """A count with its noun: `1 view`, `22,246 people`.

    Args:
        more: the plural; none given: an s behind the singular.
    """
    return f"{count:,} {one if count == 1 else more or one + 's'}"


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


def align(rows: list[list[str]]) -> str:
    """Columns padded to a common width: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )
