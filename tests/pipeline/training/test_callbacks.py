"""Callbacks see steps, epochs and the end of a run, and change nothing."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fpd.cli import main
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.training.callbacks import Callback, Epoch, RunInfo, make_callback
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

CPU = torch.device("cpu")

SEEN: list[tuple[Any, ...]] = []


class Recorder(Callback):
    def __init__(self, run: RunInfo) -> None:
        SEEN.append(("start", run.name, run.epochs, run.steps))

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float]) -> None:
        SEEN.append(("step", epoch, step, losses["loss"] > 0))

    def on_epoch(self, epoch: Epoch) -> None:
        SEEN.append(("epoch", epoch.row["epoch"], len(epoch.history), sorted(epoch.images)))

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        SEEN.append(("end", result and result["epochs"]))


class Failing(Recorder):
    def on_epoch(self, epoch: Epoch) -> None:
        raise KeyError("mine")


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mine")
    module.__dict__.update(
        Recorder=Recorder, Failing=Failing, nothing=lambda run: None, broken=lambda run: 1 / 0
    )
    monkeypatch.setitem(sys.modules, "mine", module)
    SEEN.clear()


def train(root: Path, recipe: Recipe, *callbacks: str, overrides: tuple[str, ...] = ()) -> ModelDir:
    work = WorkDir(root)
    work.create()
    recipe = apply_overrides(recipe.model_dump(mode="json"), overrides)
    teacher.run(work, recipe, CPU, callbacks=callbacks)
    return work.teacher


def test_a_callback_sees_every_step_every_epoch_and_the_end(
    toy_recipe: Recipe, tmp_path: Path
) -> None:
    plain = train(tmp_path / "plain", toy_recipe)
    watched = train(
        tmp_path / "watched",
        toy_recipe,
        "mine:Recorder",
        overrides=("monitor.contact_sheet_every=1", "monitor.contact_sheet_samples=2"),
    )
    assert watched.weights.read_bytes() == plain.weights.read_bytes()
    kind, name, epochs, steps = SEEN[0]
    assert (kind, name, epochs) == ("start", "teacher", toy_recipe.teacher.epochs)
    expected: list[tuple[Any, ...]] = []
    for epoch in range(1, epochs + 1):
        expected += [("step", epoch, step, True) for step in range(1, steps + 1)]
        expected.append(("epoch", epoch, epoch, ["contact_sheet"]))
    assert SEEN[1:] == [*expected, ("end", epochs)]
    SEEN.clear()
    train(tmp_path / "watched", toy_recipe, "mine:Recorder")
    assert SEEN == []  # the run is finished


def test_an_error_in_one_is_a_warning_and_training_continues(
    toy_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="fpd")
    folder = train(tmp_path, toy_recipe, "mine:Failing", "csv")
    assert folder.finished and (folder.path / "metrics.csv").is_file()
    (message,) = [text for text in caplog.messages if "mine:Failing failed" in text]
    assert "KeyError: 'mine'" in message


def test_csv_has_the_rows_of_metrics_jsonl(toy_recipe: Recipe, tmp_path: Path) -> None:
    folder = train(tmp_path, toy_recipe, "csv")
    expected = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    with (folder.path / "metrics.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert rows == expected


def test_weights_and_biases_gets_settings_epochs_sheets_and_the_end(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Run:
        def log(self, values: dict[str, Any], step: int) -> None:
            calls.append(("log", values | {"step": step}))

        def finish(self, exit_code: int) -> None:
            calls.append(("finish", {"exit_code": exit_code}))

    def init(**options: Any) -> Run:
        calls.append(("init", options))
        return Run()

    stub = SimpleNamespace(init=init, Image=lambda image: image.size)
    monkeypatch.setitem(sys.modules, "wandb", stub)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    sheets = ("monitor.contact_sheet_every=1", "monitor.contact_sheet_samples=2")
    folder = train(tmp_path, toy_recipe, "wandb", overrides=sheets)
    (kind, options), *logs, end = calls
    assert (kind, options["project"], options["name"]) == ("init", "mine", "teacher")
    assert options["config"]["epochs"] == toy_recipe.teacher.epochs
    assert (options["dir"], options["resume"]) == (str(folder.path), "allow")
    assert [values["step"] for _, values in logs] == [1, 2]
    assert {"loss", "validation_pck", "validation_pck/knee"} <= logs[0][1].keys()
    assert min(logs[0][1]["contact_sheet"]) > 0
    assert end == ("finish", {"exit_code": 0})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "expected csv, wandb or package.module:factory"),
        ("nowhere:thing", "expected a function thing in a module nowhere"),
        ("mine:nothing", "expected it to return an fpd"),
        ("mine:broken", "could not start: division by zero"),
    ],
)
def test_a_callback_that_cannot_be_made_is_named(name: str, message: str, tmp_path: Path) -> None:
    run = RunInfo(name="student", folder=tmp_path, epochs=1, steps=1, settings={})
    with pytest.raises(ValueError, match=message) as caught:
        make_callback(name, run)
    assert f"--callback {name}" in str(caught.value)


def test_without_wandb_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr("fpd.pipeline.training.callbacks.find_spec", lambda name: None)
    run = RunInfo(name="student", folder=tmp_path, epochs=1, steps=1, settings={})
    with pytest.raises(ValueError, match=r"pip install 'fast-pose-distillation\[wandb\]'"):
        make_callback("wandb", run)


def test_a_misspelled_callback_is_refused_before_the_data_set_is_read(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the data set is read")

    monkeypatch.setattr(teacher, "load_training", never)
    with pytest.raises(ValueError, match="--callback cvs: expected csv, wandb or"):
        train(tmp_path, toy_recipe, "cvs")


def test_no_recipe_can_name_a_callback(tmp_path: Path) -> None:
    options = [
        "-r",
        "demo",
        "-w",
        str(tmp_path / "w"),
        "--set",
        'monitor.callbacks=["mine:Recorder"]',
    ]
    result = CliRunner().invoke(main, ["run", "teacher", *options])
    assert result.exit_code == 1 and "there is no such setting" in result.output
    assert SEEN == []
