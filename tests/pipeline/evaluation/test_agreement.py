"""The distance between a student's and its teacher's joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fpd.data.samples import SampleSet
from fpd.pipeline.evaluation.agreement import MIN_PEAK, agreement
from fpd.pipeline.evaluation.inference import PredictedJoints


@pytest.fixture
def samples(toy_samples: SampleSet) -> SampleSet:
    """Two people whose boxes are 100 and 200 pixels long."""
    return replace(toy_samples.take([0, 1]), normalizer_N=np.array([100.0, 200.0]))


def predicted(samples: SampleSet, distance_px: float = 0.0, peak: float = 1.0) -> PredictedJoints:
    joints_NK2 = np.zeros_like(samples.joints_NK2)
    joints_NK2[..., 0] += distance_px
    return PredictedJoints(joints_NK2, np.full(joints_NK2.shape[:2], peak))


def test_distances_are_shares_of_the_box(samples: SampleSet) -> None:
    result = agreement(samples, predicted(samples, 12), predicted(samples))
    assert result is not None
    assert result["mean_distance"] == pytest.approx((0.12 + 0.06) / 2)
    assert result["within"] == {"0.05": 0.0, "0.1": 0.5, "0.2": 1.0}
    assert result["per_joint"]["neck"] == pytest.approx(0.09)
    assert result["joints"] == result["of"] == 28


def test_joints_that_the_teacher_does_not_see_are_left_out(samples: SampleSet) -> None:
    teacher = predicted(samples)
    teacher.peaks_NK[:, :7] = MIN_PEAK / 2
    result = agreement(samples, predicted(samples), teacher.without_joints((13,)))
    assert result is not None
    assert (result["joints"], result["of"]) == (12, 26)
    assert list(result["per_joint"]) == list(samples.skeleton.joints[7:13])
    assert agreement(samples, predicted(samples), predicted(samples, peak=0.1)) is None


def test_without_a_unit_the_crop_is_one(samples: SampleSet) -> None:
    samples = replace(samples, normalizer_N=np.full(2, np.nan), side_N=np.full(2, 50.0))
    result = agreement(samples, predicted(samples, 5), predicted(samples))
    assert result is not None and result["mean_distance"] == pytest.approx(0.1)
