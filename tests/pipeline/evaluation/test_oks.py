"""OKS-AP: what pycocotools computes from our inputs, against the formula of OKS."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.io import coco_format
from fpd.data.readers import coco
from fpd.data.readers.coco_settings import Coco
from fpd.data.sections import Data
from fpd.data.skeletons import COCO
from fpd.pipeline.evaluation import oks
from fpd.pipeline.evaluation.inference import PredictedJoints

pytest.importorskip("pycocotools")

RNG = np.random.default_rng(0)
K = 17
FILE = Path("labels.json")
THRESHOLDS = np.arange(0.5, 0.951, 0.05)


def annotation(number: int, image: int, area: float = 12000.0, **changes: Any) -> dict[str, Any]:
    """An annotation with all joints, twelve of them visible; the joints depend on the number."""
    xy = np.random.default_rng(number).uniform(50, 250, (K, 2)).round()
    keypoints = np.column_stack([xy, np.where(np.arange(K) < 12, 2, 1)])
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [50.0, 50.0, 200.0, 200.0],
        "area": area,
        "iscrowd": 0,
        "keypoints": keypoints.ravel().tolist(),
    } | changes


def dataset(*annotations: dict[str, Any], images: int = 3) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(images)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
        "annotations": list(annotations),
    }


def detection(label: dict[str, Any], shift: float, score: float = 1.0) -> dict[str, Any]:
    """A prediction with the label's joints, shifted to the right."""
    keypoints = np.array(label["keypoints"], np.float64).reshape(K, 3)
    keypoints[:, 0] += shift
    keypoints[:, 2] = score
    return {
        "image_id": label["image_id"],
        "category_id": 1,
        "keypoints": keypoints.ravel().tolist(),
        "score": score,
    }


def similarity(label: dict[str, Any], shift: float) -> float:
    """OKS by its formula, if all joints are off by `shift` pixels."""
    labeled = np.array(label["keypoints"]).reshape(K, 3)[:, 2] > 0
    kappa = 2 * np.array(COCO.sigmas)[labeled]
    return float(np.mean(np.exp(-(shift**2) / (2 * label["area"] * kappa**2))))


