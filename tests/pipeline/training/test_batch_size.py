"""`batch_size = auto`: the search, the learning rate, and runs that keep their batch size."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides, load_recipe, shipped_recipes
from fpd.pipeline.config.sections import Training
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.training import batch_size as module
from fpd.pipeline.training import loop
from fpd.pipeline.training.batch_size import Trial, choose, largest_batch, scaled
from fpd.pipeline.training.checkpoint import saved_identity
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

CPU = torch.device("cpu")
AUTO = Training(batch_size="auto", base_batch_size=8, learning_rate=1e-3)


@pytest.mark.parametrize(
    ("limit", "most", "expected"),
    [
        (100, 128, 64),
        (100, 16, 16),
        (8, 128, 8),
        (7, 128, 4),
        (1, 128, 1),
        (0, 128, 1),
        (100, 1, 8),
    ],
)
def test_the_largest_power_of_two_of_the_base_that_fits(limit, most, expected) -> None:
    tried = []

    def fits(views: int) -> bool:
        tried.append(views)
        return views <= limit

    assert largest_batch(8, most, fits) == expected
    assert max(tried) <= max(8, most) and len(tried) == len(set(tried))


def test_the_learning_rate_grows_with_the_square_root() -> None:
    for size, factor in ((32, 2.0), (8, 1.0), (2, 0.5)):
        training = scaled(AUTO, size)
        assert training.batch_size == size
        assert training.learning_rate == pytest.approx(1e-3 * factor)


def test_auto_needs_a_base() -> None:
    assert load_recipe("demo", ["teacher.batch_size=auto"]).teacher.batch_size == "auto"
    with pytest.raises(ValueError, match="auto needs base_batch_size, the batch size that learn"):
        apply_overrides({}, ["teacher.batch_size=auto"])
    for value in ("0", "1.5", "many", "true"):
        with pytest.raises(ValueError, match=r"teacher\.batch_size: expected auto, or a number of"):
            apply_overrides({}, [f"teacher.batch_size={value}"])


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_state_the_base(name: str) -> None:
    recipe = load_recipe(name, ["data.root=data"])
    sections = [recipe.student_named(student) for student in recipe.student_names]
    if name != "photos":  # its teachers are published ones
        sections.append(recipe.teacher)
    assert all(section.base_batch_size == section.batch_size for section in sections)


def test_other_settings_are_left_as_they_are(tmp_path: Path) -> None:
    training = Training(batch_size=12)
    trial = Trial(training, None, None, CPU, None)  # type: ignore[arg-type]
    assert choose(training, ModelDir(tmp_path), SINGLE_PROCESS, trial) is training


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


@pytest.fixture
def auto_recipe(toy_recipe: Recipe) -> Recipe:
    return changed(toy_recipe, "teacher.batch_size=auto", "teacher.base_batch_size=4")


def train(root: Path, recipe: Recipe) -> ModelDir:
    work = WorkDir(root)
    work.create()
    teacher.run(work, recipe, CPU)
    return work.teacher


def test_a_cpu_takes_the_base(
    auto_recipe: Recipe, toy_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fpd"):
        out = train(tmp_path / "auto", auto_recipe)
    assert "teacher: batches of 4 views (batch_size = auto), learning rate " in caplog.text
    settings = out.record()["identity"]["settings"]["training"]
    assert settings["batch_size"] == 4 and "base_batch_size" not in settings
    same = train(tmp_path / "four", changed(toy_recipe, "teacher.batch_size=4"))
    assert out.weights.read_bytes() == same.weights.read_bytes()


def pretend_that(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A device of which `limit` views fill the memory."""
    monkeypatch.setattr(Trial, "fits", lambda _, views: views <= limit)
    monkeypatch.setattr(module, "MIN_STEPS", 1)
    real = module._find
    gpu = torch.device("cuda")
    monkeypatch.setattr(
        module, "_find", lambda base, trial, group: real(base, replace(trial, device=gpu), group)
    )


