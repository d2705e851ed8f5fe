"""The closing lines of `fpd distill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipeline.evaluation.report.scores import percent
from ...pipeline.runtime.text import format_bytes, format_duration, pluralize, printable

if TYPE_CHECKING:
    from ..train import StageReports


def describe(reports: StageReports, work: Path, exported: dict[str, Any]) -> str:
    """What was distilled, how long it took, how good the student is, and what to do next.

    Args:
        exported: what `stages.export.run` returns.
    """
    path = exported["path"]
    lines = [
        "",
        _amount(reports),
        _times(reports.seconds),
        _quality(reports.evaluation),
        f"student: {path}, {format_bytes(exported['bytes'])}, and {path}.json, which describes it",
        f"report: {work / 'evaluation' / 'report.html'}",
        "next:",
        f"  fpd predict PHOTO -w {work}",
        f"  fpd run student -w {work} --name longer --set student.epochs=40",
        f"  fpd export -w {work} --quantize static",
    ]
    return printable("\n".join(lines), lines=True)


def _amount(reports: StageReports) -> str:
    heatmaps = reports.heatmaps
    photographs = pluralize(reports.photographs, "photograph")
    people = pluralize(heatmaps["samples"], "person", "people")
    views = pluralize(heatmaps["views"], "view")
    size = format_bytes(heatmaps["bytes"])
    return f"of {photographs}: distilled on {people}, {views} of each ({size} of heatmaps)"


def _times(seconds: dict[str, float]) -> str:
    stages = ", ".join(f"{name} {format_duration(value)}" for name, value in seconds.items())
    return f"time: {stages}; in all {format_duration(sum(seconds.values()))}"


def _quality(evaluation: dict[str, Any]) -> str:
    """The student's score or, without labels, its agreement with the teacher."""
    row = evaluation["models"]["student"]
    samples = pluralize(row["samples"], "person", "people")
    if row["joints"]:
        return f"student: {row['metric']} {percent(row['mean'])} on {samples} with labels"
    agreement = row.get("agreement")
    if agreement is None:
        return f"student: nothing to compare on {samples}: the teacher sees none of their joints"
    near = next(iter(agreement["within"]))
    return (
        f"student against teacher, not labels, on {samples} of held-out photographs: joints "
        f"{100 * agreement['mean_distance']:.1f} % of the box's longer side apart on average, "
        f"{percent(agreement['within'][near])} % within {100 * float(near):g} %"
    )
