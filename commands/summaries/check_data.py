"""What `fpd check-data` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import align, pluralize


def describe(report: dict[str, Any]) -> str:
    """The splits side by side, then the problems, one a line."""
    header = ["split", "people", "images", "joints", "labeled", "no unit", "box px", "image px"]
    rows = [
        [
            name,
            *(str(row[key]) for key in ("people", "images", "joints")),
            f"{100 * row['labeled']:.1f} %",
            str(row["unscored"]),
            _range(row["box_px"]),
            _range(row["image_px"]),
        ]
        for name, row in report["splits"].items()
    ]
    faults = report["problems"]
    verdict = f"{pluralize(len(faults), 'problem')}:" if faults else "nothing is wrong with it"
    return "\n".join([align([header, *rows]), verdict, *faults])


def _range(spread: list[float] | None) -> str:
    return "-" if spread is None else "{:.0f}..{:.0f}..{:.0f}".format(*spread)
