"""The gallery: which test samples are selected, and what their cards contain."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from fpd.data.geometry import Geometry
from fpd.data.samples import SampleSet
from fpd.data.sections import Augmentation
from fpd.data.views import CENTER_CROP, Views
from fpd.pipeline.evaluation.inference import PredictedJoints
from fpd.pipeline.evaluation.report import gallery as module
from fpd.pipeline.evaluation.report.gallery import (
    CROP_PX,
    SampleErrors,
    build_gallery,
    disagreements,
    sample_errors,
    select_samples,
    skeleton_paths,
    webp_data_uri,
)

NAN, INF = np.nan, np.inf


def make_errors(errors_NK: Any, disagreement_NK: Any = None) -> SampleErrors:
    errors_NK = np.array(errors_NK, float)
    with np.errstate(invalid="ignore"):
        means_N = np.array([np.mean(e[~np.isnan(e)]) if (e == e).any() else NAN for e in errors_NK])
    return SampleErrors({"m": errors_NK}, {"m": means_N}, disagreement_NK)


def test_the_best_median_and_worst_are_selected_and_unlabeled_samples_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PER_RANKING", 1)
    monkeypatch.setattr(module, "PER_JOINT", 0)
    errors = make_errors([[0.5], [0.1], [NAN], [0.9], [0.3], [0.7]])
    selected = select_samples(errors, ["wrist"])
    # In order 0.1, 0.3, 0.5, 0.7, 0.9: samples 1, 4, 0, 5, 3.
    assert selected == {
        3: {"largest mean error of": ["m"]},
        1: {"smallest mean error of": ["m"]},
        0: {"median mean error of": ["m"]},
    }


def test_the_worst_of_each_joint_is_selected_after_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PER_RANKING", 1)
    monkeypatch.setattr(module, "PER_JOINT", 1)
    errors = make_errors([[0.9, 0.9], [1.0, 0.0], [0.0, 0.1], [0.2, NAN], [0.3, 0.3]])
    selected = select_samples(errors, ["wrist", "knee"])
    assert list(selected)[-1] == 1
    assert selected[1] == {"largest error of m at": ["wrist"]}
    assert selected[0] == {"largest mean error of": ["m"], "largest error of m at": ["knee"]}


def test_a_confident_teacher_far_from_the_label_disagrees_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disagreement_NK = disagreements(
        np.array([[2.0, 0.1], [0.8, 0.1], [NAN, 0.1]]), np.array([[0.1, 1], [0.9, 1], [1, 5.0]])
    )
    np.testing.assert_allclose(disagreement_NK, [[0.2, 0.1], [0.72, 0.1], [NAN, 0.1]])
    monkeypatch.setattr(module, "PER_RANKING", 0)
    monkeypatch.setattr(module, "PER_JOINT", 0)
    monkeypatch.setattr(module, "MOST_DISAGREEING", 2)
    assert list(select_samples(make_errors(np.full((3, 2), 0.1), disagreement_NK), ["a", "b"])) == [
        1,
        0,
    ]


def test_paths_leave_out_joints_that_are_not_finite() -> None:
    joints = np.array([[1.04, 2], [30, 4.55], [NAN, NAN], [INF, 1]])
    drawing = skeleton_paths(joints, [(0, 1), (1, 2), (2, 3)])
    assert drawing.limbs == "M1.0 2.0L30.0 4.5"
    assert drawing.joints == "M1.0 2.0h0M30.0 4.5h0"


def test_a_card_shows_the_crop(samples: SampleSet) -> None:
    crop = Views(samples, Geometry(crop_px=CROP_PX), Augmentation(), 0)[3, CENTER_CROP]["crop"]
    uri = webp_data_uri(crop)
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)
    difference = np.abs(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(int) - crop)
    assert decoded.shape == (CROP_PX, CROP_PX, 3)
    assert difference.mean() < 6  # of 255: lossy, but of this crop


class Counting:
    """Images that record which were read."""

    def __init__(self, images: Any) -> None:
        self.images = images
        self.read_indices: list[int] = []

    def read(self, index: int, zoom: float) -> Any:
        self.read_indices.append(index)
        return self.images.read(index, zoom)


def test_only_shown_samples_are_read_up_to_the_limit(
    samples: SampleSet, predicted: dict[str, PredictedJoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CARDS", 7)
    images = Counting(samples.images)
    shown = build_gallery(replace(samples, images=images), predicted)  # type: ignore[arg-type]
    assert len(shown.cards) == 7 and shown.omitted_count > 0
    assert len(images.read_indices) == len(set(images.read_indices)) == 7
    assert [samples.ids[i] for i in images.read_indices] == [card.id for card in shown.cards]


def test_a_card_has_the_errors_of_its_sample(
    samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    shown = build_gallery(samples, predicted)
    card = shown.cards[0]
    index = samples.ids.index(card.id)
    for number, model_predictions in enumerate(predicted.values()):
        offset_K2 = model_predictions.joints_NK2[index] - samples.joints_NK2[index]
        expected = np.hypot(*offset_K2.T) / samples.normalizer_N[index]
        np.testing.assert_allclose(card.errors[number], expected, atol=6e-4)
        assert card.means[number] == pytest.approx(expected.mean(), abs=6e-4)
    mean_N = sample_errors(samples, predicted).means["teacher"]
    assert index == mean_N.argmax()  # the worst of the first model comes first
    assert shown.medians[0][-1] == pytest.approx(np.median(mean_N))
    assert shown.sample_count == shown.scored_count == 40


def test_predictions_that_are_not_finite_have_the_largest_error(
    samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    joints = predicted["student"].joints_NK2.copy()
    joints[5, 2] = NAN
    shown = build_gallery(samples, {"student": replace(predicted["student"], joints_NK2=joints)})
    assert shown.cards[0].id == samples.ids[5]
    assert shown.cards[0].errors[0][2] == module.INFINITE_ERROR
    assert shown.cards[0].predictions[0].joints.count("M") == 13
    assert shown.cards[0].disagreements == []


def test_samples_without_a_unit_are_not_selected(
    samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    normalizer = samples.normalizer_N.copy()
    normalizer[:5] = NAN
    shown = build_gallery(replace(samples, normalizer_N=normalizer), predicted)
    assert shown.scored_count == 35
    assert not {card.id for card in shown.cards} & set(samples.ids[:5])


def test_cards_take_about_as_many_bytes_as_estimated(
    samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    """The number of cards is derived from this estimate, so that pages stay below 3 MB."""
    cards = build_gallery(samples, predicted).cards
    drawings = [drawing for card in cards for drawing in (card.label, *card.predictions)]
    assert np.mean([len(card.image) for card in cards]) < module.IMAGE_BYTES
    assert np.mean([len(d.limbs) + len(d.joints) for d in drawings]) < module.DRAWING_BYTES
