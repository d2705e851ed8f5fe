"""Training through the stages: interrupted runs, kept weights, trouble told, runs kept apart."""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views
from fpd.pipeline.evaluation.pck import Pck, pck
from fpd.pipeline.models.checkpoint import ModelDir, load_model, save_weights
from fpd.pipeline.runtime.files import read_json, sha256, write_json
from fpd.pipeline.runtime.interrupt import Interrupted, stop_requested
from fpd.pipeline.training import loop
from fpd.pipeline.training.checks import check_validation
from fpd.pipeline.training.loop import Diverged
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student, teacher

CPU = torch.device("cpu")
Train = Callable[[WorkDir, Recipe], dict[str, Any]]


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def train_teacher(work: WorkDir, recipe: Recipe) -> dict[str, Any]:
    work.create()
    return teacher.run(work, recipe, CPU)


def train_student(work: WorkDir, recipe: Recipe) -> dict[str, Any]:
    return student.run(work, recipe, CPU)


def rows(folder: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def timeless(folder: ModelDir) -> list[dict[str, Any]]:
    """The metrics that do not depend on the clock."""
    clocked = {"seconds", "images_per_s", "data_wait_fraction", "peak_memory_mb"}
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows(folder)]


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# A finished run


def test_metrics_are_one_line_an_epoch(toy_work: Path) -> None:
    found = rows(WorkDir(toy_work).teacher)
    assert [row["epoch"] for row in found] == [1, 2]
    for row in found:
        assert set(row) == {
            *["epoch", "loss", "collapsed_loss", "learning_rate", "seconds", "images_per_s"],
            *["data_wait_fraction", "peak_memory_mb", "validation_pck"],
        }
        assert row["loss"] > 0 and row["collapsed_loss"] > 0
        assert 0 <= row["validation_pck"] <= 1
        assert row["images_per_s"] == pytest.approx(18 / row["seconds"])
        assert 0 <= row["data_wait_fraction"] <= 1
    assert found[1]["learning_rate"] < found[0]["learning_rate"]  # one-cycle, past its peak


def test_a_distilled_students_two_losses_are_apart(work: WorkDir, toy_recipe: Recipe) -> None:
    student.run(work, toy_recipe, CPU)
    alpha = toy_recipe.student.alpha
    for row in rows(work.student("student")):
        mixed = alpha * row["kd_pose_loss"] + (1 - alpha) * row["pose_loss"]
        assert row["loss"] == pytest.approx(mixed, rel=1e-5)
        assert row["kd_pose_loss"] != pytest.approx(row["pose_loss"], rel=1e-3)


def test_the_record_says_what_was_trained(toy_work: Path, toy_samples: SampleSet) -> None:
    folder = WorkDir(toy_work).teacher
    record = folder.record()
    assert sorted(p.name for p in folder.path.iterdir()) == [
        *["metrics.jsonl", "record.json", "state.pt", "weights.safetensors"]
    ]
    result, found = record["result"], rows(folder)
    assert result["weights_sha256"] == sha256(folder.weights)
    assert result["validation_pck"] == max(row["validation_pck"] for row in found)
    assert found[result["best_epoch"] - 1]["validation_pck"] == result["validation_pck"]
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in found))
    assert record["identity"]["inputs"]["dataset"] == toy_samples.fingerprint()
    assert record["identity"]["settings"]["training"]["epochs"] == 2


@pytest.mark.parametrize("batch", [5, 8, 18, 30])
def test_the_loss_is_the_mean_over_all_people_of_the_epoch(
    tmp_path: Path, toy_recipe: Recipe, toy_samples: SampleSet, batch: int
) -> None:
    """At a rate of nearly nothing the first network's losses can be pluralize up one by one."""
    recipe = changed(
        toy_recipe,
        *["teacher.epochs=1", "teacher.learning_rate=1e-30", "teacher.lr_schedule=constant"],
        f"teacher.batch_size={batch}",
    )
    work = WorkDir(tmp_path)
    train_teacher(work, recipe)
    torch.manual_seed(0)
    network = recipe.teacher.model.build(14).to(memory_format=torch.channels_last).train()
    views = fresh_views(recipe, toy_samples, 0)
    total, images = 0.0, 0
    batches = EpochSampler(toy_samples, batch, 0, None)
    for keys in batches:
        data = default_collate([views[key] for key in keys])
        crop = (data["crop"].double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
            [0.229, 0.224, 0.225]
        )
        answer = network(crop.permute(0, 3, 1, 2).float())
        loss = Objective(recipe.targets, 16)(answer, data)[0].item()
        total, images = total + loss * len(keys), images + len(keys)
    assert images == 18
    assert rows(work.teacher)[0]["loss"] == pytest.approx(total / images, rel=1e-3)


