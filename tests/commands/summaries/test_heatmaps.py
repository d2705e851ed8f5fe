"""What `fpd cache-heatmaps` prints."""

from __future__ import annotations

from fpd.commands.summaries.heatmaps import describe

REPORT = {
    "views": 2,
    "complete_views": 2,
    "samples": 18,
    "bytes": 10_000,
    "bytes_per_view": 277.8,
    "float16_bytes": 250_000,
    "encoding_error": {"max_error": 0.1, "mean_displacement_px": 0.02},
}


def test_a_store_of_heatmaps_takes_one_line() -> None:
    text = describe({**REPORT, "portable": {}})
    assert text.startswith("heatmaps: 2 views of 18 samples, 10.0 kB (278 bytes a view; raw")
    assert "\n" not in text


def test_views_that_are_not_there_are_not_counted() -> None:
    text = describe({**REPORT, "portable": {}, "complete_views": 1})
    assert text.startswith("heatmaps: 1 of 2 views of 18 samples, ")


def test_a_portable_store_says_what_it_has() -> None:
    text = describe({**REPORT, "portable": {"train": 18, "test": 8000}})
    assert text.startswith("heatmaps and crops: 2 views")
    assert "\nportable: with crops, labels and samples (18 train, 8,000 test);" in text