def test_a_run_keeps_its_batch_size(
    auto_recipe: Recipe, toy_samples: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_that(monkeypatch, 9)
    real_collect = loop.Run._collect

    def stop_in_the_second_epoch(run: loop.Run, sums: list[torch.Tensor]) -> None:
        real_collect(run, sums)
        if run.state.progress.epoch == 1:
            run._interrupt(15)

    monkeypatch.setattr(loop.Run, "_collect", stop_in_the_second_epoch)
    with pytest.raises(Interrupted):
        train(tmp_path, auto_recipe)
    monkeypatch.setattr(loop.Run, "_collect", real_collect)
    identity = saved_identity(WorkDir(tmp_path).teacher)
    assert identity is not None and identity["settings"]["training"]["batch_size"] == 8
    learning_rate = identity["settings"]["training"]["learning_rate"]
    assert learning_rate == pytest.approx(auto_recipe.teacher.learning_rate * math.sqrt(2))
    pretend_that(monkeypatch, 1)  # resumed where less fits, and read when it is finished
    out = train(tmp_path, auto_recipe)
    record = out.record()
    assert record["identity"] == identity
    assert train(tmp_path, auto_recipe).record() == record
    with pytest.raises(ValueError, match=r"batch_size: expected 5, found 8"):
        train(tmp_path, changed(auto_recipe, "teacher.batch_size=5"))


def test_an_epoch_keeps_some_steps(
    toy_samples: SampleSet, auto_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_that(monkeypatch, 10**6)
    monkeypatch.setattr(module, "MIN_STEPS", 2)
    out = train(tmp_path, auto_recipe)
    assert out.record()["identity"]["settings"]["training"]["batch_size"] == 8  # of 18 samples


def test_all_processes_take_what_fits_the_smallest_device(
    tmp_path: Path, toy_samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TwoProcesses(ProcessGroup):
        """The other one's device fits 16 views, and this one's 64 of its half."""

        def max(self, values: object) -> list[float]:
            (value,) = values  # type: ignore[misc]
            return [max(value, 0 if value >= 0 else -16)]

    tried = []

    def fits(trial: Trial, views: int) -> bool:
        tried.append(views)
        return views <= 64

    pretend_that(monkeypatch, 0)
    monkeypatch.setattr(Trial, "fits", fits)
    data = type("Data", (), {"samples": range(10**6), "keep_N": None})
    trial = Trial(AUTO, None, data, CPU, None)  # type: ignore[arg-type]
    chosen = choose(AUTO, ModelDir(tmp_path), TwoProcesses(rank=0, size=2), trial)
    assert chosen.batch_size == 16
    assert tried == [4, 8, 16, 32, 64]  # shares of 8 to 128 views, 16 times the base


def test_a_trial_takes_steps_and_leaves_nothing(
    auto_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, all that fails to fit is an allocation that fails."""
    trials: list[Trial] = []
    real = module._find
    monkeypatch.setattr(
        module, "_find", lambda base, trial, group: trials.append(trial) or real(base, trial, group)
    )
    train(tmp_path, auto_recipe)
    (trial,) = trials
    assert trial.fits(3) and trial.fits(20)  # more views than are loaded

    def too_much(*_: object) -> None:
        torch.empty(1 << 48)

    monkeypatch.setattr(module, "train_step", lambda **_: too_much())
    assert not trial.fits(3)

    def broken(**_: object) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(module, "train_step", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        trial.fits(3)


def test_a_trial_leaves_a_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trial, "_run", lambda *_: None)
    monkeypatch.setattr(module, "_available_bytes", lambda _: 1000)
    trial = Trial(AUTO, None, None, CPU, None)  # type: ignore[arg-type]
    for used, fits in ((900, True), (901, False)):
        monkeypatch.setattr(module, "_reserved_bytes", lambda _, used=used: used)
        assert trial.fits(8) == fits


def test_an_earlier_stages_peak_is_not_a_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [1000]  # of all memory, by the teacher that was trained before
    monkeypatch.setattr(Trial, "_run", lambda *_: peak.append(100))
    monkeypatch.setattr(module, "_available_bytes", lambda _: 1000)
    monkeypatch.setattr(module, "_reserved_bytes", lambda _: max(peak))
    monkeypatch.setattr(module, "_release", lambda _: peak.clear())
    assert Trial(AUTO, None, None, CPU, None).fits(8)  # type: ignore[arg-type]


def test_advice_is_about_the_stated_learning_rate(
    auto_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is scaled again when it is followed."""
    monkeypatch.setattr(module, "_find", lambda *_: 16)
    monkeypatch.setattr(
        loop, "train_step", lambda **_: torch.tensor([math.nan, 0.0, 0.0, 0.0, 16.0])
    )
    stated = changed(auto_recipe, "teacher.learning_rate=3e-3")
    with pytest.raises(ValueError, match=r"--set teacher\.learning_rate=0\.001$"):
        train(tmp_path, stated)


def test_trials_do_not_change_the_result(
    auto_recipe: Recipe, toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(base: int, trial: Trial, group: ProcessGroup) -> int:
        assert trial.fits(6) and trial.fits(7)
        return 8

    monkeypatch.setattr(module, "_find", find)
    found = train(tmp_path / "auto", auto_recipe)
    learning_rate = toy_recipe.teacher.learning_rate * math.sqrt(2)
    stated = changed(toy_recipe, "teacher.batch_size=8", f"teacher.learning_rate={learning_rate!r}")
    out = train(tmp_path / "stated", stated)
    assert found.record()["identity"] == out.record()["identity"]
    assert found.weights.read_bytes() == out.weights.read_bytes()


def test_a_record_without_a_batch_size_is_refused(
    auto_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(tmp_path, auto_recipe)
    record = json.loads(out.record_path.read_text())
    for value in (None, "auto", 0, True):
        record["identity"]["settings"]["training"]["batch_size"] = value
        monkeypatch.setattr(ModelDir, "record", lambda _, record=record: record)
        with pytest.raises(ValueError, match="expected the batch size of its run, found"):
            train(tmp_path, auto_recipe)
