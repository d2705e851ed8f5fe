"""OKS-AP: COCO's keypoint score, computed by COCO's own evaluator (pycocotools).

The object keypoint similarity (OKS) of a prediction and a label is the mean over the labeled joints
of exp(-d^2 / (2 (2 sigma)^2 area)), where d is the distance in pixels and sigma the joint's
tolerance. Average precision and recall are taken over OKS thresholds of 0.5 to 0.95
(https://cocodataset.org/#keypoints-eval).

Shape letters: N samples, K joints.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.datasets import Data
from ...data.io.annotations import column, object_list, read_json
from ...data.readers import coco
from ...data.samples import SampleSet
from .inference import PredictedJoints

STATISTICS = {"AP": 0, "AP50": 1, "AP75": 2, "AP(M)": 3, "AP(L)": 4, "AR": 5}
"""The statistics reported, and their indices in COCOeval's `stats` for keypoints."""

UNDEFINED = -1.0
"""COCOeval's value of a statistic without any object of its size."""

MIN_PEAK = 0.2
"""The score of a prediction is the mean of its joints' peaks above this: HRNet's, from
lib/dataset/coco.py and TEST.IN_VIS_THRE of its configurations. It only ranks predictions."""

AREA_PER_BOX = 0.53
"""Replaces an annotation's missing area, as a share of its box's: xtcocotools' value, which mmpose
uses for CrowdPose and similar data sets."""

INSTALL = "OKS needs pycocotools: pip install 'fast-pose-distillation[coco]'"