def scores(data: dict[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    return oks.score(labels_of(data), detections, COCO.sigmas)


def labels_of(data: dict[str, Any]) -> oks.Labels:
    file = coco_format.parse(FILE, data)
    category = coco.choose_category(file, Coco())
    return oks.Labels(file, category, coco_format.people(file, category.ids, K))


@pytest.mark.parametrize("shift", [0.0, 5.0, 8.0, 12.0, 40.0])
def test_one_annotation_by_hand(shift: float) -> None:
    """Precision and recall are 1 at thresholds up to the similarity, and 0 above."""
    label = annotation(1, 0)
    value = similarity(label, shift)
    assert np.abs(value - THRESHOLDS).min() > 1e-3  # not at a threshold
    statistics = scores(dataset(label), [detection(label, shift)])
    assert statistics["AP"] == pytest.approx((value >= THRESHOLDS).mean())
    assert statistics["AR"] == pytest.approx((value >= THRESHOLDS).mean())
    assert statistics["AP50"] == pytest.approx(float(value >= 0.5))
    assert statistics["AP75"] == pytest.approx(float(value >= 0.75))
    assert (
        statistics["AP(L)"] == statistics["AP"] and statistics["AP(M)"] is None
    )  # area above 96 x 96


def test_unlabeled_joints_do_not_count() -> None:
    label = annotation(1, 0)
    predicted = detection(label, 0.0)
    label["keypoints"][3 * 4 : 3 * 5] = [0, 0, 0]
    predicted["keypoints"][3 * 4] += 1000
    assert scores(dataset(label), [predicted])["AP"] == pytest.approx(1)


def test_annotations_without_prediction_lower_the_recall() -> None:
    labels = [annotation(n, n) for n in range(3)]
    statistics = scores(dataset(*labels), [detection(labels[0], 0), detection(labels[2], 0)])
    assert statistics["AR"] == pytest.approx(2 / 3)
    # Precision is 1 up to a recall of 2/3, sampled at 0, 0.01 ... 1: 67 of 101 points.
    assert statistics["AP"] == pytest.approx(67 / 101)


def test_predictions_are_ranked_by_their_score() -> None:
    labels = [annotation(1, 0), annotation(2, 1)]
    good, bad = detection(labels[0], 0, score=0.9), detection(labels[1], 500, score=0.1)
    first = scores(dataset(*labels), [good, bad])["AP"]
    good["score"], bad["score"] = 0.1, 0.9
    # Correct first: precision 1 up to a recall of 1/2 (51 of 101 points); correct second: 1/2.
    assert first == pytest.approx(51 / 101)
    assert scores(dataset(*labels), [good, bad])["AP"] == pytest.approx(0.5 * 51 / 101)


def test_crowds_and_annotations_without_joints_are_ignored() -> None:
    label = annotation(1, 0)
    unlabeled = annotation(2, 0, keypoints=[0] * 3 * K)
    crowd = annotation(3, 0, iscrowd=1)
    statistics = scores(dataset(label, unlabeled, crowd), [detection(label, 0)])
    assert statistics["AP"] == pytest.approx(1) and statistics["AR"] == pytest.approx(1)


def test_an_annotation_with_id_zero_counts() -> None:
    label = annotation(0, 0)
    assert scores(dataset(label), [detection(label, 0)])["AP"] == pytest.approx(1)


def test_people_that_cannot_be_scored_are_ignored() -> None:
    """Without labels, or with neither area nor box, an annotation is neither found nor missed."""
    label, empty, flat = annotation(1, 0), annotation(2, 1), annotation(3, 2)
    empty |= {"keypoints": [], "num_keypoints": 0, "bbox": [0, 0, 0, 0], "area": 0}
    del flat["bbox"], flat["area"]
    assert labels_of(dataset(label, empty, flat)).is_ignored_N.tolist() == [False, True, True]
    assert scores(dataset(label, empty, flat), [detection(label, 0)])["AP"] == pytest.approx(1)


@pytest.mark.parametrize("convert", [str, float, lambda number: f"frame_{number}/0"])
def test_the_spelling_of_ids_does_not_matter(convert: Any) -> None:
    """Also ids of several types in one file, which COCOeval could not sort."""
    labels = [annotation(n, n) for n in range(3)]
    expected = scores(dataset(*labels), [detection(labels[0], 0), detection(labels[1], 9)])
    data = dataset(*labels)
    data["images"][1]["id"] = labels[1]["image_id"] = convert(1)
    labels[1]["id"], labels[1]["iscrowd"], labels[2]["iscrowd"] = convert(1), "0", False
    detections = [detection(labels[0], 0), detection(labels[1], 9)]
    for row in detections:
        row["image_id"] = coco_format.as_id(row["image_id"])
    assert scores(data, detections) == expected


def test_a_missing_area_is_a_share_of_the_box() -> None:
    label = annotation(1, 0)
    with_area = annotation(1, 0, area=0.53 * 200 * 200)
    del label["area"]
    for shift in (6.0, 12.0, 18.0):
        detections = [detection(label, shift)]
        assert scores(dataset(label), detections) == scores(dataset(with_area), detections)


def test_a_predictions_score_is_the_mean_of_its_peaks_above_a_fifth() -> None:
    peaks = np.array([[0.9, 0.5, 0.2, 0.1], [0.1, 0.1, 0.0, -0.2]])
    joints = np.arange(16.0).reshape(2, 4, 2)
    rows = oks.coco_results([5, 6], 1, PredictedJoints(joints, peaks))
    assert [row["score"] for row in rows] == pytest.approx([0.7, 0.0])
    assert rows[1]["image_id"] == 6
    assert rows[0]["keypoints"][:6] == [0, 1, 0.9, 2, 3, 0.5]


REAL = Path(__file__).parents[4] / "shared" / "data"
real = pytest.mark.skipif(
    not (REAL / "coco" / "annotations" / "person_keypoints.json").is_file(),
    reason=f"COCO is not in {REAL}",
)
NAMES = {"train": "person_keypoints.json", "test": "person_keypoints.json"}
NAMES |= {"train_images": "images", "test_images": "images"}


@real
def test_published_labels_score_1_against_themselves() -> None:
    settings = Coco(**NAMES)
    data = Data(reader="coco", root=REAL, coco=settings)
    samples = coco.coco(REAL, "test", settings)
    peaks = RNG.uniform(0.5, 1, samples.joints_NK2.shape[:2])
    joints = np.nan_to_num(samples.joints_NK2)
    perfect = oks.oks_fields(data, samples, PredictedJoints(joints, peaks))["oks"]
    assert perfect["AP"] == pytest.approx(1) and perfect["AR"] == pytest.approx(1)
    moved = oks.oks_fields(data, samples, PredictedJoints(joints + 6.0, peaks))["oks"]
    assert 0.05 < moved["AP"] < 0.95 and moved["AP50"] > moved["AP75"]


def test_data_in_other_formats_has_no_oks() -> None:
    assert oks.oks_fields(Data(), None, None) == {}  # type: ignore[arg-type]


def test_the_reason_for_leaving_oks_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Samples:
        skeleton = replace(COCO, name="fly", sigmas=())

    data = Data(reader="coco", root=tmp_path)
    row = oks.oks_fields(data, Samples(), None)  # type: ignore[arg-type]
    assert row["oks"] is None and "data.coco.sigmas" in row["oks_left_out"]

    Samples.skeleton = COCO
    partial = PredictedJoints(np.zeros((1, K, 2)), np.zeros((1, K))).without_joints((0,))
    row = oks.oks_fields(data, Samples(), partial)  # type: ignore[arg-type]
    assert row["oks"] is None and COCO.joints[0] in row["oks_left_out"]

    whole = PredictedJoints(np.zeros((1, K, 2)), np.zeros((1, K)))
    for part in ({"missing_images": "skip"}, {"coco": {"test": "held-out"}}):
        part_of_file = Data(reader="coco", root=tmp_path, **part)
        row = oks.oks_fields(part_of_file, Samples(), whole)  # type: ignore[arg-type]
        assert row["oks"] is None and "counts all annotations of a file" in row["oks_left_out"]

    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    row = oks.oks_fields(data, Samples(), None)  # type: ignore[arg-type]
    assert (
        row["oks"] is None and "pip install 'fast-pose-distillation[coco]'" in row["oks_left_out"]
    )
    with pytest.raises(ValueError, match="pip install"):
        scores(dataset(annotation(1, 0)), [])
