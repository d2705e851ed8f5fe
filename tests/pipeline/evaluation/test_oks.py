"""OKS-AP: COCO's evaluator fed rightly, against the formula written anew."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.datasets import Data
from fpd.data.readers import coco
from fpd.data.readers.coco import Coco
from fpd.data.skeletons import COCO
from fpd.pipeline.evaluation import oks
from fpd.pipeline.evaluation.inference import Predicted

pytest.importorskip("pycocotools")

RNG = np.random.default_rng(0)
K = 17
FILE = Path("labels.json")
THRESHOLDS = np.arange(0.5, 0.951, 0.05)


def person(number: int, image: int, area: float = 12000.0, **changes: Any) -> dict[str, Any]:
    """Somebody with all joints, twelve of them seen; the joints differ from person to person."""
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


def dataset(*people: dict[str, Any], images: int = 3) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(images)],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
        "annotations": list(people),
    }


def answer(label: dict[str, Any], shift: float, score: float = 1.0) -> dict[str, Any]:
    """The label's joints, moved to the right."""
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
    """OKS by its formula, of a person all of whose joints are off by `shift` pixels."""
    labeled = np.array(label["keypoints"]).reshape(K, 3)[:, 2] > 0
    kappa = 2 * np.array(COCO.sigmas)[labeled]
    return float(np.mean(np.exp(-(shift**2) / (2 * label["area"] * kappa**2))))


def scores(data: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    return oks.score(FILE, data, 1, found, COCO.sigmas)


@pytest.mark.parametrize("shift", [0.0, 5.0, 8.0, 12.0, 40.0])
def test_one_person_by_hand(shift) -> None:
    """Precision and recall are 1 or 0, as the similarity is above or below each threshold."""
    label = person(1, 0)
    value = similarity(label, shift)
    assert np.abs(value - THRESHOLDS).min() > 1e-3  # no threshold too near to tell
    found = scores(dataset(label), [answer(label, shift)])
    assert found["AP"] == pytest.approx((value >= THRESHOLDS).mean())
    assert found["AR"] == pytest.approx((value >= THRESHOLDS).mean())
    assert found["AP50"] == pytest.approx(float(value >= 0.5))
    assert found["AP75"] == pytest.approx(float(value >= 0.75))
    assert found["AP(L)"] == found["AP"] and found["AP(M)"] is None  # area above 96 x 96


def test_unlabeled_joints_do_not_count() -> None:
    label = person(1, 0)
    found = answer(label, 0.0)
    label["keypoints"][3 * 4 : 3 * 5] = [0, 0, 0]
    found["keypoints"][3 * 4] += 1000
    assert scores(dataset(label), [found])["AP"] == pytest.approx(1)


def test_people_nobody_predicted_lower_the_recall() -> None:
    people = [person(n, n) for n in range(3)]
    found = scores(dataset(*people), [answer(people[0], 0), answer(people[2], 0)])
    assert found["AR"] == pytest.approx(2 / 3)
    # Precision is 1 up to a recall of 2/3, sampled at 0, 0.01 ... 1: 67 of 101 points.
    assert found["AP"] == pytest.approx(67 / 101)


def test_the_order_of_scores_counts() -> None:
    people = [person(1, 0), person(2, 1)]
    good, bad = answer(people[0], 0, score=0.9), answer(people[1], 500, score=0.1)
    first = scores(dataset(*people), [good, bad])["AP"]
    good["score"], bad["score"] = 0.1, 0.9
    # Right first: precision 1 up to a recall of 1/2 (51 of 101 points); right second: 1/2 there.
    assert first == pytest.approx(51 / 101)
    assert scores(dataset(*people), [good, bad])["AP"] == pytest.approx(0.5 * 51 / 101)


def test_crowds_and_people_without_joints_are_ignored() -> None:
    label = person(1, 0)
    nobody = person(2, 0, keypoints=[0] * 3 * K)
    crowd = person(3, 0, iscrowd=1)
    found = scores(dataset(label, nobody, crowd), [answer(label, 0)])
    assert found["AP"] == pytest.approx(1) and found["AR"] == pytest.approx(1)


def test_an_annotation_of_id_zero_counts_like_any_other() -> None:
    label = person(0, 0)
    assert scores(dataset(label), [answer(label, 0)])["AP"] == pytest.approx(1)


def test_without_an_area_part_of_the_box_stands_in() -> None:
    label = person(1, 0)
    with_area = person(1, 0, area=0.53 * 200 * 200)
    del label["area"]
    for shift in (6.0, 12.0, 18.0):
        found = [answer(label, shift)]
        assert scores(dataset(label), found) == scores(dataset(with_area), found)


def test_a_persons_score_is_the_mean_of_its_peaks_above_a_fifth() -> None:
    peaks = np.array([[0.9, 0.5, 0.2, 0.1], [0.1, 0.1, 0.0, -0.2]])
    joints = np.arange(16.0).reshape(2, 4, 2)
    rows = oks.results([5, 6], 1, Predicted(joints, peaks))
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
def test_published_people_score_themselves() -> None:
    settings = Coco(**NAMES)
    data = Data(reader="coco", root=REAL, coco=settings)
    people = coco.coco(REAL, "test", settings)
    peaks = RNG.uniform(0.5, 1, people.joints_NK2.shape[:2])
    joints = np.nan_to_num(people.joints_NK2)
    perfect = oks.oks_row(data, people, Predicted(joints, peaks))["oks"]
    assert perfect["AP"] == pytest.approx(1) and perfect["AR"] == pytest.approx(1)
    moved = oks.oks_row(data, people, Predicted(joints + 6.0, peaks))["oks"]
    assert 0.05 < moved["AP"] < 0.95 and moved["AP50"] > moved["AP75"]


def test_other_data_has_no_oks() -> None:
    assert oks.oks_row(Data(), None, None) == {}  # type: ignore[arg-type]


def test_why_oks_is_left_out_is_said(tmp_path, monkeypatch) -> None:
    class People:
        skeleton = COCO

    data = Data(reader="coco", root=tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    row = oks.oks_row(data, People(), None)  # type: ignore[arg-type]
    assert row["oks"] is None and "pip install 'fpd[coco]'" in row["oks_left_out"]
    with pytest.raises(ValueError, match=r"pip install 'fpd\[coco\]'"):
        scores(dataset(person(1, 0)), [])


def test_lines_of_a_table() -> None:
    values = dict.fromkeys(oks.STATISTICS, 0.5) | {"AP(M)": None}
    rows = {"a": {"oks": values}, "b": {"oks": None, "oks_left_out": "no sigmas"}}
    table = "\n".join(oks.lines(rows))
    assert "AP50" in table and "50.0" in table and "-" in table
    assert table.endswith("OKS left out: no sigmas")
    assert oks.lines({"a": {"mean": 0.3}}) == []
