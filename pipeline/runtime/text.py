"""Text of unknown origin, made printable; counts, sizes, durations and ranges as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise

DURATIONS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))

UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls, among them the escape that begins a terminal's commands
    "\u2028\u2029"  # line and paragraph separators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these reorder the text around them
    "\ufffe\uffff"  # no characters, which YAML refuses
    "\ud800-\udfff]"  # halves of characters, which JSON's escapes can name; no file can hold them
)
"""Characters that act on a terminal, a log or a plot instead of being shown."""


def printable(text: str, *, lines: bool = False) -> str:
    """Text of unknown origin, with characters that would not be shown as escapes such as `\\x1b`.

    Args:
        lines: keep line feeds. Without, the text stays on one line.
    """
    if lines:
        return "\n".join(map(printable, text.split("\n")))
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def last_message(error: Exception) -> str:
    """An error's message, without the traceback that PyTorch adds to one from a loader process."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text.rstrip().rpartition("\n")[2].removeprefix("ValueError: ")


def shorten(text: str, most: int) -> str:
    """Text of unknown origin as a plot's label: printable, and cut to `most` characters."""
    shown = printable(text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


SIZE = re.compile(
    r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:([kmgtp]?)(i?)b?)\s*", re.ASCII | re.IGNORECASE
)
"""A number, a power's letter, `i` for powers of 1024, and `B`."""


def parse_bytes(text: str) -> int:
    """Parse a size in bytes.

    Args:
        text: a number and a unit, such as `20GB`, `1.5 TiB`, `2g` or `1e9`, in capitals or not. kB
            to PB are powers of 1000, KiB to PiB powers of 1024.

    Raises:
        ValueError: the text is not a size, or the size is below one byte.
    """
    match = SIZE.fullmatch(text)
    size = 0
    if match and (match[2] or not match[3]):
        power = " kmgtp".index(match[2].lower() or " ")
        number = float(match[1]) * (1024 if match[3] else 1000) ** power
        size = int(number) if math.isfinite(number) else 0
    if size < 1:
        raise ValueError(f"expected a size above zero, such as 20GB or 1.5 TiB; got {text!r}")
    return size


def format_bytes(count: float) -> str:
    """Format a size in powers of 1000 with one decimal: `21.3 GB`."""
    from pydantic import ByteSize  # imported here: it takes a tenth of a second

    return ByteSize(count).human_readable(decimal=True, separator=" ").replace("KB", "kB")


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: `3 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for (large, size), (small, part) in pairwise(DURATIONS):
        whole, rest = divmod(round(seconds / part), size // part)
        if whole:
            return f"{whole:,} {large}" + (f" {rest} {small}" if rest else "")
    return f"{seconds:.0f} s"


_SECRET_PARAMETER = re.compile(
    r"[?&][^=&]*(key|secret|token|password|passwd|signature|credential|\bsig)[^=&]*=", re.IGNORECASE
)


def check_url(url: str) -> None:
    """Refuse a URL that holds a user, a password or a key: it would be kept in files and printed.

    Raises:
        ValueError: it does; the message does not repeat it.
    """
    # fsspec chains URLs: simplecache::ftp://user:password@host/folder
    authorities = [part.split("/", 1)[0] for part in url.split("://")[1:]]
    if any("@" in part for part in authorities) or _SECRET_PARAMETER.search(url):
        protocol = url.split("://", 1)[0]
        raise ValueError(
            f"expected a {protocol}:// URL without user, password and keys, found one with them "
            "(not shown): give them in the environment or in the profile files of the URL's "
            "library, such as AWS_PROFILE and ~/.aws/credentials for s3"
        )


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun: `1 view`, `22,246 people`.

    Args:
        plural: the plural of the noun; None: the singular with an s.
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def parse_ranges(text: str, below: int) -> frozenset[int]:
    """Parse numbers such as "3", "4-7" or "0-3,6".

    Args:
        below: the smallest number that is not allowed.

    Raises:
        ValueError: the text has another form, or a number is not in 0..below - 1.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if not match:
            raise ValueError(f"expected numbers such as 3, 4-7 or 0-3,6, got {text!r}")
        start, end = int(match[1]), int(match[2] or match[1])
        if not start <= end < below:
            raise ValueError(f"expected numbers in 0..{below - 1}, in order, got {part.strip()!r}")
        numbers.update(range(start, end + 1))
    return frozenset(numbers)


def show_ranges(numbers: Iterable[int], most: int | None = None) -> str:
    """Format numbers as `parse_ranges` reads them.

    Args:
        most: the number of ranges to show; the others become "and N more". None: all.
    """
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(start) if start == end else f"{start}-{end}" for start, end in ranges[:most]]
    hidden = sum(end - start + 1 for start, end in ranges[len(shown) :])
    return ",".join(shown) + (f" and {hidden} more" if hidden else "")


def align(rows: list[list[str]]) -> str:
    """Pad the columns of a table: the first one is aligned left, the others right.

    Cells may be of unknown origin (`printable`).
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    )
