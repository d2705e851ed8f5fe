"""What `fpd evaluate --predictions` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...pipeline.evaluation.oks import STATISTICS
from ...pipeline.evaluation.report.scores import percent
from ...pipeline.runtime.text import align, pluralize


def describe(report: dict[str, Any]) -> str:
    """The scores in percent."""
    return _describe_oks(report) if report["metric"] == "OKS" else _describe_pck(report)


def _describe_oks(report: dict[str, Any]) -> str:
    name = Path(report["predictions"]["path"]).name
    row = [name, *(percent(report["oks"][key]) for key in STATISTICS)]
    return "\n".join(
        [
            f"OKS in percent, {report['people_predicted']} predictions of {report['people']} "
            f"labeled {report['skeleton']}s",
            align([["", *STATISTICS], row]),
        ]
    )


def _describe_pck(report: dict[str, Any]) -> str:
    """Means, joint by joint under them, and what did not count or was wrong."""
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
            f"{report['metric']} in percent, {pluralize(report['people'], 'person', 'people')}: "
            f"{report['people_scored']}",
            align([header, row]),
            "mean: weighted by joint count; unweighted: of the joints, each counting the same; "
            f"AUC: of the mean from 0 to {report['curve']['thresholds'][-1]:g}",
            "",
            align([["joint", report["metric"], "pluralize"], *joints]),
            *_remarks(report),
        ]
    )


def _remarks(report: dict[str, Any]) -> list[str]:
    source = report["predictions"]
    remarks = [f"predictions: {source['layout']}, first pixel at {source['first_pixel']}"]
    if report["people_without_unit"]:
        remarks.append(
            f"{pluralize(report['people_without_unit'], 'person', 'people')} without a unit of "
            "length (no head box, or a torso of which an end is missing): not pluralize"
        )
    if report["not_finite"]:
        remarks.append(
            f"{report['not_finite']} of {pluralize(report['joints'], 'predicted joint')} NaN or "
            "infinite: pluralize as wrong"
        )
    return remarks
