"""Sizes, durations, counts and ranges as text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.pipeline.runtime.text import (
    align,
    format_bytes,
    format_duration,
    parse_bytes,
    parse_ranges,
    pluralize,
    printable,
    shorten,
    show_ranges,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20GB", 20 * 10**9),
        ("1.5 TiB", 3 * 2**39),
        ("2g", 2 * 10**9),
        ("1e9", 10**9),
        ("  7 kib ", 7 * 1024),
        ("12", 12),
    ],
)
def test_sizes_are_parsed(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["", "GB", "lots", "20 XB", "1.5.2 GB", "1,000 MB", "0 GB", "-1 GB", "nan", "1e999"]
)
def test_text_that_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 20GB or 1\.5 TiB; got") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_are_printed_with_one_decimal() -> None:
    assert format_bytes(0) == "0 B"
    assert format_bytes(999) == "999 B"
    assert format_bytes(1000) == "1.0 kB"
    assert format_bytes(21_345_000_000) == "21.3 GB"


@given(st.integers(1, 10**17))
def test_printed_sizes_can_be_parsed(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.26, "0.3 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (12_000, "3 h 20 min"),
        (86_399, "1 d"),
        (4 * 86_400 + 3 * 3600 + 5, "4 d 3 h"),
        (86_400_000, "1,000 d"),
    ],
)
def test_durations_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts_have_their_nouns() -> None:
    assert [pluralize(n, "person", "people") for n in (1, 22_246)] == ["1 person", "22,246 people"]
    assert [pluralize(n, "view") for n in (0, 1)] == ["0 views", "1 view"]


@given(st.frozensets(st.integers(0, 40), min_size=1))
def test_printed_ranges_can_be_parsed(numbers: frozenset[int]) -> None:
    assert parse_ranges(show_ranges(numbers), below=41) == numbers


def test_ranges_are_short() -> None:
    assert show_ranges([3, 0, 1, 2, 6]) == "0-3,6"
    assert show_ranges([0, 1, 3, 5, 6, 7], most=2) == "0-1,3 and 3 more"


@pytest.mark.parametrize("text", ["", "a", "3-", "4-3", "8", "1,,2", "-1"])
def test_text_that_is_not_ranges_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers"):
        parse_ranges(text, below=8)


@given(st.text())
def test_printable_text_is_on_one_line_and_acts_on_nothing(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert printable(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("left ankle", "left ankle"),
        ("左 ankle é 👩‍🦰", "左 ankle é 👩‍🦰"),
        ("\x1b[31m\x00\x7f\x9b", r"\x1b[31m\x00\x7f\x9b"),
        ("a\nb\r\tc\u2028", r"a\nb\r\tc\u2028"),
        ("\u202egpj.exe\u2066", r"\u202egpj.exe\u2066"),
        ("\udcff\ud800", r"\udcff\ud800"),
    ],
)
def test_controls_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_can_be_kept() -> None:
    assert printable("a\x07\nb\r\n", lines=True) == "a\\x07\nb\\r\n"


def test_labels_of_plots_are_short() -> None:
    assert shorten("\x1b" * 9, 6) == r"\x1b\…"
    assert shorten("right", 5) == "right"


def test_columns_are_aligned() -> None:
    assert align([["a\nb", "n\x1b"]]) == r"a\nb  n\x1b"
    assert align([["name", "n"], ["a", "100"]]) == "name    n\na     100"
