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
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data.io import coco_format
from ...data.io.annotations import as_id, column, found, object_list, read_json
from ...data.io.coco_format import CocoFile, Id, People
from ...data.io.files import parse_json, read_bytes
from ...data.joint_names import joint_order
from ...data.readers import coco
from ...data.readers.coco_settings import HELD_OUT, Coco
from ...data.samples import SampleSet
from ...data.sections import Data
from ...data.skeletons import Skeleton
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

CATEGORY = 1
"""The only category's id for COCOeval."""

NAMES_FILE = "joints.json"
"""The file beside `fpd predict`'s results that has the joints' names, in the results' order."""

MAX_NAMES_BYTES = 1 << 22

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
    if data.coco.test == HELD_OUT or data.missing_images == "skip":
        return _left_out(
            "OKS counts all annotations of a file: it needs data.coco.test to name one, and "
            "data.missing_images = refuse"
        )
    path, _ = coco.split_paths(data.root, "test", data.coco)
    labels = read_labels(path, data.coco)
    image_ids = {
        coco.sample_id(path, annotation_id, data.root / data.coco.folder): image_id
        for annotation_id, image_id in zip(labels.people.ids, labels.people.image_ids, strict=True)
    }
    detections = coco_results(
        [image_ids[sample_id] for sample_id in samples.ids], labels.category.ids[0], predicted
    )
    return {"oks": score(labels, detections, sigmas)}


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


@dataclass(frozen=True, eq=False)
class Labels:
    """The ground truth of OKS: the annotations of one category in all images of a file."""

    file: CocoFile
    category: coco.Category
    people: People

    @property
    def is_ignored_N(self) -> NDArray[np.bool_]:
        """bool: annotations that count neither as found nor as missed."""
        return np.asarray(
            self.people.is_crowd_N
            | (self.people.visibility_NK == 0).all(-1)
            | np.isnan(_areas(self.people))
        )


def read_labels(path: Path, settings: Coco) -> Labels:
    """Read the ground truth from a file in COCO's format.

    Raises:
        ValueError: the file is missing or damaged, or has no such category.
    """
    file = coco.read(path)
    category = coco.choose_category(file, settings)
    people = coco_format.people(file, category.ids, category.skeleton.num_joints)
    return Labels(file, category, people)


