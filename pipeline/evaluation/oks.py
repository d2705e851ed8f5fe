"""OKS-AP: COCO's own score of keypoints, by its own evaluator (pycocotools).

A person's similarity to a label (OKS) is the mean over its labeled joints of
exp(-d^2 / (2 (2 sigma)^2 area)), d being the distance in pixels and sigma the joint's tolerance;
average precision and recall are over thresholds of 0.5 to 0.95 on it
(cocodataset.org, "Keypoint evaluation"). Shape letters: N people, K joints.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.datasets import Data
from ...data.io.annotations import column, people_list, read_json
from ...data.readers import coco
from ...data.samples import SampleSet
from .inference import Predicted

# Where COCOeval keeps them in `stats`, for keypoints.
STATISTICS = {"AP": 0, "AP50": 1, "AP75": 2, "AP(M)": 3, "AP(L)": 4, "AR": 5}
UNDEFINED = -1.0  # what COCOeval says where nobody is of that size

# A person's score is the mean of its joints' peaks above this (HRNet, lib/dataset/coco.py and its
# recipes' TEST.IN_VIS_THRE): the order in which people are pluralize, no more.
LEAST_PEAK = 0.2

# What stands in for the area of a person that the file has none of, as a share of the box's: that
# of xtcocotools, which mmpose takes for CrowdPose and its kin.
AREA_OF_BOX = 0.53

INSTALL = "OKS needs pycocotools: pip install 'fast-pose-distillation[coco]'"


def available() -> bool:
    """Whether pycocotools is installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        return False
    return True


def oks_row(data: Data, samples: SampleSet, predicted: Predicted) -> dict[str, Any]:
    """What a model's row of the report says of OKS: nothing, where the data isn't COCO's.

    Returns:
        {}, or {"oks": the scores of `score` or None, "oks_left_out": why, where None}.
    """
    if data.reader != "coco" or data.root is None:
        return {}
    sigmas = samples.skeleton.sigmas
    if not sigmas:
        return _without(
            f"no sigmas of {samples.skeleton.name}: give them with --set data.coco.sigmas=[...]"
        )
    if not available():
        return _without(INSTALL)
    if predicted.silent:
        unknown = [samples.skeleton.joints[k] for k in predicted.silent]
        return _without(f"it has no {', '.join(unknown)}, and OKS is of all joints")
    path, _ = coco.location(data.root, "test", data.coco)
    dataset = coco.read(path)
    category, _ = coco.choose(path, dataset, data.coco)
    images = {str(a.get("id")): a.get("image_id") for a in dataset["annotations"]}
    found = results(
        [images[sample_id.rpartition("/")[2]] for sample_id in samples.ids],
        category["id"],
        predicted,
    )
    return {"oks": score(path, dataset, category["id"], found, sigmas)}


def _without(why: str) -> dict[str, Any]:
    return {"oks": None, "oks_left_out": why}


def results(images: Sequence[Any], category: Any, predicted: Predicted) -> list[dict[str, Any]]:
    """Predictions in COCO's results format, a person each."""
    sure_NK = predicted.peaks_NK > LEAST_PEAK
    sums_N = np.where(sure_NK, predicted.peaks_NK, 0).sum(-1)
    score_N = sums_N / np.maximum(sure_NK.sum(-1), 1)
    keypoints_NK3 = np.concatenate([predicted.joints_NK2, predicted.peaks_NK[..., None]], axis=-1)
    return [
        {
            "image_id": image,
            "category_id": category,
            "keypoints": keypoints.ravel().tolist(),
            "score": float(score),
        }
        for image, keypoints, score in zip(images, keypoints_NK3, score_N, strict=True)
    ]


