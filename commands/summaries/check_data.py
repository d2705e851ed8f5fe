"""The text that `fpd check-data` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import align, pluralize, printable

MAX_LISTED_NOTES = 5
MAX_PROBLEMS_BELOW_THEIR_NUMBER = 20
"""Of more, the number is on the last line, too: on a screen, the first has scrolled away."""

HEADER = ["split", "samples", "images", "joints", "labeled", "unscored", "box px", "image px"]


def describe(report: dict[str, Any]) -> str:
    """A table with a row for each split, then the problems, one a line.

    Args:
        report: what `stages.check_data.run` returns.
    """
    rows = [
        [
            split,
            str(counts["samples"]),
            str(counts["images"]),
            str(counts["labeled_joints"]),
            f"{100 * counts['labeled']:.1f} %",
            str(counts["unscored"]),
            _range(counts["box_px"]),
            _range(counts["image_px"]),
        ]
        for split, counts in report["splits"].items()
    ]
    problems = report["problems"]
    verdict = f"{pluralize(len(problems), 'problem')}:" if problems else "no problems"
    notes = [*_people_notes(report), *_image_notes(report)]
    table = [align([HEADER, *rows])] if rows else []
    lines = dict.fromkeys([*table, *notes])  # label files may have the same remark
    total = [f"{verdict[:-1]} in all"] if len(problems) > MAX_PROBLEMS_BELOW_THEIR_NUMBER else []
    return "\n".join([*lines, verdict, *map(printable, problems), *total])


def _people_notes(report: dict[str, Any]) -> list[str]:
    """Who is in the label files and who is left out; which joints a flip exchanges."""
    lines = []
    for label_file in report["label_files"]:
        lines += [label_file["text"], *label_file["notes"]]
    lines += [report[key] for key in ("flip", "order_note") if report[key]]
    return [printable(line) for line in lines]


def _image_notes(report: dict[str, Any]) -> list[str]:
    """The first notes on images, one a line."""
    notes = report["image_notes"]
    more = len(notes) - MAX_LISTED_NOTES
    tail = [f"and {more} more such images (--json lists all)"] if more > 0 else []
    return [*map(printable, notes[:MAX_LISTED_NOTES]), *tail]


def _range(smallest_median_largest: list[float] | None) -> str:
    if smallest_median_largest is None:
        return "-"
    return "..".join(f"{value:.0f}" for value in smallest_median_largest)
