"""What `fpd evaluate --predictions` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...pipeline.evaluation.oks import STATISTICS
from ...pipeline.evaluation.report.scores import percent
from ...pipeline.runtime.text import align, pluralize, printable


def describe(report: dict[str, Any]) -> str:
    """The scores of a prediction file, in percent."""
    return _describe_oks(report) if report["metric"] == "OKS" else _describe_pck(report)


def _describe_oks(report: dict[str, Any]) -> str:
    name = Path(report["predictions"]["path"]).name
    row = [name, *(percent(report["oks"][key]) for key in STATISTICS)]
    return "\n".join(
        [
            f"OKS in percent, {pluralize(report['prediction_count'], 'prediction')} of "
            f"{pluralize(report['samples'], 'sample')} ({report['skeleton']})",
            align([["", *STATISTICS], row]),
            *_oks_notes(report),
        ]
    )


def _oks_notes(report: dict[str, Any]) -> list[str]:
    """What did not count, and what is unusual in the files."""
    notes = list(report["notes"])
    if report["ignored_samples"]:
        notes.append(
            f"{pluralize(report['ignored_samples'], 'sample')} ignored: crowd regions, or without "
            "labeled joints, or without area and box"
        )
    if report["predictions_of_other_categories"]:
        count = pluralize(report["predictions_of_other_categories"], "prediction")
        notes.append(f"{count} of other categories left out")
    if report["predictions"]["joint_names"]:
        notes.append(f"joints matched by name: {report['predictions']['joint_names']}")
    return [printable(note) for note in notes]


def _describe_pck(report: dict[str, Any]) -> str:
    """The means, the score of each joint, and notes on what did not count."""
    groups = report["groups"]
    header = ["", *groups, "mean", "unweighted", "AUC"]
    means = [report["mean"], report["mean_unweighted"], report["auc"]]
    row = [Path(report["predictions"]["path"]).name, *map(percent, [*groups.values(), *means])]
    joints = [
        [name, percent(share), str(report["counts"][name])]
        for name, share in report["per_joint"].items()
    ]
    return "\n".join(
        [
            f"{report['metric']} in percent, {pluralize(report['samples'], 'sample')}: "
            f"{report['scored_samples']}",
            align([header, row]),
            "mean: weighted by joint count; unweighted: each joint with the same weight; "
            f"AUC: area under the mean from 0 to {report['curve']['thresholds'][-1]:g}",
            "",
            align([["joint", report["metric"], "count"], *joints]),
            *_notes(report),
        ]
    )


def _notes(report: dict[str, Any]) -> list[str]:
    source = report["predictions"]
    notes = [f"predictions: {source['layout']}, first pixel at {source['first_pixel']}"]
    if source["matched_by_name"]:
        notes.append("joints matched by name (joint_names)")
    if report["samples_without_unit"]:
        notes.append(
            f"{pluralize(report['samples_without_unit'], 'sample')} without a unit of length (no "
            "head box, or a torso with a joint missing): not counted"
        )
    if report["not_finite"]:
        notes.append(
            f"{report['not_finite']} of {pluralize(report['joints'], 'predicted joint')} NaN or "
            "infinite: counted as wrong"
        )
    return notes
