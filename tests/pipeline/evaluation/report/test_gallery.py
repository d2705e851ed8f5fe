"""Who is shown of the test people, and what is drawn over them."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from fpd.data.augmentation import Augmentation
from fpd.data.samples import SampleSet
from fpd.data.views import CENTER_CROP, Geometry, Views
from fpd.pipeline.evaluation.inference import Predicted
from fpd.pipeline.evaluation.report import gallery as module
from fpd.pipeline.evaluation.report.gallery import (
    CROP_PX,
    Measured,
    choose,
    disagreements,
    draw,
    gallery,
    measure,
    picture,
)

NAN, INF = np.nan, np.inf


def measured(errors_NK: Any, disagreement_NK: Any = None) -> Measured:
    errors_NK = np.array(errors_NK, float)
    with np.errstate(invalid="ignore"):
        means_N = np.array([np.mean(e[~np.isnan(e)]) if (e == e).any() else NAN for e in errors_NK])
    return Measured({"m": errors_NK}, {"m": means_N}, disagreement_NK)


def test_best_middle_and_worst_are_chosen_and_those_without_a_label_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EACH", 1)
    monkeypatch.setattr(module, "PER_JOINT", 0)
    people = measured([[0.5], [0.1], [NAN], [0.9], [0.3], [0.7]])
    chosen = choose(people, ["wrist"])
    # In order 0.1, 0.3, 0.5, 0.7, 0.9: persons 1, 4, 0, 5, 3.
    assert chosen == {
        3: {"largest mean error of": ["m"]},
        1: {"smallest mean error of": ["m"]},
        0: {"median mean error of": ["m"]},
    }


def test_every_joints_worst_is_chosen_after_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EACH", 1)
    monkeypatch.setattr(module, "PER_JOINT", 1)
    people = measured([[0.9, 0.9], [1.0, 0.0], [0.0, 0.1], [0.2, NAN], [0.3, 0.3]])
    chosen = choose(people, ["wrist", "knee"])
    assert list(chosen)[-1] == 1
    assert chosen[1] == {"largest error of m at": ["wrist"]}
    assert chosen[0] == {"largest mean error of": ["m"], "largest error of m at": ["knee"]}


def test_a_sure_teacher_far_from_the_label_disagrees_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = disagreements(
        np.array([[2.0, 0.1], [0.8, 0.1], [NAN, 0.1]]), np.array([[0.1, 1], [0.9, 1], [1, 5.0]])
    )
    np.testing.assert_allclose(found, [[0.2, 0.1], [0.72, 0.1], [NAN, 0.1]])
    monkeypatch.setattr(module, "EACH", 0)
    monkeypatch.setattr(module, "PER_JOINT", 0)
    monkeypatch.setattr(module, "DISAGREEING", 2)
    assert list(choose(measured(np.full((3, 2), 0.1), found), ["a", "b"])) == [1, 0]


def test_paths_leave_out_what_is_not_there() -> None:
    joints = np.array([[1.04, 2], [30, 4.55], [NAN, NAN], [INF, 1]])
    drawing = draw(joints, [(0, 1), (1, 2), (2, 3)])
    assert drawing.limbs == "M1.0 2.0L30.0 4.5"
    assert drawing.joints == "M1.0 2.0h0M30.0 4.5h0"


def test_a_picture_is_the_crop(samples: SampleSet) -> None:
    crop = Views(samples, Geometry(crop_px=CROP_PX), Augmentation(), 0)[3, CENTER_CROP]["crop"]
    uri = picture(crop)
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)
    off = np.abs(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(int) - crop)
    assert decoded.shape == (CROP_PX, CROP_PX, 3)
    assert off.mean() < 6  # of 255: lossy, and not of another person
    assert len(uri) < 3 * module.PICTURE_BYTES


class Counting:
    """Images that remember which were read."""

    def __init__(self, images: Any) -> None:
        self.images = images
        self.read_of: list[int] = []

    def read(self, index: int, zoom: float) -> Any:
        self.read_of.append(index)
        return self.images.read(index, zoom)


def test_only_those_shown_are_read_once_and_room_is_kept(
    samples: SampleSet, predicted: dict[str, Predicted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 7)
    images = Counting(samples.images)
    shown = gallery(replace(samples, images=images), predicted)  # type: ignore[arg-type]
    assert len(shown.cards) == 7 and shown.left_out > 0
    assert len(images.read_of) == len(set(images.read_of)) == 7
    assert [samples.ids[i] for i in images.read_of] == [card.id for card in shown.cards]


def test_a_card_has_its_persons_numbers(
    samples: SampleSet, predicted: dict[str, Predicted]
) -> None:
    shown = gallery(samples, predicted)
    card = shown.cards[0]
    index = samples.ids.index(card.id)
    for place, found in enumerate(predicted.values()):
        off_K2 = found.joints_NK2[index] - samples.joints_NK2[index]
        expected = np.hypot(*off_K2.T) / samples.normalizer_N[index]
        np.testing.assert_allclose(card.errors[place], expected, atol=6e-4)
        assert card.means[place] == pytest.approx(expected.mean(), abs=6e-4)
    # The first shown is the worst of the first model.
    errors_N = measure(samples, predicted).means["teacher"]
    assert index == errors_N.argmax()
    assert shown.medians[0][-1] == pytest.approx(np.median(errors_N))
    assert shown.people == shown.ranked == 40


def test_what_is_not_finite_is_far_away(
    samples: SampleSet, predicted: dict[str, Predicted]
) -> None:
    joints = predicted["student"].joints_NK2.copy()
    joints[5, 2] = NAN
    shown = gallery(samples, {"student": replace(predicted["student"], joints_NK2=joints)})
    assert shown.cards[0].id == samples.ids[5]
    assert shown.cards[0].errors[0][2] == module.FAR
    assert shown.cards[0].predictions[0].joints.count("M") == 13
    assert shown.cards[0].disagreements == []


def test_people_without_a_unit_are_not_ranked(
    samples: SampleSet, predicted: dict[str, Predicted]
) -> None:
    normalizer = samples.normalizer_N.copy()
    normalizer[:5] = NAN
    shown = gallery(replace(samples, normalizer_N=normalizer), predicted)
    assert shown.ranked == 35
    assert not {card.id for card in shown.cards} & set(samples.ids[:5])