def score(
    path: Path,
    dataset: dict[str, Any],
    category: Any,
    found: list[dict[str, Any]],
    sigmas: Sequence[float],
) -> dict[str, float | None]:
    """COCOeval's statistics, in 0..1; None where nobody is of that size.

    People are those of the whole file, in all its images: who is not predicted lowers the recall;
    crowds, and people without labeled joints, are ignored as COCO ignores them.

    Args:
        path: the file of `dataset`, for messages.
        dataset: in COCO's format, as `data.readers.coco.read` checks it.
        category: id of the people scored.
        found: predictions in COCO's results format.
        sigmas: the tolerance of each of the K joints.

    Raises:
        ValueError: pycocotools is missing, or an annotation or prediction is not as COCO has them.
    """
    if not available():
        raise ValueError(INSTALL)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "images": [{"id": image.get("id")} for image in dataset["images"]],
        "categories": [{"id": category}],
        "annotations": _annotations(path, dataset, category, len(sigmas)),
    }
    predictions = COCO()
    predictions.dataset = truth.dataset | {"annotations": _detections(found, len(sigmas))}
    with contextlib.redirect_stdout(io.StringIO()):  # it tells every step
        truth.createIndex()
        predictions.createIndex()
        evaluation = COCOeval(truth, predictions, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.grad_accum_steps()
        evaluation.summarize()
    values = {name: float(evaluation.stats[place]) for name, place in STATISTICS.items()}
    return {name: None if value == UNDEFINED else value for name, value in values.items()}


def _annotations(
    path: Path, dataset: dict[str, Any], category: Any, joints: int
) -> list[dict[str, Any]]:
    """The labels of one category, with all that COCOeval looks at, numbered from 1.

    (COCOeval takes a match with an annotation of id 0 for none.)
    """
    annotations = [a for a in dataset["annotations"] if a.get("category_id") == category]
    names = [f"annotation {a.get('id')}" for a in annotations]
    keypoints = column(path, annotations, "keypoints", (3 * joints,), names)
    boxes = column(path, annotations, "bbox", (4,), names)
    rows = zip(annotations, keypoints, boxes, strict=True)
    return [
        {
            "id": number,
            "image_id": annotation.get("image_id"),
            "category_id": category,
            "keypoints": labels.tolist(),
            "num_keypoints": int((labels[2::3] > 0).sum()),
            "bbox": box.tolist(),
            "area": float(annotation.get("area") or AREA_OF_BOX * box[2] * box[3]),
            "iscrowd": int(bool(annotation.get("iscrowd"))),
        }
        for number, (annotation, labels, box) in enumerate(rows, 1)
    ]


def _detections(found: list[dict[str, Any]], joints: int) -> list[dict[str, Any]]:
    """As `COCO.loadRes` completes results: an area, from the joints' extent, and an id."""
    detections = []
    for number, row in enumerate(found, 1):
        xy_K2 = np.array(row["keypoints"]).reshape(joints, 3)[:, :2]
        width, height = np.ptp(xy_K2, axis=0)
        detections.append(row | {"id": number, "area": float(width * height)})
    return detections


def read_results(path: Path, joints: int, image_ids: set[Any], category: Any) -> list[Any]:
    """A file in COCO's results format: a list of image_id, category_id, keypoints (3 K) and score.

    Raises:
        ValueError: it is damaged, or a prediction is of another image or number of joints.
    """
    people = people_list(path, read_json(path, "expected predictions in COCO's results format"))
    people = [person for person in people if person.get("category_id", category) == category]
    keypoints = column(path, people, "keypoints", (3 * joints,))
    scores = column(path, people, "score", ())
    for number, person in enumerate(people, 1):
        image = person.get("image_id")
        if not isinstance(image, int | str) or image not in image_ids:
            raise ValueError(
                f"{path}: person {number}: expected an image_id of the ground truth's, found "
                f"{image!r}"
            )
    return [
        {
            "image_id": person["image_id"],
            "category_id": category,
            "keypoints": row.tolist(),
            "score": float(sure),
        }
        for person, row, sure in zip(people, keypoints, scores, strict=True)
    ]


def lines(rows: dict[str, dict[str, Any]]) -> list[str]:
    """What a table says of OKS, model by model; nothing where no row has it."""
    from ..runtime.text import align
    from .report.scores import percent

    with_oks = {name: row for name, row in rows.items() if "oks" in row}
    scored = {name: row["oks"] for name, row in with_oks.items() if row["oks"]}
    reasons = sorted({row["oks_left_out"] for row in with_oks.values() if not row["oks"]})
    cells = [[name, *(percent(oks[key]) for key in STATISTICS)] for name, oks in scored.items()]
    table = ["OKS in percent, on the labels' boxes", align([["model", *STATISTICS], *cells])]
    return [*(table if cells else []), *(f"OKS left out: {reason}" for reason in reasons)]