def test_a_finished_run_returns_at_once(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = work.teacher.record()
    before = {p: p.stat().st_mtime_ns for p in work.teacher.path.iterdir()}

    def never(*_: Any) -> None:
        raise AssertionError("nothing was to be trained")

    monkeypatch.setattr(loop.Run, "train", never)
    assert teacher.run(work, toy_recipe, CPU) == record
    assert {p: p.stat().st_mtime_ns for p in work.teacher.path.iterdir()} == before


def test_the_same_command_elsewhere_gives_the_same_bytes(
    work: WorkDir, tmp_path: Path, toy_recipe: Recipe
) -> None:
    again = WorkDir(tmp_path / "again")
    train_teacher(again, changed(toy_recipe, "loader.workers=1"))
    assert again.teacher.weights.read_bytes() == work.teacher.weights.read_bytes()
    assert timeless(again.teacher) == timeless(work.teacher)


def test_a_batch_that_cannot_be_normalized_is_named(tmp_path: Path, toy_recipe: Recipe) -> None:
    """64-pixel crops are one pixel at an hourglass's bottom: batch statistics need a second one."""
    with pytest.raises(ValueError, match=r"teacher\.batch"):
        train_teacher(WorkDir(tmp_path), changed(toy_recipe, "teacher.batch_size=1"))


def test_another_seed_gives_another_network(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "teacher.epochs=1")
    first = train_teacher(WorkDir(tmp_path / "a"), recipe)
    other = train_teacher(WorkDir(tmp_path / "b"), changed(recipe, "teacher.seed=1"))
    assert first["result"]["weights_sha256"] != other["result"]["weights_sha256"]


# The best weights


def fake_scores(
    monkeypatch: pytest.MonkeyPatch, means: list[float]
) -> list[dict[str, torch.Tensor]]:
    """Have validation say `means`; returns the networks' states as they were scored."""
    states: list[dict[str, torch.Tensor]] = []
    perfect = pck(np.zeros((1, 14, 2)), np.zeros((1, 14, 2)), np.ones(1), LSP)

    def score(network: torch.nn.Module, *_: Any) -> Pck:
        states.append({key: value.clone() for key, value in network.state_dict().items()})
        return replace(perfect, mean=means[len(states) - 1])

    monkeypatch.setattr(loop, "score", score)
    return states


@pytest.mark.parametrize(
    ("means", "best"),
    [([0.2, 0.9, 0.5], 2), ([0.0, 0.0, 0.0], 1), ([0.1, 0.3, 0.3], 2), ([0.1, 0.2, 0.3], 3)],
)
def test_the_best_epochs_weights_are_kept(
    tmp_path: Path,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    means: list[float],
    best: int,
) -> None:
    states = fake_scores(monkeypatch, means)
    work = WorkDir(tmp_path)
    record = train_teacher(work, changed(toy_recipe, "teacher.epochs=3"))
    assert len(states) == 3
    kept = load_file(work.teacher.weights)
    assert [same_tensors(kept, state) for state in states] == [i + 1 == best for i in range(3)]
    assert record["result"]["best_epoch"] == best
    assert record["result"]["validation_pck"] == max(means)
    assert [row["validation_pck"] for row in rows(work.teacher)] == means


def test_without_validation_the_last_epochs_weights_are_kept(
    tmp_path: Path, toy_recipe: Recipe
) -> None:
    work = WorkDir(tmp_path)
    record = train_teacher(work, changed(toy_recipe, "data.validation=0"))
    assert (record["result"]["best_epoch"], record["result"]["validation_pck"]) == (2, None)
    assert all("validation_pck" not in row for row in rows(work.teacher))
    state = torch.load(work.teacher.state, weights_only=True)
    assert same_tensors(load_file(work.teacher.weights), state["network"])


def test_a_trained_model_loads_ready_to_predict(toy_work: Path) -> None:
    network = load_model(WorkDir(toy_work).teacher, CPU).network
    assert not network.training
    kept = load_file(WorkDir(toy_work).teacher.weights)
    assert same_tensors(kept, network.state_dict())


# Interruptions


class Crash(Exception):
    """What nobody expected."""


@pytest.mark.parametrize("run", [train_teacher, train_student])
def test_a_run_that_crashes_at_every_step_ends_with_the_same_weights(
    work: WorkDir,
    tmp_path: Path,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    run: Train,
) -> None:
    """Saved after every step, killed one step later, again and again."""
    undisturbed = WorkDir(Path(shutil.copytree(work.root, tmp_path / "undisturbed")))
    name = "teacher" if run is train_teacher else "student"
    for w in (work, undisturbed):
        shutil.rmtree(w.root / name, ignore_errors=True)
    expected = run(undisturbed, toy_recipe)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "COLLECT_EVERY", 1)
    step = loop.Run._step
    taken: list[int] = []

    def fragile(self: loop.Run, batch: Any) -> Any:
        taken.append(1)
        if len(taken) % 3 == 0:  # two steps forward
            raise Crash
        return step(self, batch)

    monkeypatch.setattr(loop.Run, "_step", fragile)
    crashes = 0
    while True:
        try:
            record = run(work, toy_recipe)
            break
        except Crash:
            crashes += 1
            assert crashes < 20
            assert not ModelDir(work.root / name).finished
    assert crashes >= 2
    folders = [ModelDir(w.root / name) for w in (work, undisturbed)]
    assert folders[0].weights.read_bytes() == folders[1].weights.read_bytes()
    assert timeless(folders[0]) == timeless(folders[1])
    assert record["identity"] == expected["identity"]
    assert record["result"]["best_epoch"] == expected["result"]["best_epoch"]
    # Not one step was taken twice.
    assert len(taken) - crashes == 3 * 2


