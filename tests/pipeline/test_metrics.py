"""PCK by hand, against a slow reading of its definition, and what must not count."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fpd.data.skeletons import LSP, Skeleton
from fpd.pipeline.metrics import Pck, group_means, pck

NAN = math.nan
Array = NDArray[np.float64]

THREE = Skeleton(
    name="three",
    joints=("hand", "foot", "head"),
    mirror=(0, 1, 2),
    limbs=(),
    groups=(("limbs", (0, 1)), ("head", (2,))),
    normaliser=(0, 1),
    threshold=0.5,
)


def hand_example() -> Pck:
    """Four people 10 pixels long: a joint is found within 5 pixels.

    hand: errors 0, 5 (exactly on the threshold, as 3-4-5), 10, unlabelled -> 2 of 3
    foot: errors 2.5 of one person -> 1 of 1
    head: errors 10 twice -> 0 of 2
    """
    labelled = np.full((4, 3, 2), NAN)
    labelled[:3, 0] = [[0, 0], [10, 20], [7, 7]]
    labelled[1, 1] = [50, 50]
    labelled[2:, 2] = [[1, 1], [2, 2]]
    predicted = np.nan_to_num(labelled, nan=99.0)
    predicted[1, 0] += [3, -4]
    predicted[2, 0] += [0, 10]
    predicted[1, 1] += [2.5, 0]
    predicted[2:, 2] += [10, 0]
    return pck(predicted, labelled, np.full(4, 10.0), THREE)


def test_by_hand() -> None:
    found = hand_example()
    assert found.metric == "PCK@0.5"
    assert found.joints == 6
    np.testing.assert_allclose(found.per_joint_K, [2 / 3, 1, 0])
    assert found.mean == pytest.approx(3 / 6)
    assert found.mean_unweighted == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_curve_and_its_area_by_hand() -> None:
    found = hand_example()
    np.testing.assert_allclose(found.thresholds_T, [0.025 * i for i in range(21)])
    # Errors 0, 0.25, 0.5, 1, 1, 1 of a length: a sixth at once, one more at 0.25 and at 0.5.
    np.testing.assert_allclose(found.curve_T, [1 / 6] * 10 + [2 / 6] * 10 + [3 / 6])
    # Trapezia: 9 of 1/6, one of 1.5/6, 9 of 2/6, one of 2.5/6, each a twentieth wide.
    assert found.auc == pytest.approx((9 * 1 + 1.5 + 9 * 2 + 2.5) / 6 / 20)


def test_groups_are_means_of_their_joints() -> None:
    groups = group_means(hand_example(), THREE)
    assert groups == pytest.approx({"limbs": (2 / 3 + 1) / 2, "head": 0.0})
    assert list(groups) == ["limbs", "head"]


def test_lsp_counts_within_a_fifth_of_the_torso() -> None:
    labelled = np.zeros((1, 14, 2))
    predicted = labelled.copy()
    predicted[0, :7, 0] = 20.0  # of 100: on the threshold
    predicted[0, 7:, 0] = 20.001
    found = pck(predicted, labelled, np.array([100.0]), LSP)
    assert found.metric == "PCK@0.2"
    assert found.mean == 0.5
    assert found.per_joint_K.tolist() == [1.0] * 7 + [0.0] * 7
    assert found.thresholds_T[-1] == 0.2


def test_perfect_predictions_have_all_of_everything() -> None:
    labelled = np.random.default_rng(0).random((3, 3, 2))
    found = pck(labelled, labelled, np.ones(3), THREE)
    assert (found.mean, found.mean_unweighted, found.auc) == (1.0, 1.0, 1.0)
    assert found.joints == 9


def test_a_joint_labelled_nowhere_has_no_share() -> None:
    labelled = np.zeros((2, 3, 2))
    labelled[:, 1] = NAN
    found = pck(np.zeros((2, 3, 2)), labelled, np.ones(2), THREE)
    assert np.isnan(found.per_joint_K).tolist() == [False, True, False]
    assert found.mean_unweighted == 1.0
    assert math.isnan(group_means(found, THREE)["limbs"])


def test_a_half_labelled_joint_does_not_count() -> None:
    labelled = np.zeros((1, 3, 2))
    labelled[0, 0] = [0, NAN]
    assert pck(np.zeros((1, 3, 2)), labelled, np.ones(1), THREE).joints == 2


@pytest.mark.parametrize("unit", [NAN, 0.0, -1.0])
def test_people_without_a_length_do_not_count(unit: float) -> None:
    labelled = np.zeros((2, 3, 2))
    predicted = labelled.copy()
    predicted[1] += 1e6
    found = pck(predicted, labelled, np.array([1.0, unit]), THREE)
    assert (found.joints, found.mean) == (3, 1.0)


def test_a_prediction_that_is_no_number_is_wrong_and_counts() -> None:
    predicted = np.zeros((1, 3, 2))
    predicted[0, 0] = NAN
    found = pck(predicted, np.zeros((1, 3, 2)), np.ones(1), THREE)
    assert (found.joints, found.mean) == (3, pytest.approx(2 / 3))
    assert found.per_joint_K.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("labels", "units"),
    [(np.full((2, 3, 2), NAN), np.ones(2)), (np.zeros((2, 3, 2)), np.array([NAN, 0.0]))],
)
def test_nothing_to_score_is_refused(labels: Array, units: Array) -> None:
    with pytest.raises(ValueError, match="no labelled joint to score"):
        pck(np.zeros((2, 3, 2)), labels, units, THREE)


def test_nobody_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no labelled joint to score"):
        pck(np.zeros((0, 3, 2)), np.zeros((0, 3, 2)), np.zeros(0), THREE)


def slow_pck(predicted: Array, labelled: Array, units: Array) -> dict[str, object]:
    """The definition, joint by joint."""
    errors: list[tuple[int, float]] = []
    for n in range(len(units)):
        for k in range(3):
            x, y = labelled[n, k]
            if math.isnan(x) or math.isnan(y) or math.isnan(units[n]) or units[n] <= 0:
                continue
            dx, dy = predicted[n, k] - labelled[n, k]
            errors.append((k, math.sqrt(dx * dx + dy * dy) / units[n]))
    shares = []
    for k in range(3):
        own = [error for joint, error in errors if joint == k]
        shares.append(sum(error <= 0.5 for error in own) / len(own) if own else NAN)
    curve = []
    for step in range(21):
        threshold = 0.5 if step == 20 else step * (0.5 / 20)
        curve.append(sum(error <= threshold for _, error in errors) / len(errors))
    known = [share for share in shares if not math.isnan(share)]
    area = sum((a + b) / 2 for a, b in pairwise(curve)) / 20
    return {
        "per_joint_K": shares,
        "mean": sum(error <= 0.5 for _, error in errors) / len(errors),
        "mean_unweighted": sum(known) / len(known),
        "curve_T": curve,
        "auc": area,
        "joints": len(errors),
    }


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_as_slowly_by_definition(people: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole pixels and lengths: many errors fall on thresholds exactly.
    labelled = rng.integers(0, 20, (people, 3, 2)).astype(np.float64)
    predicted = labelled + rng.integers(-6, 7, (people, 3, 2))
    labelled[rng.random((people, 3)) < 0.3] = NAN
    units = rng.choice([NAN, 0.0, 4.0, 8.0, 10.0, 20.0], people)
    labelled[0, 0], units[0] = 1.0, 10.0  # there is always one to score
    found, expected = pck(predicted, labelled, units, THREE), slow_pck(predicted, labelled, units)
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(found, key), value, rtol=1e-12, err_msg=key)
