"""Beside the stages: score the predictions of any tool against a benchmark's own labels.

    fpd evaluate --predictions pred.mat --ground-truth gt_valid.mat --json scores.json
    fpd evaluate --predictions results.json --ground-truth person_keypoints_val2017.json

In: two files. Out: PCK for the .mat files of MPII and LSP, OKS-AP for annotations in COCO's format.
docs/scores.md describes the conventions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.readers.coco_settings import Coco
from ..pipeline.evaluation import oks
from ..pipeline.evaluation.ground_truth import read_ground_truth
from ..pipeline.evaluation.pck import pck
from ..pipeline.evaluation.predictions import read_predictions
from ..pipeline.evaluation.report.scores import pck_fields
from ..pipeline.runtime.files import check_output, sha256, write_json


def run(
    predictions: Path,
    ground_truth: Path,
    *,
    tau: float | None = None,
    zero_based: bool | None = None,
    category: Coco | None = None,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Score a file of predictions.

    Args:
        predictions: for PCK, a file that `evaluation.predictions` reads; for OKS, a file in COCO's
            results format.
        ground_truth: for PCK, a .mat file of MPII or LSP (`evaluation.ground_truth`); for OKS, a
            .json file in COCO's format.
        tau: PCK only: the threshold of the means; None: the benchmark's.
        zero_based: PCK only: whether the predictions have the first pixel's center at 0 rather than
            1; None: as in the ground truth.
        category: OKS only: the category, and the sigmas of a skeleton other than COCO's; None:
            persons.
        json_path: where to write the result.

    Returns:
        "metric"; the scores of `pck_fields` or `oks.score`; which samples were scored; the
        skeleton; the paths and SHA-256 digests of the two files.

    Raises:
        ValueError: a file or an option cannot be used, pycocotools is missing, or `json_path`
            cannot be written.
    """
    check_output(json_path, (predictions, ground_truth))
    if ground_truth.suffix.lower() == ".json":
        if tau is not None or zero_based is not None:
            raise ValueError(
                "--tau and --zero-based/--one-based are for PCK: they cannot be used with a ground "
                "truth in COCO's format"
            )
        if predictions.suffix.lower() != ".json":
            raise ValueError(
                f"{predictions}: expected a .json file in COCO's results format, as the ground "
                f"truth {ground_truth} is in COCO's format (for PCK, it is gt_valid.mat of MPII or "
                "joints.mat of LSP)"
            )
        report = _score_oks(predictions, ground_truth, category or Coco())
    else:
        if category is not None:
            raise ValueError("--sigmas and --category need a ground truth in COCO's format")
        report = _score_pck(predictions, ground_truth, tau, zero_based)
    report["ground_truth"] = {"path": str(ground_truth), "sha256": sha256(ground_truth)}
    if json_path is not None:
        write_json(json_path, report)
    return report


def _score_pck(
    predictions: Path, ground_truth: Path, tau: float | None, zero_based: bool | None
) -> dict[str, Any]:
    truth = read_ground_truth(ground_truth)
    file = read_predictions(predictions, truth.prediction_rows, truth.skeleton.joints)
    first_pixel = truth.first_pixel if zero_based is None else int(not zero_based)
    joints_MK2 = file.joints_NK2 + (truth.first_pixel - first_pixel)
    joints_NK2 = joints_MK2[truth.prediction_rows[len(joints_MK2)]]
    score = pck(joints_NK2, truth.joints_NK2, truth.normalizer_N, truth.skeleton, tau)
    return {
        **pck_fields(score, truth.skeleton),
        "samples": len(truth.joints_NK2),
        "scored_samples": truth.description,
        "samples_without_unit": int((~(truth.normalizer_N > 0)).sum()),
        "skeleton": truth.skeleton.name,
        "tau": truth.skeleton.threshold if tau is None else tau,
        "predictions": {
            "path": str(predictions),
            "sha256": sha256(predictions),
            "array": file.name,
            "layout": file.layout,
            "first_pixel": first_pixel,
            "matched_by_name": file.has_names,
        },
    }


def _score_oks(predictions: Path, ground_truth: Path, settings: Coco) -> dict[str, Any]:
    labels = oks.read_labels(ground_truth, settings)
    skeleton = labels.category.skeleton
    if not skeleton.sigmas:
        raise ValueError(
            f"{ground_truth}: {skeleton.name} has {skeleton.num_joints} joints of its own: OKS "
            "needs a tolerance for each, --sigmas 0.05,0.05,..."
        )
    results = oks.read_results(predictions, labels)
    return {
        "metric": "OKS",
        "oks": oks.score(labels, results.detections, skeleton.sigmas),
        "samples": len(labels.people),
        "ignored_samples": int(labels.is_ignored_N.sum()),
        "prediction_count": len(results.detections),
        "predictions_of_other_categories": results.other_categories,
        "notes": list(labels.people.notes),
        "skeleton": skeleton.name,
        "sigmas": list(skeleton.sigmas),
        "predictions": {
            "path": str(predictions),
            "sha256": sha256(predictions),
            "joint_names": None if results.names is None else str(results.names),
        },
    }
