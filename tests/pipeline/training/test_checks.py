"""What is refused before training starts."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fpd.data.samples import SampleSet, Tally
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.config.sections import Student, Training
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.runtime.distributed import ProcessGroup
from fpd.pipeline.training.checks import (
    check_batch_size,
    check_labels,
    check_validation,
    describe_data,
)
from fpd.pipeline.training.sampler import EpochSampler

OUT = ModelDir(Path("work/student"))


@pytest.fixture(scope="module")
def unlabeled(toy_samples: SampleSet) -> SampleSet:
    return replace(toy_samples, joints_NK2=np.full_like(toy_samples.joints_NK2, np.nan))


def test_people_and_pairs_are_told_before_the_first_training(
    toy_samples: SampleSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tally = Tally("a.json", 20, (("without a box", 2), ("marked as a crowd", 0)), ("odd\x1b",))
    samples = replace(toy_samples, tallies=(tally,))
    out = ModelDir(tmp_path / "teacher")
    with caplog.at_level(logging.INFO, "fpd"):
        describe_data(samples, samples.take([0, 1]), out)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "teacher: 20 people in a.json, 18 kept; left out: 2 without a box"
    assert messages[1] == "teacher: odd\\x1b"
    assert messages[2] == "teacher: 18 samples to train on, 2 held out to select weights"
    assert messages[3].startswith("teacher: a flip exchanges left hip/right hip, ")
    assert messages[3].endswith("it keeps neck, head top")
    caplog.clear()
    out.path.mkdir()
    out.state.touch()
    with caplog.at_level(logging.INFO, "fpd"):  # resumed
        describe_data(samples, samples.take([0, 1]), out)
    assert len(caplog.records) == 3


def test_samples_without_labels_need_a_teacher(unlabeled: SampleSet) -> None:
    for training in (Training(), Student(alpha=0)):
        with pytest.raises(ValueError, match=r"none of 18 .* `fpd cache-heatmaps -w work`"):
            check_labels(unlabeled, training, Recipe(), OUT)


def test_samples_without_labels_leave_the_loss_to_the_teacher(
    unlabeled: SampleSet, toy_samples: SampleSet
) -> None:
    with pytest.raises(ValueError, match=r"none of 18 .* --set student\.alpha=1"):
        check_labels(unlabeled, Student(alpha=0.5), Recipe(), OUT)
    check_labels(unlabeled, Student(alpha=1), Recipe(), OUT)
    check_labels(toy_samples, Training(), Recipe(), OUT)


def test_validation_samples_without_labels_are_refused(unlabeled: SampleSet) -> None:
    with pytest.raises(ValueError, match="no labeled joint to score"):
        check_validation(unlabeled, Training())


def test_patience_needs_validation_samples(
    toy_samples: SampleSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    empty = toy_samples.take(np.array([], np.int64))
    with pytest.raises(ValueError, match=r"patience .*expected data\.validation above 0"):
        check_validation(empty, Training(patience=3))
    check_validation(empty, Training())
    assert "no validation samples" in caplog.text


@pytest.mark.parametrize(
    ("settings", "processes", "batch_size", "least"),
    [
        # A 64-pixel crop is a single pixel in the middle of an hourglass, so batch statistics need
        # two views.
        ({}, 1, 1, 2),
        # Each part has batch statistics of its own.
        ({"grad_accum_steps": 3}, 1, 5, 6),
        # Synchronized statistics are of all processes' parts together.
        ({"grad_accum_steps": 2, "sync_batch_norm": True}, 2, 3, 4),
        ({"grad_accum_steps": 2, "sync_batch_norm": False}, 2, 7, 8),
    ],
)
def test_batches_too_small_for_batch_statistics_are_refused(
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    settings: dict[str, int],
    processes: int,
    batch_size: int,
    least: int,
) -> None:
    training = Student(model=HourglassSettings(stages=1, channels=8), **settings)
    group = ProcessGroup(0, processes)
    samples = toy_samples.take(np.arange(batch_size))
    sampler = EpochSampler(samples, batch_size, 0, None, group=group)
    with pytest.raises(ValueError, match=rf"at least {least} .*student\.batch_size"):
        check_batch_size(sampler, training, toy_recipe, OUT)
    samples = toy_samples.take(np.arange(least))
    sampler = EpochSampler(samples, least, 0, None, group=group)
    check_batch_size(sampler, training, toy_recipe, OUT)


def test_every_part_has_a_view(toy_samples: SampleSet) -> None:
    training = Training(model=HourglassSettings(stages=1, channels=8), grad_accum_steps=7)
    sampler = EpochSampler(toy_samples.take(np.arange(6)), 6, 0, None)
    with pytest.raises(ValueError, match=r"one for each part.*found 6.*batch_size"):
        check_batch_size(sampler, training, Recipe(), OUT)