def score(
    labels: Labels, detections: Sequence[dict[str, Any]], sigmas: Sequence[float]
) -> dict[str, float | None]:
    """COCOeval's statistics, in 0..1; None if no annotation is of the statistic's size.

    All annotations of the category count, in all images of the file, so annotations without a
    prediction lower the recall. Crowds and annotations without labeled joints are ignored, as COCO
    ignores them, and so are those with neither area nor box.

    Args:
        detections: predictions in COCO's results format.
        sigmas: the tolerance of each of the K joints.

    Raises:
        ValueError: pycocotools is missing.
    """
    if not available():
        raise ValueError(INSTALL)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # COCOeval sorts the images' ids: numbers in that order replace ids of several types.
    by_type = sorted(labels.file.images, key=lambda image_id: (isinstance(image_id, str), image_id))
    numbers = {image_id: number for number, image_id in enumerate(by_type, 1)}
    ground_truth = COCO()
    ground_truth.dataset = {
        "images": [{"id": number} for number in numbers.values()],
        "categories": [{"id": CATEGORY}],
        "annotations": _annotations(labels, numbers),
    }
    predictions = COCO()
    predictions.dataset = ground_truth.dataset | {
        "annotations": _complete_detections(detections, len(sigmas), numbers)
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


def _annotations(labels: Labels, numbers: Mapping[Id, int]) -> list[dict[str, Any]]:
    """The annotations with all fields that COCOeval reads.

    They are numbered from 1, because COCOeval treats a match with id 0 as no match.
    """
    people = labels.people
    keypoints_NK3 = np.concatenate(
        [np.nan_to_num(people.joints_NK2), people.visibility_NK[..., None]], axis=-1
    )
    counts_N = np.where(labels.is_ignored_N, 0, (people.visibility_NK > 0).sum(-1))
    box_N4, area_N = np.nan_to_num(people.box_N4), np.nan_to_num(_areas(people))
    return [
        {
            "id": index + 1,
            "image_id": numbers[people.image_ids[index]],
            "category_id": CATEGORY,
            "keypoints": keypoints_NK3[index].ravel().tolist(),
            "num_keypoints": int(counts_N[index]),
            "bbox": box_N4[index].tolist(),
            "area": float(area_N[index]),
            "iscrowd": int(people.is_crowd_N[index]),
        }
        for index in range(len(people))
    ]


def _areas(people: People) -> NDArray[np.float64]:
    """The annotations' areas, or `AREA_PER_BOX` of their boxes; NaN without either."""
    box_area_N = people.box_N4[:, 2] * people.box_N4[:, 3]
    replaced_N = np.where(box_area_N > 0, AREA_PER_BOX * box_area_N, np.nan)
    return np.where(np.isnan(people.area_N), replaced_N, people.area_N)


def _complete_detections(
    detections: Sequence[dict[str, Any]], joints: int, numbers: Mapping[Id, int]
) -> list[dict[str, Any]]:
    """Results with ids and areas (of the joints' extent), as `COCO.loadRes` completes them."""
    completed = []
    for number, detection in enumerate(detections, 1):
        xy_K2 = np.array(detection["keypoints"]).reshape(joints, 3)[:, :2]
        width, height = np.ptp(xy_K2, axis=0)
        completed.append(
            detection
            | {
                "id": number,
                "image_id": numbers[detection["image_id"]],
                "category_id": CATEGORY,
                "area": float(width * height),
            }
        )
    return completed


@dataclass(frozen=True)
class Results:
    """The predictions of a file in COCO's results format.

    Attributes:
        detections: those of the scored category; their joints are in the ground truth's order.
        other_categories: the number of predictions of the file's other categories.
        names: the file that has the joints' names; None: there is none, so that their order is
            taken to be the ground truth's.
    """

    detections: list[dict[str, Any]]
    other_categories: int
    names: Path | None


def read_results(path: Path, labels: Labels) -> Results:
    """Read predictions in COCO's results format.

    The file is a list of objects with "image_id", "category_id" (optional), "keypoints" (x, y and
    a number for every joint) and "score". Predictions of other categories are counted. Where a
    file `joints.json` with the names is beside it, as `fpd predict` writes it, joints are matched
    by name.

    Raises:
        ValueError: the file is damaged, or a prediction has another image, an unknown category or
            another number of joints.
    """
    entries = object_list(path, read_json(path, "expected predictions in COCO's results format"))
    skeleton, kept, names = labels.category.skeleton, [], []
    for number, entry in enumerate(entries, 1):
        name = f"prediction {number}"
        category = _known_id(path, name, "category_id", entry, labels.file.categories)
        if category is None or category in labels.category.ids:
            image_id = _known_id(path, name, "image_id", entry, labels.file.images)
            if image_id is None:
                raise ValueError(f"{path}: {name}: expected an image_id, found nothing")
            kept.append(entry | {"image_id": image_id})
            names.append(name)
    if not kept:
        raise ValueError(
            f"{path}: expected predictions of {labels.category.name} (category "
            f"{labels.category.ids[0]!r:.80}), found {len(entries)} of other categories only"
        )
    order, names_path = _results_order(path, skeleton)
    keypoints_NK3 = _result_keypoints(path, kept, names, len(order))[:, list(order)]
    scores_N = column(path, kept, "score", (), names)
    detections = [
        {
            "image_id": entry["image_id"],
            "category_id": labels.category.ids[0],
            "keypoints": keypoints_K3.ravel().tolist(),
            "score": float(score),
        }
        for entry, keypoints_K3, score in zip(kept, keypoints_NK3, scores_N, strict=True)
    ]
    return Results(detections, len(entries) - len(kept), names_path)


def _known_id(
    path: Path, name: str, key: str, entry: dict[str, Any], known: Container[Id]
) -> Id | None:
    """An id of the ground truth's; None if the prediction has none.

    Raises:
        ValueError: it is not one of the ground truth's.
    """
    value = entry.get(key)
    if value is None:
        return None
    try:
        checked = as_id(value)
    except ValueError:
        checked = None
    if checked is None or checked not in known:
        article = "an" if key == "image_id" else "a"
        raise ValueError(
            f"{path}: {name}: expected {article} {key} of the ground truth's, found {found(value)}"
        )
    return checked


def _result_keypoints(
    path: Path, entries: list[dict[str, Any]], names: list[str], joints: int
) -> NDArray[np.float64]:
    """float64 (N, K, 3), of lists of 3 K numbers or of K lists of three."""
    first = entries[0].get("keypoints")
    nested = isinstance(first, list) and first and isinstance(first[0], list)
    shape = (joints, 3) if nested else (3 * joints,)
    return column(path, entries, "keypoints", shape, names).reshape(len(entries), joints, 3)


def _results_order(path: Path, skeleton: Skeleton) -> tuple[tuple[int, ...], Path | None]:
    """For each joint of the ground truth, its index in the results; and the file with the names."""
    names_path = path.parent / NAMES_FILE
    if not names_path.is_file():
        return tuple(range(skeleton.num_joints)), None
    content = parse_json(names_path, read_bytes(names_path, MAX_NAMES_BYTES, "names"), "JSON")
    names = content.get("joints") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{names_path}: expected {{"joints": [names]}}, found something else')
    order = joint_order(
        skeleton.joints, names, f"the ground truth ({skeleton.name})", f"{names_path}"
    )
    return order, names_path
