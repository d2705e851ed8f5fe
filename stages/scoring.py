"""Beside the stages: score predictions that any tool made against a benchmark's own labels.

    fpd evaluate --predictions pred.mat --ground-truth gt_valid.mat --json scores.json

In: two files. Out: a table, and the same in full precision. docs/scores.md has the conventions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.ground_truth import GroundTruth, read_ground_truth
from ..data.predictions import Predictions, read_predictions
from ..pipeline.metrics import pck
from ..pipeline.report.scores import align, percent, shares
from ..pipeline.sizes import counted
from ..pipeline.workdir import check_output, sha256, write_json


def run(
    predictions: Path,
    ground_truth: Path,
    tau: float | None = None,
    zero_based: bool | None = None,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Score a file of predictions.

    Args:
        predictions: see `data.predictions`.
        ground_truth: see `data.ground_truth`.
        tau: the threshold of the means; none given: the benchmark's.
        zero_based: whether the predictions give the first pixel's centre as 0 rather than 1; none
            given: as the ground truth does.
        json_path: where to write what is returned.

    Returns:
        The scores of `report.shares`, who was scored, and what was read from where.

    Raises:
        ValueError: a file cannot be used, or there is nowhere to write to.
    """
    check_output(json_path, (predictions, ground_truth))
    truth = read_ground_truth(ground_truth)
    found = read_predictions(predictions, truth.rows, truth.skeleton.num_joints)
    first_pixel = truth.first_pixel if zero_based is None else int(not zero_based)
    in_truths_base = found.joints_NK2 + (truth.first_pixel - first_pixel)
    in_truths_base = in_truths_base[truth.rows[len(in_truths_base)]]
    score = pck(in_truths_base, truth.joints_NK2, truth.normaliser_N, truth.skeleton, tau)
    report = (
        shares(score, truth.skeleton)
        | _people(truth)
        | {
            "skeleton": truth.skeleton.name,
            "tau": truth.skeleton.threshold if tau is None else tau,
            "predictions": _source(predictions, found, first_pixel),
            "ground_truth": {"path": str(ground_truth), "sha256": sha256(ground_truth)},
        }
    )
    if json_path is not None:
        write_json(json_path, report)
    return report


def describe(report: dict[str, Any]) -> str:
    """The scores in percent, joint by joint under them, and what did not count or was wrong."""
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
            f"{report['metric']} in percent, {counted(report['people'], 'person', 'people')}: "
            f"{report['people_scored']}",
            align([header, row]),
            "mean: weighted by joint count; unweighted: of the joints, each counting the same; "
            f"AUC: of the mean from 0 to {report['curve']['thresholds'][-1]:g}",
            "",
            align([["joint", report["metric"], "counted"], *joints]),
            *_remarks(report),
        ]
    )


def _remarks(report: dict[str, Any]) -> list[str]:
    source = report["predictions"]
    remarks = [f"predictions: {source['layout']}, first pixel at {source['first_pixel']}"]
    if report["people_without_unit"]:
        remarks.append(
            f"{counted(report['people_without_unit'], 'person', 'people')} without a unit of "
            "length (no head box, or a torso of which an end is missing): not counted"
        )
    if report["not_finite"]:
        remarks.append(
            f"{report['not_finite']} of {counted(report['joints'], 'predicted joint')} NaN or "
            "infinite: counted as wrong"
        )
    return remarks


def _people(truth: GroundTruth) -> dict[str, Any]:
    return {
        "people": len(truth.joints_NK2),
        "people_scored": truth.people,
        "people_without_unit": int((~(truth.normaliser_N > 0)).sum()),
    }


def _source(path: Path, found: Predictions, first_pixel: int) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": sha256(path),
        "array": found.name,
        "layout": found.layout,
        "first_pixel": first_pixel,
    }
