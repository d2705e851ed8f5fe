"""Beside the stages: score any tool's predictions against a benchmark's own labels.

    fpd evaluate --predictions pred.mat --ground-truth gt_valid.mat --json scores.json
    fpd evaluate --predictions results.json --ground-truth person_keypoints_val2017.json

In: two files. Out: PCK for MPII's and LSP's .mat files, OKS-AP for annotations in COCO's format;
docs/scores.md has the conventions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.readers import coco
from ..pipeline.evaluation import oks
from ..pipeline.evaluation.ground_truth import GroundTruth, read_ground_truth
from ..pipeline.evaluation.pck import pck
from ..pipeline.evaluation.predictions import Predictions, read_predictions
from ..pipeline.evaluation.report.scores import shares
from ..pipeline.runtime.files import check_output, sha256, write_json


def run(
    predictions: Path,
    ground_truth: Path,
    *,
    tau: float | None = None,
    zero_based: bool | None = None,
    category: coco.Coco | None = None,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Score a file of predictions.

    Args:
        predictions: for PCK see `evaluation.predictions`; for OKS, COCO's results format.
        ground_truth: a .mat file of MPII or LSP (`evaluation.ground_truth`), or a .json file in
            COCO's format.
        tau: PCK's threshold for the means; None: the benchmark's.
        zero_based: whether PCK's predictions count the first pixel's center as 0 rather than 1;
            None: as the ground truth does.
        category: COCO's category, and the sigmas of a skeleton that is not COCO's; None: persons.
        json_path: where to write what is returned.

    Returns:
        "metric", the scores of `report.shares` or `oks.score`, who was scored, and the two files.

    Raises:
        ValueError: a file or an option cannot be used, pycocotools is missing, or there is nowhere
            to write to.
    """
    check_output(json_path, (predictions, ground_truth))
    if ground_truth.suffix.lower() == ".json":
        if tau is not None or zero_based is not None:
            raise ValueError(
                "--tau and --zero-based/--one-based belong to PCK: not with COCO's OKS"
            )
        report = _oks(predictions, ground_truth, category or coco.Coco())
    else:
        if category is not None:
            raise ValueError("--sigmas and --category need a ground truth in COCO's format")
        report = _pck(predictions, ground_truth, tau, zero_based)
    report["ground_truth"] = {"path": str(ground_truth), "sha256": sha256(ground_truth)}
    if json_path is not None:
        write_json(json_path, report)
    return report


def _pck(
    predictions: Path, ground_truth: Path, tau: float | None, zero_based: bool | None
) -> dict[str, Any]:
    truth = read_ground_truth(ground_truth)
    found = read_predictions(predictions, truth.rows, truth.skeleton.num_joints)
    first_pixel = truth.first_pixel if zero_based is None else int(not zero_based)
    joints_NK2 = found.joints_NK2 + (truth.first_pixel - first_pixel)
    joints_NK2 = joints_NK2[truth.rows[len(joints_NK2)]]
    score = pck(joints_NK2, truth.joints_NK2, truth.normalizer_N, truth.skeleton, tau)
    return (
        shares(score, truth.skeleton)
        | _people(truth)
        | {
            "skeleton": truth.skeleton.name,
            "tau": truth.skeleton.threshold if tau is None else tau,
            "predictions": _source(predictions, found, first_pixel),
        }
    )


def _people(truth: GroundTruth) -> dict[str, Any]:
    return {
        "people": len(truth.joints_NK2),
        "people_scored": truth.people,
        "people_without_unit": int((~(truth.normalizer_N > 0)).sum()),
    }


def _source(path: Path, found: Predictions, first_pixel: int) -> dict[str, Any]:
    return {
        "path": str(path),
        "sha256": sha256(path),
        "array": found.name,
        "layout": found.layout,
        "first_pixel": first_pixel,
    }


def _oks(predictions: Path, ground_truth: Path, settings: coco.Coco) -> dict[str, Any]:
    dataset = coco.read(ground_truth)
    category, skeleton = coco.choose(ground_truth, dataset, settings)
    if not skeleton.sigmas:
        raise ValueError(
            f"{ground_truth}: {skeleton.name} has {skeleton.num_joints} joints of its own: OKS "
            "needs a tolerance for each, --sigmas 0.05,0.05,..."
        )
    images = {image.get("id") for image in dataset["images"]}
    results = oks.read_results(predictions, skeleton.num_joints, images, category["id"])
    people = [a for a in dataset["annotations"] if a.get("category_id") == category["id"]]
    return {
        "metric": "OKS",
        "oks": oks.score(ground_truth, dataset, category["id"], results, skeleton.sigmas),
        "people": len(people),
        "people_predicted": len(results),
        "skeleton": skeleton.name,
        "sigmas": list(skeleton.sigmas),
        "predictions": {"path": str(predictions), "sha256": sha256(predictions)},
    }
