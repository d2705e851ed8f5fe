"""Labels made worse: as much as the dials say, for the same people every time."""

from __future__ import annotations

import numpy as np
import pytest

from fpd.data.corruption import LabelCorruption, corrupt_labels, labeled
from fpd.data.datasets import Data, load
from fpd.data.readers.synthetic.people import synthetic_people

PEOPLE = synthetic_people("train", 400)


def test_without_a_dial_nothing_is_spoilt() -> None:
    assert corrupt_labels(PEOPLE, LabelCorruption(seed=3)) is PEOPLE


def test_people_lose_their_labels_and_keep_their_boxes() -> None:
    found = corrupt_labels(PEOPLE, LabelCorruption(unlabeled=0.9))
    kept = labeled(found)
    assert kept.mean() == pytest.approx(0.1, abs=0.04)  # 3 standard deviations: 0.045
    np.testing.assert_array_equal(found.joints_NK2[kept], PEOPLE.joints_NK2[kept])
    np.testing.assert_array_equal(found.center_N2, PEOPLE.center_N2)
    np.testing.assert_array_equal(found.side_N, PEOPLE.side_N)
    # More lose theirs as the dial turns up, and none regain them.
    assert not (kept & ~labeled(corrupt_labels(PEOPLE, LabelCorruption(unlabeled=0.5)))).any()


def test_joints_are_displaced_by_shares_of_the_box() -> None:
    moved = corrupt_labels(PEOPLE, LabelCorruption(noise=0.02)).joints_NK2 - PEOPLE.joints_NK2
    shares = moved / PEOPLE.side_N[:, None, None]
    assert shares.std() == pytest.approx(0.02, rel=0.03)
    assert abs(shares.mean()) < 0.001
    twice = corrupt_labels(PEOPLE, LabelCorruption(noise=0.04)).joints_NK2 - PEOPLE.joints_NK2
    np.testing.assert_allclose(twice, 2 * moved, atol=1e-9)


def test_left_and_right_change_places() -> None:
    found = corrupt_labels(PEOPLE, LabelCorruption(swapped=0.3)).joints_NK2
    turned = PEOPLE.joints_NK2[:, list(PEOPLE.skeleton.flip_indices)]
    as_before = (found == PEOPLE.joints_NK2).all((1, 2))
    swapped = (found == turned).all((1, 2))
    assert (as_before ^ swapped).all()
    assert swapped.mean() == pytest.approx(0.3, abs=0.07)


def test_joints_lose_their_labels() -> None:
    found = np.isnan(corrupt_labels(PEOPLE, LabelCorruption(missing=0.25)).joints_NK2)
    assert (found[..., 0] == found[..., 1]).all()
    assert found.mean() == pytest.approx(0.25, abs=0.02)


def test_a_person_is_spoilt_the_same_way_in_any_company() -> None:
    dials = LabelCorruption(unlabeled=0.3, missing=0.2, noise=0.1, swapped=0.5, seed=7)
    alone = corrupt_labels(PEOPLE.take([5, 3]), dials).joints_NK2
    np.testing.assert_array_equal(alone, corrupt_labels(PEOPLE, dials).joints_NK2[[5, 3]])
    other = corrupt_labels(PEOPLE, LabelCorruption(**dials.model_dump() | {"seed": 8})).joints_NK2
    assert not np.array_equal(other, corrupt_labels(PEOPLE, dials).joints_NK2, equal_nan=True)


def test_readers_spoil_training_people_alone() -> None:
    plain = Data(synthetic={"train": 100, "test": 5}, validation=0.2)
    data = Data(**plain.model_dump() | {"label_corruption": {"unlabeled": 0.5, "noise": 0.1}})
    for split in ("validation", "test"):
        found, before = load(data, split).joints_NK2, load(plain, split).joints_NK2
        np.testing.assert_array_equal(found, before)
    everyone, some = load(data, "train"), load(data, "labeled")
    assert everyone.ids == load(plain, "train").ids  # the teacher teaches on all of them
    assert some.ids == everyone.take(np.flatnonzero(labeled(everyone))).ids
    assert 0 < len(some) < len(everyone)
    assert not np.isnan(some.joints_NK2).any(-1).all(-1).any()
