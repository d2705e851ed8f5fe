"""PCK by hand, against loops that follow its definition, and what does not count."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fpd.data.skeletons import LSP, MPII, Skeleton
from fpd.pipeline.evaluation.pck import Pck, group_means, pck, pck_or_nan

NAN = math.nan
Array = NDArray[np.float64]

THREE = Skeleton(
    name="three",
    joints=("hand", "foot", "head"),
    flip_indices=(0, 1, 2),
    limbs=(),
    groups=(("limbs", (0, 1)), ("head", (2,))),
    normalizer=(0, 1),
    threshold=0.5,
)


def hand_example() -> Pck:
    """Four samples with a unit of 10 pixels: a joint is correct within 5 pixels.

    hand: errors 0, 5 (exactly on the threshold, as 3-4-5), 10, unlabeled -> 2 of 3
    foot: error 2.5 in one sample -> 1 of 1
    head: error 10 in two samples -> 0 of 2
    """
    labeled = np.full((4, 3, 2), NAN)
    labeled[:3, 0] = [[0, 0], [10, 20], [7, 7]]
    labeled[1, 1] = [50, 50]
    labeled[2:, 2] = [[1, 1], [2, 2]]
    predicted = np.nan_to_num(labeled, nan=99.0)
    predicted[1, 0] += [3, -4]
    predicted[2, 0] += [0, 10]
    predicted[1, 1] += [2.5, 0]
    predicted[2:, 2] += [10, 0]
    return pck(predicted, labeled, np.full(4, 10.0), THREE)


def test_by_hand() -> None:
    score = hand_example()
    assert score.metric == "PCK@0.5"
    assert score.joints == 6
    np.testing.assert_allclose(score.per_joint_K, [2 / 3, 1, 0])
    assert score.mean == pytest.approx(3 / 6)
    assert score.mean_unweighted == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_curve_and_its_area_by_hand() -> None:
    score = hand_example()
    np.testing.assert_allclose(score.thresholds_T, [0.025 * i for i in range(21)])
    # Errors 0, 0.25, 0.5, 1, 1, 1: a sixth at threshold 0, one more at 0.25 and at 0.5.
    np.testing.assert_allclose(score.curve_T, [1 / 6] * 10 + [2 / 6] * 10 + [3 / 6])
    # Trapezoids: 9 of 1/6, one of 1.5/6, 9 of 2/6, one of 2.5/6, each a twentieth wide.
    assert score.auc == pytest.approx((9 * 1 + 1.5 + 9 * 2 + 2.5) / 6 / 20)


def test_groups_are_means_of_their_joints() -> None:
    groups = group_means(hand_example(), THREE)
    assert groups == pytest.approx({"limbs": (2 / 3 + 1) / 2, "head": 0.0})
    assert list(groups) == ["limbs", "head"]


def test_lsp_joints_are_correct_within_a_fifth_of_the_torso() -> None:
    labeled = np.zeros((1, 14, 2))
    predicted = labeled.copy()
    predicted[0, :7, 0] = 20.0  # of 100: on the threshold
    predicted[0, 7:, 0] = 20.001
    score = pck(predicted, labeled, np.array([100.0]), LSP)
    assert score.metric == "PCK@0.2"
    assert score.mean == 0.5
    assert score.per_joint_K.tolist() == [1.0] * 7 + [0.0] * 7
    assert score.thresholds_T[-1] == 0.2


def test_perfect_predictions_score_1() -> None:
    labeled = np.random.default_rng(0).random((3, 3, 2))
    score = pck(labeled, labeled, np.ones(3), THREE)
    assert (score.mean, score.mean_unweighted, score.auc) == (1.0, 1.0, 1.0)
    assert score.joints == 9


def test_a_joint_without_labels_is_nan() -> None:
    labeled = np.zeros((2, 3, 2))
    labeled[:, 1] = NAN
    score = pck(np.zeros((2, 3, 2)), labeled, np.ones(2), THREE)
    assert np.isnan(score.per_joint_K).tolist() == [False, True, False]
    assert score.mean_unweighted == 1.0
    assert math.isnan(group_means(score, THREE)["limbs"])


def test_a_half_labeled_joint_does_not_count() -> None:
    labeled = np.zeros((1, 3, 2))
    labeled[0, 0] = [0, NAN]
    assert pck(np.zeros((1, 3, 2)), labeled, np.ones(1), THREE).joints == 2


@pytest.mark.parametrize("unit", [NAN, 0.0, -1.0])
def test_samples_without_a_unit_do_not_count(unit: float) -> None:
    labeled = np.zeros((2, 3, 2))
    predicted = labeled.copy()
    predicted[1] += 1e6
    score = pck(predicted, labeled, np.array([1.0, unit]), THREE)
    assert (score.joints, score.mean) == (3, 1.0)


@pytest.mark.parametrize(
    ("labels", "units"),
    [
        (np.full((2, 3, 2), NAN), np.ones(2)),
        (np.zeros((2, 3, 2)), np.array([NAN, 0.0])),
        (np.zeros((0, 3, 2)), np.zeros(0)),
    ],
)
def test_without_a_joint_that_counts_there_is_no_score(labels: Array, units: Array) -> None:
    predicted = np.zeros(labels.shape)
    with pytest.raises(ValueError, match="no labeled joint to score"):
        pck(predicted, labels, units, THREE)
    empty = pck_or_nan(predicted, labels, units, THREE)
    assert empty.metric == "PCK@0.5" and empty.joints == 0
    assert math.isnan(empty.mean) and np.isnan(empty.curve_T).all()


def pck_by_loops(predicted: Array, labeled: Array, units: Array) -> dict[str, object]:
    """The definition of PCK, one joint at a time."""
    errors: list[tuple[int, float]] = []
    for n in range(len(units)):
        for k in range(3):
            x, y = labeled[n, k]
            if math.isnan(x) or math.isnan(y) or math.isnan(units[n]) or units[n] <= 0:
                continue
            dx, dy = predicted[n, k] - labeled[n, k]
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


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_pck_equals_its_definition(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole pixels and units: many errors are exactly at thresholds.
    labeled = rng.integers(0, 20, (count, 3, 2)).astype(np.float64)
    predicted = labeled + rng.integers(-6, 7, (count, 3, 2))
    labeled[rng.random((count, 3)) < 0.3] = NAN
    units = rng.choice([NAN, 0.0, 4.0, 8.0, 10.0, 20.0], count)
    labeled[0, 0], units[0] = 1.0, 10.0  # at least one joint counts
    score, expected = pck(predicted, labeled, units, THREE), pck_by_loops(predicted, labeled, units)
    for key, value in expected.items():
        np.testing.assert_allclose(getattr(score, key), value, rtol=1e-12, err_msg=key)


# PCKh, as HRNet's lib/dataset/mpii.py computes it.

HEAD_TOP, NECK, PELVIS, THORAX, RIGHT_WRIST = 9, 8, 6, 7, 10


def pckh_example() -> tuple[Array, Array, Array]:
    """Three samples with units 10, 20 and none (no head box): 0.5 is 5 and 10 pixels.

    head top: errors 5 of 10 and 10.5 of 20 -> 1 of 2;  right wrist: 1 of 10 -> 1 of 1
    upper neck: 4 of 10, 11 of 20 -> 1 of 2;  pelvis and thorax: exact, but never scored
    """
    labeled = np.full((3, 16, 2), NAN)
    labeled[:, [HEAD_TOP, NECK, PELVIS, THORAX]] = 100.0
    labeled[0, RIGHT_WRIST] = [-3.0, 50.0]  # outside the image, which counts
    predicted = np.nan_to_num(labeled, nan=0.0)
    predicted[0, HEAD_TOP] += [3, 4]
    predicted[1, HEAD_TOP] += [0, 10.5]
    predicted[0, NECK] += [4, 0]
    predicted[1, NECK] += [11, 0]
    predicted[0, RIGHT_WRIST] += [0, -1]
    predicted[2] += 1000
    return predicted, labeled, np.array([10.0, 20.0, 0.0])


def test_pckh_by_hand() -> None:
    score = pck(*pckh_example(), MPII)
    assert (score.metric, score.joints, score.not_finite) == ("PCKh@0.5", 5, 0)
    assert score.mean == pytest.approx(3 / 5)
    assert score.mean_unweighted == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert score.counts_K.tolist() == [0] * 8 + [2, 2, 1] + [0] * 5
    # The upper neck has no column, and the head's is the head top's alone.
    groups = group_means(score, MPII)
    assert groups["head"] == 0.5 and math.isnan(groups["wrist"])  # no left wrist
    assert np.isnan(score.per_joint_K[[PELVIS, THORAX]]).all()


def test_pckh_curve_by_hand() -> None:
    score = pck(*pckh_example(), MPII)
    np.testing.assert_allclose(score.thresholds_T, [0.01 * i for i in range(51)], atol=1e-15)
    # Errors 0.1, 0.4, 0.5, 0.525, 0.55 of a unit.
    np.testing.assert_allclose(score.curve_T, [0] * 10 + [0.2] * 30 + [0.4] * 10 + [0.6])
    assert score.auc == pytest.approx((0.1 + 29 * 0.2 + 0.3 + 9 * 0.4 + 0.5) / 50)


def test_tau_changes_the_means_but_not_the_auc() -> None:
    usual, strict = pck(*pckh_example(), MPII), pck(*pckh_example(), MPII, tau=0.1)
    assert strict.metric == "PCKh@0.1"
    assert strict.mean == pytest.approx(1 / 5)
    assert strict.auc == usual.auc
    assert pck(*pckh_example(), MPII, tau=1.0).mean == 1.0


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf, 1e308])
def test_predictions_that_are_not_finite_are_wrong(bad: float) -> None:
    predicted, labeled, units = pckh_example()
    predicted[0, RIGHT_WRIST, 1] = bad
    predicted[0, PELVIS] = predicted[2, HEAD_TOP] = bad  # not scored
    score = pck(predicted, labeled, units, MPII)
    assert score.mean == pytest.approx(2 / 5)
    assert score.not_finite == (0 if bad == 1e308 else 1)


def hrnet_pckh(predicted: Array, labeled: Array, units: Array, tau: float) -> dict[str, object]:
    """The formulas of HRNet's evaluate(), in loops over joints and samples."""
    right, count = [0] * 16, [0] * 16
    curve_right, not_finite = [0] * 51, 0
    for k in range(16):
        for n in range(len(units)):
            if k in (6, 7) or math.isnan(labeled[n, k, 0]) or not units[n] > 0:
                continue
            count[k] += 1
            dx, dy = (float(predicted[n, k, a]) - float(labeled[n, k, a]) for a in (0, 1))
            if not (math.isfinite(dx) and math.isfinite(dy)):
                not_finite += 1
                continue
            error = math.sqrt(dx * dx + dy * dy) / float(units[n])
            right[k] += error <= tau
            for step in range(51):
                curve_right[step] += error <= (0.5 if step == 50 else step * (0.5 / 50))
    total = sum(count)
    shares = [r / c if c else NAN for r, c in zip(right, count, strict=True)]
    known = [share for share in shares if not math.isnan(share)]
    curve = [r / total for r in curve_right]
    return {
        "per_joint_K": shares,
        "counts_K": count,
        "mean": sum(s * c / total for s, c in zip(shares, count, strict=True) if c),
        "mean_unweighted": sum(known) / len(known),
        "curve_T": curve,
        "auc": sum((a + b) / 2 for a, b in pairwise(curve)) / 50,
        "not_finite": not_finite,
    }


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.1, 0.5, 1.0]))
def test_pckh_equals_hrnets(count: int, seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    labeled = rng.integers(-5, 300, (count, 16, 2)).astype(np.float64)  # also outside the image
    predicted = labeled + rng.integers(-12, 13, (count, 16, 2))
    predicted[rng.random((count, 16)) < 0.1] = rng.choice([NAN, math.inf, -math.inf])
    labeled[rng.random((count, 16)) < 0.3] = NAN  # jnt_missing
    units = rng.choice([0.0, 10.0, 20.0, 17.3], count)  # 0: no head box
    labeled[0, 0], units[0] = 1.0, 10.0  # at least one joint counts
    score = pck(predicted, labeled, units, MPII, tau=tau)
    for key, value in hrnet_pckh(predicted, labeled, units, tau).items():
        np.testing.assert_allclose(getattr(score, key), value, rtol=1e-12, err_msg=key)
