"""The text that `fpd check-data` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import align, pluralize

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
    return "\n".join([align([HEADER, *rows]), verdict, *problems])


def _range(smallest_median_largest: list[float] | None) -> str:
    if smallest_median_largest is None:
        return "-"
    return "..".join(f"{value:.0f}" for value in smallest_median_largest)