def available() -> bool:
    """Whether pycocotools is installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        return False
    return True


def oks_fields(data: Data, samples: SampleSet, predicted: PredictedJoints) -> dict[str, Any]:
    """The OKS fields of a model's row in the report.

    Returns:
        {} if the data is not in COCO's format; otherwise "oks", the statistics of `score`, or None
        and the reason as "oks_left_out".
    """
    if data.reader != "coco" or data.root is None:
        return {}
    sigmas = samples.skeleton.sigmas
    if not sigmas:
        return _left_out(
            f"no sigmas of {samples.skeleton.name}: give them with --set data.coco.sigmas=[...]"
        )
    if not available():
        return _left_out(INSTALL)
    if predicted.uncovered:
        uncovered = ", ".join(samples.skeleton.joints[k] for k in predicted.uncovered)
        return _left_out(f"the model does not predict {uncovered}, and OKS needs all joints")
    path, _ = coco.split_paths(data.root, "test", data.coco)
    dataset = coco.read(path)
    category, _ = coco.choose_category(path, dataset, data.coco)
    image_ids = {str(a.get("id")): a.get("image_id") for a in dataset["annotations"]}
    detections = coco_results(
        [image_ids[sample_id.rpartition("/")[2]] for sample_id in samples.ids],
        category["id"],
        predicted,
    )
    return {"oks": score(path, dataset, category["id"], detections, sigmas)}


def _left_out(reason: str) -> dict[str, Any]:
    return {"oks": None, "oks_left_out": reason}


def coco_results(
    image_ids: Sequence[Any], category: Any, predicted: PredictedJoints
) -> list[dict[str, Any]]:
    """Predictions in COCO's results format, one per sample.

    Args:
        image_ids: of the N samples' images.
        category: the id of their category.
    """
    confident_NK = predicted.peaks_NK > MIN_PEAK
    sums_N = np.where(confident_NK, predicted.peaks_NK, 0).sum(-1)
    score_N = sums_N / np.maximum(confident_NK.sum(-1), 1)
    keypoints_NK3 = np.concatenate([predicted.joints_NK2, predicted.peaks_NK[..., None]], axis=-1)
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "keypoints": keypoints.ravel().tolist(),
            "score": float(score),
        }
        for image_id, keypoints, score in zip(image_ids, keypoints_NK3, score_N, strict=True)
    ]


def score(
    path: Path,
    dataset: dict[str, Any],
    category: Any,
    detections: list[dict[str, Any]],
    sigmas: Sequence[float],
) -> dict[str, float | None]:
    """COCOeval's statistics, in 0..1; None if no annotation is of the statistic's size.

    All annotations of the category count, in all images of the file, so annotations without a
    prediction lower the recall. Crowds and annotations without labeled joints are ignored, as COCO
    ignores them.

    Args:
        path: the file that `dataset` is from, for messages.
        dataset: in COCO's format, as returned by `data.readers.coco.read`.
        category: the id of the category to score.
        detections: predictions in COCO's results format.
        sigmas: the tolerance of each of the K joints.

    Raises:
        ValueError: pycocotools is missing, or an annotation or prediction is malformed.
    """
    if not available():
        raise ValueError(INSTALL)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground_truth = COCO()
    ground_truth.dataset = {
        "images": [{"id": image.get("id")} for image in dataset["images"]],
        "categories": [{"id": category}],
        "annotations": _annotations(path, dataset, category, len(sigmas)),
    }
    predictions = COCO()
    predictions.dataset = ground_truth.dataset | {
        "annotations": _complete_detections(detections, len(sigmas))
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
        ground_truth.createIndex()
        predictions.createIndex()
        evaluation = COCOeval(ground_truth, predictions, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = {name: float(evaluation.stats[index]) for name, index in STATISTICS.items()}
    return {name: None if value == UNDEFINED else value for name, value in values.items()}


def _annotations(
    path: Path, dataset: dict[str, Any], category: Any, joints: int
) -> list[dict[str, Any]]:
    """One category's annotations with all fields that COCOeval reads.

    They are numbered from 1, because COCOeval treats a match with id 0 as no match.
    """
    annotations = [a for a in dataset["annotations"] if a.get("category_id") == category]
    names = [f"annotation {a.get('id')}" for a in annotations]
    keypoints = column(path, annotations, "keypoints", (3 * joints,), names)
    boxes = column(path, annotations, "bbox", (4,), names)
    return [
        {
            "id": number,
            "image_id": annotation.get("image_id"),
            "category_id": category,
            "keypoints": labels.tolist(),
            "num_keypoints": int((labels[2::3] > 0).sum()),
            "bbox": box.tolist(),
            "area": float(annotation.get("area") or AREA_PER_BOX * box[2] * box[3]),
            "iscrowd": int(bool(annotation.get("iscrowd"))),
        }
        for number, (annotation, labels, box) in enumerate(
            zip(annotations, keypoints, boxes, strict=True), 1
        )
    ]


def _complete_detections(detections: list[dict[str, Any]], joints: int) -> list[dict[str, Any]]:
    """Add ids and areas (of the joints' extent) to results, as `COCO.loadRes` does."""
    completed = []
    for number, detection in enumerate(detections, 1):
        xy_K2 = np.array(detection["keypoints"]).reshape(joints, 3)[:, :2]
        width, height = np.ptp(xy_K2, axis=0)
        completed.append(detection | {"id": number, "area": float(width * height)})
    return completed


def read_results(
    path: Path, joints: int, image_ids: set[Any], category: Any
) -> list[dict[str, Any]]:
    """Read predictions in COCO's results format.

    The file is a list of objects with "image_id", "category_id" (optional), "keypoints" (3 K
    numbers) and "score". Predictions of other categories are skipped.

    Args:
        joints: K.
        image_ids: the images of the ground truth.
        category: the id of the category to score.

    Raises:
        ValueError: the file is damaged, or a prediction has another image or number of joints.
    """
    entries = object_list(path, read_json(path, "expected predictions in COCO's results format"))
    entries = [entry for entry in entries if entry.get("category_id", category) == category]
    names = [f"prediction {number}" for number in range(1, len(entries) + 1)]
    keypoints = column(path, entries, "keypoints", (3 * joints,), names)
    scores = column(path, entries, "score", (), names)
    for name, entry in zip(names, entries, strict=True):
        image_id = entry.get("image_id")
        if not isinstance(image_id, int | str) or image_id not in image_ids:
            raise ValueError(
                f"{path}: {name}: expected an image_id of the ground truth's, found {image_id!r}"
            )
    return [
        {
            "image_id": entry["image_id"],
            "category_id": category,
            "keypoints": row.tolist(),
            "score": float(score),
        }
        for entry, row, score in zip(entries, keypoints, scores, strict=True)
    ]