@pytest.fixture(scope="module")
def long_recipe(toy_recipe: Recipe) -> Recipe:
    """9 steps an epoch, so that there is a middle to stop in, and time to do it."""
    return changed(toy_recipe, "teacher.epochs=7", "teacher.batch_size=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, long_recipe: Recipe) -> ModelDir:
    work = WorkDir(tmp_path_factory.mktemp("undisturbed") / "work")
    train_teacher(work, long_recipe)
    return work.teacher


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_is_continued_to_the_same_weights(
    tmp_path: Path, long_recipe: Recipe, undisturbed: ModelDir, number: signal.Signals
) -> None:
    work = WorkDir(tmp_path / "work")
    work.create()
    write_json(work.root / "recipe.json", long_recipe.model_dump(mode="json"))
    command = [sys.executable, "-m", "fpd", "run", "teacher", "-w", work.root, "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not work.teacher.state.is_file():  # the first epoch is done, the second under way
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(number)
        message = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert not work.teacher.finished
    done = json.loads(torch.load(work.teacher.state, weights_only=True)["progress"])
    assert 1 <= done["epoch"] < 7
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "the same command continues from there" in message
        assert "Traceback" not in message
    train_teacher(work, work.recipe(None, ()))
    assert work.teacher.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert timeless(work.teacher) == timeless(undisturbed)
    best = [folder.record()["result"]["best_epoch"] for folder in (work.teacher, undisturbed)]
    assert best[0] == best[1]


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_signal_in_a_step_saves_that_step(
    tmp_path: Path, toy_recipe: Recipe, toy_work: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    work = WorkDir(tmp_path)
    step = loop.Run._step
    taken: list[int] = []

    def interrupted(self: loop.Run, batch: Any) -> Any:
        taken.append(1)
        if len(taken) == at:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "_step", interrupted)
        with pytest.raises(Interrupted, match="the same command continues"):
            train_teacher(work, toy_recipe)
    assert len(taken) == at
    progress = json.loads(torch.load(work.teacher.state, weights_only=True)["progress"])
    assert 3 * progress["epoch"] + progress["step"] == at  # three steps an epoch
    train_teacher(work, toy_recipe)
    assert work.teacher.weights.read_bytes() == WorkDir(toy_work).teacher.weights.read_bytes()
    assert timeless(work.teacher) == timeless(WorkDir(toy_work).teacher)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_signal_while_scoring_stops_the_run_too(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_work: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
) -> None:
    """After the last epoch as well: what comes next, the store say, is not to begin."""
    work = WorkDir(tmp_path)
    score = loop.score
    scored: list[int] = []

    def interrupted(*arguments: Any) -> Pck:
        scored.append(1)
        if len(scored) == epoch:
            signal.raise_signal(signal.SIGTERM)
        return score(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "score", interrupted)
        with pytest.raises(Interrupted):
            train_teacher(work, toy_recipe)
    assert len(scored) == epoch
    train_teacher(work, toy_recipe)
    assert work.teacher.weights.read_bytes() == WorkDir(toy_work).teacher.weights.read_bytes()


def test_the_first_signal_asks_and_the_second_ends() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with stop_requested() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {number: signal.getsignal(number) for number in before} == before


def test_signals_are_given_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def crash() -> None:
        with stop_requested():
            assert signal.getsignal(signal.SIGTERM) is not before
            raise Crash

    with pytest.raises(Crash):
        crash()
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    found: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def run() -> None:
        with stop_requested() as stop:
            found.append(stop.is_set() or signal.getsignal(signal.SIGINT) is not before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


# Trouble


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_diverging_run_stops_with_advice(
    tmp_path: Path, toy_recipe: Recipe, optimizer: str
) -> None:
    recipe = changed(
        toy_recipe,
        *["teacher.learning_rate=1e30", "teacher.lr_schedule=constant"],
        f"teacher.optimizer={optimizer}",
    )
    work = WorkDir(tmp_path)
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) in epoch 1") as caught:
        train_teacher(work, recipe)
    assert isinstance(caught.value, ValueError)
    assert "--set teacher.learning_rate=3.3e+29" in str(caught.value)
    assert f"removing {work.teacher.path}" in str(caught.value)
    assert not work.teacher.finished
    # As advised.
    shutil.rmtree(work.teacher.path)
    train_teacher(work, toy_recipe)


def test_a_student_is_advised_about_the_students_rate(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.learning_rate=1e30", "student.lr_schedule=constant")
    with pytest.raises(Diverged, match=r"--set student\.learning_rate=3\.3e\+29"):
        train_student(work, recipe)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 5])
def test_no_loss_that_is_no_number_is_saved(
    tmp_path: Path,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    at: int,
) -> None:
    call = Objective.__call__
    calls: list[int] = []

    def spoilt(self: Objective, stages: Any, batch: Any) -> Any:
        found = call(self, stages, batch)
        calls.append(1)
        return found._replace(loss=found.loss * value) if len(calls) == at else found

    monkeypatch.setattr(Objective, "__call__", spoilt)
    work = WorkDir(tmp_path)
    with pytest.raises(Diverged, match=f"in epoch {1 if at == 1 else 2} "):
        train_teacher(work, toy_recipe)
    assert work.teacher.state.is_file() == (at == 5)  # the end of epoch 1
    if at == 5:
        state = torch.load(work.teacher.state, weights_only=True)
        assert all(bool(tensor.isfinite().all()) for tensor in state["network"].values())
        assert json.loads(state["progress"])["epoch"] == 1
        assert len(rows(work.teacher)) == 1


def zero_weights(recipe: Recipe, path: Path) -> Path:
    """Weights of the student's network with which it answers zero everywhere."""
    torch.manual_seed(0)
    network = recipe.student.model.build(14)
    for head in network.score:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    path.mkdir()
    save_weights(network, ModelDir(path))
    return path


def collapse_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_network_that_answers_zero_is_warned_of(
    tmp_path: Path, toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = changed(
        toy_recipe,
        *["student.alpha=0", "student.learning_rate=1e-9", "targets.sigma_px=1.5"],
    )
    work = WorkDir(tmp_path / "work")
    work.create()
    student.run(work, recipe, CPU, init_from=zero_weights(recipe, tmp_path / "zero"))
    first, second = collapse_warnings(caplog)
    assert "epoch 1" in first and "epoch 2" in second
    assert "1.00" in first
    assert "--set targets.sigma_px=3" in first
    assert "--set student.learning_rate=3e-09" in first
    found = rows(work.student("student"))
    assert found[0]["loss"] == pytest.approx(found[0]["collapsed_loss"], rel=1e-4)


def test_a_network_that_learns_is_not(
    tmp_path: Path, toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = changed(
        toy_recipe,
        *["student.alpha=0", "student.learning_rate=0.02", "student.lr_schedule=constant"],
        *["student.batch_size=2", "student.epochs=8", "targets.sigma_px=2"],
    )
    work = WorkDir(tmp_path / "work")
    work.create()
    student.run(work, recipe, CPU, init_from=zero_weights(recipe, tmp_path / "zero"))
    last = rows(work.student("student"))[-1]
    assert last["loss"] < 0.95 * last["collapsed_loss"]
    assert not any("epoch 8" in text for text in collapse_warnings(caplog))


def test_nothing_to_learn_is_no_collapse(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a label that reaches its crop in the epoch: the loss of an answer of zero is zero."""
    monkeypatch.setattr("fpd.pipeline.training.checks.check_labels", lambda *_: None)
    recipe = changed(toy_recipe, "data.label_corruption.missing=0.999999", "data.validation=0")
    assert np.isnan(load(recipe.data, "train").joints_NK2).all()
    work = WorkDir(tmp_path)
    train_teacher(work, recipe)
    assert rows(work.teacher)[0]["collapsed_loss"] == 0


def test_people_without_labels_to_score_are_refused_before_training(
    tmp_path: Path, toy_recipe: Recipe
) -> None:
    recipe = changed(toy_recipe, "data.label_corruption.missing=0.999999")
    with pytest.raises(ValueError, match="none of 18 training people has a labeled joint"):
        train_teacher(WorkDir(tmp_path), recipe)
    with pytest.raises(ValueError, match="no labeled joint to score"):
        check_validation(load(recipe.data, "validation"), recipe.teacher)
    assert not WorkDir(tmp_path).teacher.state.exists()


# Other settings, other inputs


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("teacher.learning_rate=0.5", "settings.training.learning_rate: expected 0.5, found 0.003"),
        ("teacher.model.channels=16", "settings.training.model.channels: expected 16, found 8"),
        ("augmentation.rotation_deg=5", "settings.augmentation.rotation_deg: expected 5.0"),
        ("targets.sigma_px=2", "settings.targets.sigma_px: expected 2.0, found 1.0"),
        ("data.synthetic.seed=4", "inputs.dataset.images: expected "),
        ("data.validation=0.5", "inputs.dataset.samples: expected 11, found 18"),
    ],
)
def test_changed_settings_are_refused(
    work: WorkDir, toy_recipe: Recipe, override: str, key: str, finished: bool
) -> None:
    if not finished:
        work.teacher.record_path.unlink()
    before = work.teacher.weights.read_bytes()
    with pytest.raises(ValueError, match="holds a run with other settings or inputs") as caught:
        teacher.run(work, changed(toy_recipe, override), CPU)
    assert key in str(caught.value)
    assert f"remove {work.teacher.path} to start over" in str(caught.value)
    assert work.teacher.weights.read_bytes() == before


def test_settings_that_do_not_matter_may_change(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.alpha=0.9", "store.views=7", "loader.workers=2")
    assert teacher.run(work, recipe, CPU) == work.teacher.record()


# Students


def test_a_student_learns_from_the_store(work: WorkDir, toy_recipe: Recipe) -> None:
    record = train_student(work, toy_recipe)
    inputs = record["identity"]["inputs"]
    assert inputs["teacher"]["sha256"] == sha256(work.teacher.weights)
    assert inputs["store"] == {
        "views": 2,
        "seed": 0,
        "max_error": 0.1,
        "flip_averaged": False,
    }
    assert work.student("student").finished
    assert len(rows(work.student("student"))) == 2


def test_a_student_needs_no_teacher_beside_the_store(
    work: WorkDir, tmp_path: Path, toy_recipe: Recipe
) -> None:
    """The cache travels: with or without the teacher the student is the same."""
    alone = WorkDir(tmp_path / "alone")
    shutil.copytree(work.store, alone.store)
    assert (
        train_student(alone, toy_recipe)["result"]["weights_sha256"]
        == train_student(work, toy_recipe)["result"]["weights_sha256"]
    )


def test_the_store_makes_a_difference(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, 'students={half={}, none={alpha=0}, raw={teacher_scale="raw"}}')
    digests = {
        student.run(work, recipe, CPU, name=name)["result"]["weights_sha256"]
        for name in ("half", "none", "raw")
    }
    assert len(digests) == 3


def refusal(work: WorkDir, recipe: Recipe) -> str:
    with pytest.raises(ValueError, match="fpd cache-heatmaps") as caught:
        train_student(work, recipe)
    assert not work.student("student").state.exists()
    return str(caught.value)


def test_a_student_without_a_store_is_told_the_command(work: WorkDir, toy_recipe: Recipe) -> None:
    shutil.rmtree(work.store)
    message = refusal(work, toy_recipe)
    assert message == f"{work.store} is missing: run `fpd cache-heatmaps -w {work.root}`"


def test_a_student_with_an_incomplete_store_is_told_the_command(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    (work.store / "heatmaps/receipts/1/0.json").unlink()
    message = refusal(work, toy_recipe)
    assert "5 of 6 shards are there, the first 1 of 2 views are whole" in message
    assert f"finish it with `fpd cache-heatmaps -w {work.root}`" in message
    # As advised.
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == 1
    train_student(work, toy_recipe)


def test_a_student_that_asks_for_more_views_is_told_the_command(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    message = refusal(work, changed(toy_recipe, "store.views=3"))
    assert "6 of 9 shards are there, the first 2 of 3 views are whole" in message


def test_a_student_with_another_teachers_store_is_told_the_command(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    shutil.rmtree(work.teacher.path)
    recipe = changed(toy_recipe, "teacher.seed=5", "teacher.epochs=1")
    teacher.run(work, recipe, CPU)
    message = refusal(work, recipe)
    assert "teacher.sha256: expected " in message
    assert f"`fpd cache-heatmaps -w {work.root} --overwrite`" in message
    # As advised.
    heatmaps.run(work, recipe, CPU, overwrite=True)
    train_student(work, recipe)


def test_labels_alone_need_no_store(work: WorkDir, tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.alpha=0")
    nothing = WorkDir(tmp_path / "nothing")
    nothing.create()
    record = train_student(nothing, recipe)
    assert set(record["identity"]["inputs"]) == {"dataset"}
    # And take nothing from one that is there.
    same = student.run(work, recipe, CPU, name="labels-only")
    assert same["result"]["weights_sha256"] == record["result"]["weights_sha256"]


def test_students_lie_side_by_side_under_their_names(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "students={small={epochs=1}}")
    student.run(work, recipe, CPU)
    student.run(work, recipe, CPU, name="small")
    assert list(work.models()) == ["teacher", "small", "student"]
    assert [len(rows(folder)) for folder in work.models().values()] == [2, 1, 2]


@pytest.mark.parametrize("name", ["teacher", "../student", "", "heatmaps.zarr"])
def test_a_name_that_is_no_students_is_refused(
    work: WorkDir, toy_recipe: Recipe, name: str
) -> None:
    before = sorted(work.root.rglob("*"))
    with pytest.raises(ValueError, match="expected a student's name"):
        student.run(work, toy_recipe, CPU, name=name)
    assert sorted(work.root.rglob("*")) == before


# Starting from weights


STILL = ["student.alpha=0", "student.learning_rate=1e-30", "student.epochs=1"]


@pytest.mark.parametrize("by", ["folder", "file"])
def test_a_student_starts_from_the_weights_it_is_given(
    work: WorkDir, toy_recipe: Recipe, by: str
) -> None:
    """With a rate of nearly nothing, it ends with them."""
    init_from = work.teacher.path if by == "folder" else work.teacher.weights
    recipe = changed(toy_recipe, *STILL)
    record = student.run(work, recipe, CPU, init_from=init_from)
    given, found = load_file(work.teacher.weights), load_file(work.student("student").weights)
    learned = [key for key in given if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(found[key], given[key]) for key in learned)
    assert record["identity"]["inputs"]["init_from"] == sha256(work.teacher.weights)
    shutil.copytree(work.teacher.path, work.root / "kept" / "best")
    for number, below in enumerate(("teacher", "kept/best")):
        by_name = changed(recipe, f"student.init_from={below}")
        again = student.run(work, by_name, CPU, name=f"by-name-{number}")
        assert again["result"] | {"seconds": 0} == record["result"] | {"seconds": 0}
    fresh = student.run(work, recipe, CPU, name="fresh")
    assert fresh["result"]["weights_sha256"] != record["result"]["weights_sha256"]


def test_what_a_student_started_from_is_part_of_the_run(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, *STILL)
    student.run(work, recipe, CPU, init_from=work.teacher.path)
    student.run(work, recipe, CPU, init_from=work.teacher.weights)  # the same bytes
    with pytest.raises(ValueError, match=r"inputs\.init_from: expected none, found "):
        student.run(work, recipe, CPU)
    other = work.root.parent / "other"
    other.mkdir()
    torch.manual_seed(3)
    save_weights(recipe.student.model.build(14), ModelDir(other))
    with pytest.raises(ValueError, match=r"inputs\.init_from: expected "):
        student.run(work, recipe, CPU, init_from=other)


def test_weights_that_do_not_fit_are_refused(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.model.channels=16", "student.alpha=0")
    with pytest.raises(ValueError, match=r"weights\.safetensors holds weights of another network"):
        student.run(work, recipe, CPU, init_from=work.teacher.path)
    with pytest.raises(ValueError, match=r"--init-from .*: expected a weights file"):
        student.run(work, recipe, CPU, init_from=work.root)
    with pytest.raises(ValueError, match=r"recipe\.json cannot be read as weights"):
        student.run(work, recipe, CPU, init_from=work.root / "recipe.json")


# Settings of the forward pass


def test_bfloat16_is_used_where_it_is_asked_for(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "teacher.epochs=1", "teacher.precision=bfloat16")
    exact = changed(toy_recipe, "teacher.epochs=1", "teacher.precision=float32")
    losses = []
    for name, chosen in (("half", recipe), ("full", exact)):
        work = WorkDir(tmp_path / name)
        train_teacher(work, chosen)
        losses.append(rows(work.teacher)[0]["loss"])
        weights = load_file(work.teacher.weights)
        assert {t.dtype for t in weights.values()} == {torch.float32, torch.int64}
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_auto_precision_is_float32_on_a_cpu(
    tmp_path: Path, work: WorkDir, toy_recipe: Recipe
) -> None:
    other = WorkDir(tmp_path / "other")
    train_teacher(other, changed(toy_recipe, "teacher.precision=float32"))
    assert other.teacher.weights.read_bytes() == work.teacher.weights.read_bytes()
    assert read_json(other.teacher.record_path)["device"] == "cpu"


def test_the_paper_settings_train(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(
        toy_recipe,
        *["teacher.optimizer=rmsprop", "teacher.lr_schedule=constant", "teacher.batch_size=4"],
        *["teacher.learning_rate=2.5e-4", "targets.area_normalized=true"],
    )
    work = WorkDir(tmp_path)
    train_teacher(work, recipe)
    assert [row["learning_rate"] for row in rows(work.teacher)] == [2.5e-4, 2.5e-4]


def test_losses_are_told_where_nobody_watches(
    tmp_path: Path, toy_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    work = WorkDir(tmp_path)
    train_teacher(work, toy_recipe)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    for text, row in zip(told, rows(work.teacher), strict=True):
        assert f"teacher epoch {row['epoch']}/2: loss {row['loss']:.4g}" in text
        assert f"validation PCK {100 * row['validation_pck']:.1f}" in text
