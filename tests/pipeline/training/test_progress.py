"""Log lines and warnings of a run."""

from __future__ import annotations

import logging

import pytest
import torch

from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime import device as device_module
from fpd.pipeline.training import progress as reporting
from fpd.pipeline.training.checkpoint import Progress
from fpd.pipeline.training.progress import ProgressReporter, loading_is_slow

CPU = torch.device("cpu")


def reporter(recipe: Recipe, name: str = "teacher", *overrides: str) -> ProgressReporter:
    recipe = apply_overrides(recipe.model_dump(mode="json"), overrides)
    training = recipe.teacher if name == "teacher" else recipe.student_named(name)
    return ProgressReporter(name, recipe, training, CPU, training.learning_rate)


def test_the_epoch_line_has_loss_pck_and_speed(
    toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    row = {"epoch": 1, "loss": 0.123456, "images_per_s": 41.7, "seconds": 7200.0}
    reporter(toy_recipe).log_epoch(row)
    reporter(toy_recipe).log_epoch(row | {"epoch": 2, "validation_pck": 0.4321})
    assert caplog.messages == [
        "teacher epoch 1/2: loss 0.1235, 42 images/s, 2 h left",
        "teacher epoch 2/2: loss 0.1235, validation PCK 43.2, 42 images/s",
    ]


def test_the_bar_shows_loss_best_pck_speed_and_wait(toy_recipe: Recipe) -> None:
    progress = Progress(step=1, sums={"seconds": 2.0, "data_wait_s": 0.5}, best_pck=0.5)
    bar = reporter(toy_recipe).bar(progress, 3, silent=True)
    shown: list[str] = []
    bar.set_postfix_str = lambda text, refresh: shown.append(text)
    reporter(toy_recipe).update(bar, progress)  # no losses yet
    progress.add(loss=3.0, images=6)
    reporter(toy_recipe).update(bar, progress)
    assert shown == ["loss 0.5, best PCK 50.0, 3 images/s, 25 % waiting for data, 10 s left"]


def test_patience_may_end_a_run_earlier(
    toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    row = {"epoch": 1, "loss": 1.0, "images_per_s": 1.0, "seconds": 60.0}
    reporter(toy_recipe, "teacher", "teacher.patience=1").log_epoch(row)
    assert caplog.messages[0].endswith("1 images/s, at most 1 min left")


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(), None),
        (Progress(epoch=1), "teacher: continuing from epoch 2 of 2"),
        (Progress(epoch=1, step=12), "teacher: continuing from epoch 2 of 2, step 13"),
        (Progress(step=20), "teacher: continuing from epoch 1 of 2, after its last step"),
    ],
)
def test_a_resumed_run_says_from_where_it_continues(
    progress: Progress, line: str | None, toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    reporter(toy_recipe).log_start(progress, steps=20)
    assert caplog.messages == ([] if line is None else [line])


# Collapse


@pytest.mark.parametrize(
    ("sums", "collapsed"),
    [
        ({"loss": 10.0, "collapsed_loss": 10.0}, True),
        ({"loss": 9.0, "collapsed_loss": 10.0}, False),
        # The epoch's second half decides.
        (
            {
                "loss": 30.0,
                "collapsed_loss": 10.0,
                "late_loss": 4.95,
                "late_collapsed_loss": 5.0,
            },
            True,
        ),
        (
            {
                "loss": 10.0,
                "collapsed_loss": 10.0,
                "late_loss": 2.0,
                "late_collapsed_loss": 5.0,
            },
            False,
        ),
        # No label and no teacher heatmap at all: there is nothing to learn.
        ({"loss": 0.5, "collapsed_loss": 0.0}, False),
    ],
)
def test_a_loss_near_that_of_no_information_is_a_collapse(
    toy_recipe: Recipe, caplog: pytest.LogCaptureFixture, sums: dict[str, float], collapsed: bool
) -> None:
    overrides = ("targets.sigma_px=1.5", "students.small.learning_rate=1e-3")
    reporter(toy_recipe, "small", *overrides).warn_if_collapsed(sums, 7)
    assert len(caplog.messages) == collapsed
    for text in caplog.messages:
        assert "epoch 7" in text
        assert "--set targets.sigma_px=3" in text
        assert "--set students.small.learning_rate=0.003" in text


def test_label_targets_are_not_widened_for_a_student_that_has_none(
    toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    sums = {"loss": 10.0, "collapsed_loss": 10.0}
    reporter(toy_recipe, "student", "student.alpha=1").warn_if_collapsed(sums, 7)
    (text,) = caplog.messages
    assert "has collapsed: change the learning rate (--set student.learning_rate=" in text
    assert "sigma_px" not in text


# Slow data loading


def test_slow_loading_is_warned_of_once_with_advice(
    toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporting, "usable_cores", lambda: 8)
    monkeypatch.setattr(device_module, "usable_cores", lambda: 8)
    row = {"epoch": 3, "data_wait_fraction": 0.3, "seconds": 60.0}
    warning = reporter(toy_recipe)
    warning.warn_of_slow_loading(row, 2)
    warning.warn_of_slow_loading(row, 2)
    (text,) = caplog.messages
    assert "30 % of epoch 3 was spent waiting for data (loader.workers = 2)" in text
    assert "--set loader.workers=3" in text
    caplog.clear()
    reporter(toy_recipe).warn_of_slow_loading(row, 8)
    (text,) = caplog.messages
    assert "--set loader.workers" not in text
    assert "more than its 8 cores" in text


@pytest.mark.parametrize(
    ("wait_fraction", "seconds", "slow"),
    [(0.3, 60.0, True), (0.1, 60.0, False), (0.3, 5.0, False)],
)
def test_short_waits_and_short_epochs_are_not_slow(
    wait_fraction: float, seconds: float, slow: bool
) -> None:
    row = {"epoch": 3, "data_wait_fraction": wait_fraction, "seconds": seconds}
    assert loading_is_slow(row) == slow
