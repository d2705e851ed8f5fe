"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.pipeline.runtime.text import format_bytes, format_duration, parse_bytes, pluralize


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("20GB", 20 * 10**9),
        ("1.5 TiB", 3 * 2**39),
        ("500 MB", 5 * 10**8),
        ("2g", 2 * 10**9),
        ("2Gi", 2 * 2**30),
        ("1e9", 10**9),
        ("1e3 kB", 10**6),
        ("1,000 MB", 10**9),
        ("1,234,567", 1_234_567),
        ("  7 kib ", 7 * 1024),
        ("3pb", 3 * 10**15),
        ("1 EiB", 2**60),
        (".5 MB", 500_000),
        ("512 bytes", 512),
        ("1 byte", 1),
        ("12 B", 12),
        ("1.4999 kB", 1500),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "GB", ".", "e5", "lots", "20 XB", "20 GBs", "1.5.2 GB", "1 GB 2", "0x10", "²"),
        *("0", "0 GB", "0.2", "-1 GB", "- 5", "nan", "NaN GB", "inf", "1e999", "1,5 GB", "1,00 MB"),
        *("i", "5 i", "5 iB", "1e 5"),
    ],
)
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 20GB or 1\.5 TiB; got") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.7, "1.0 kB"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (21_345_000_000, "21.3 GB"),
        (1.5e12, "1.5 TB"),
        (2e15, "2.0 PB"),
        (5e21, "5,000.0 EB"),
    ],
)
def test_sizes_are_printed_with_one_decimal(count: float, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(1, 10**20))
def test_what_is_printed_can_be_read_back(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.26, "0.3 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3599.7, "1 h"),
        (12_000, "3 h 20 min"),
        (86_399, "1 d"),
        (4 * 86_400 + 3 * 3600 + 5, "4 d 3 h"),
        (86_400_000, "1,000 d"),
    ],
)
def test_durations_are_printed_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_one_is_singular() -> None:
    found = [pluralize(n, "person", "people") for n in (0, 1, 2, 22_246)]
    assert found == ["0 people", "1 person", "2 people", "22,246 people"]
    assert [pluralize(n, "view") for n in (1, 2)] == ["1 view", "2 views"]
