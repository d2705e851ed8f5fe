"""Values out of range are refused, by the section that they belong to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fpd.pipeline.config.recipe import load_recipe
from fpd.pipeline.config.sections import Student, Training, parse_training


@pytest.mark.parametrize(
    "override",
    [
        "student.alpha=1.01",
        "student.peak_floor=0",
        "student.fold=[2, 2]",
        "teacher.learning_rate=nan",
        "teacher.weight_decay=inf",
        "teacher.seed=4294967296",
        "teacher.loss=bce",  # needs a sigmoid
        "student.kd_loss=bce",
        "teacher.model.channels=30",
        "store.views=0",
        "store.seed=9223372036854775808",
        "store.max_error=0.3",
        "geometry.crop_px=66",
        "data.validation=1",
        "data.label_corruption.missing=1",
        "targets.sigma_px=0",
        "augmentation.scale=[1.25, 0.75]",
        "evaluation.scales=[0.9, 1.1]",  # 1 is not among them
        "loader.workers=-1",
        "sweeps.mine.grid={'teacher.epochs'=[1]}",
        "sweeps.mine.points={a={'student.seed'=1}}",
    ],
)
def test_a_value_out_of_range_is_named(override: str) -> None:
    # Some are refused by the section that has them, such as crop_px by geometry.
    section, _, key = override.partition("=")[0].rpartition(".")
    with pytest.raises(ValueError, match=rf"{section}.*({key}|expected)"):
        load_recipe("demo", [override])


def test_settings_are_immutable() -> None:
    recipe = load_recipe("demo")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.student.alpha = 0.9


def test_recorded_training_settings_are_read_back() -> None:
    for settings in (Training(epochs=3), Student(alpha=0.25)):
        assert parse_training(settings.model_dump(mode="json")) == settings


def test_only_losses_in_use_decide_whether_the_offset_is_free() -> None:
    assert Student(loss="kl").offset_is_free
    assert Student(loss="mse", kd_loss="kl", alpha=1).offset_is_free
    assert not Student(loss="mse", kd_loss="kl", alpha=0.5).offset_is_free
    assert not Student(loss="mse", kd_loss="kl", alpha=0).offset_is_free
