"""Label corruption: the configured amount, reproducibly, in training labels only."""

from __future__ import annotations

import numpy as np
import pytest

from fpd.data.corruption import corrupt_labels, has_labels
from fpd.data.datasets import load
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.sections import Data, LabelCorruption

SAMPLES = synthetic_samples("train", 400)


def test_by_default_nothing_is_corrupted() -> None:
    assert corrupt_labels(SAMPLES, LabelCorruption(seed=3)) is SAMPLES


def test_unlabeled_samples_keep_their_boxes() -> None:
    corrupted = corrupt_labels(SAMPLES, LabelCorruption(unlabeled=0.9))
    kept = has_labels(corrupted)
    assert kept.mean() == pytest.approx(0.1, abs=0.04)  # 3 standard deviations: 0.045
    np.testing.assert_array_equal(corrupted.joints_NK2[kept], SAMPLES.joints_NK2[kept])
    np.testing.assert_array_equal(corrupted.center_N2, SAMPLES.center_N2)
    np.testing.assert_array_equal(corrupted.side_N, SAMPLES.side_N)
    # A larger share removes further labels and restores none.
    assert not (kept & ~has_labels(corrupt_labels(SAMPLES, LabelCorruption(unlabeled=0.5)))).any()


def test_noise_displaces_joints_in_units_of_the_box() -> None:
    moved = corrupt_labels(SAMPLES, LabelCorruption(noise=0.02)).joints_NK2 - SAMPLES.joints_NK2
    shares = moved / SAMPLES.side_N[:, None, None]
    assert shares.std() == pytest.approx(0.02, rel=0.03)
    assert abs(shares.mean()) < 0.001
    twice = corrupt_labels(SAMPLES, LabelCorruption(noise=0.04)).joints_NK2 - SAMPLES.joints_NK2
    np.testing.assert_allclose(twice, 2 * moved, atol=1e-9)


def test_left_and_right_are_swapped() -> None:
    corrupted_NK2 = corrupt_labels(SAMPLES, LabelCorruption(swapped=0.3)).joints_NK2
    swapped_NK2 = SAMPLES.joints_NK2[:, list(SAMPLES.skeleton.flip_indices)]
    unchanged = (corrupted_NK2 == SAMPLES.joints_NK2).all((1, 2))
    swapped = (corrupted_NK2 == swapped_NK2).all((1, 2))
    assert (unchanged ^ swapped).all()
    assert swapped.mean() == pytest.approx(0.3, abs=0.07)


def test_joints_lose_their_labels() -> None:
    missing = np.isnan(corrupt_labels(SAMPLES, LabelCorruption(missing=0.25)).joints_NK2)
    assert (missing[..., 0] == missing[..., 1]).all()
    assert missing.mean() == pytest.approx(0.25, abs=0.02)


def test_a_samples_corruption_does_not_depend_on_other_samples() -> None:
    corruption = LabelCorruption(unlabeled=0.3, missing=0.2, noise=0.1, swapped=0.5, seed=7)
    two = corrupt_labels(SAMPLES.take([5, 3]), corruption).joints_NK2
    np.testing.assert_array_equal(two, corrupt_labels(SAMPLES, corruption).joints_NK2[[5, 3]])
    other = corrupt_labels(
        SAMPLES, LabelCorruption(**corruption.model_dump() | {"seed": 8})
    ).joints_NK2
    assert not np.array_equal(other, corrupt_labels(SAMPLES, corruption).joints_NK2, equal_nan=True)


def test_only_training_labels_are_corrupted() -> None:
    plain = Data(synthetic={"train": 100, "test": 5}, validation=0.2)
    data = Data(**plain.model_dump() | {"label_corruption": {"unlabeled": 0.5, "noise": 0.1}})
    for split in ("validation", "test"):
        expected = load(plain, split).joints_NK2
        np.testing.assert_array_equal(load(data, split).joints_NK2, expected)
    train, with_labels = load(data, "train"), load(data, "labeled")
    assert train.ids == load(plain, "train").ids  # students with a teacher train on all
    assert with_labels.ids == train.take(np.flatnonzero(has_labels(train))).ids
    assert 0 < len(with_labels) < len(train)
    assert has_labels(with_labels).all()
