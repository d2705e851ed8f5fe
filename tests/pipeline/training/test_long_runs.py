"""Settings of long runs: accumulation, clipping, averages, patience; and being requeued."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn
from torch.optim import AdamW
from torch.utils.data import default_collate

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views
from fpd.pipeline.evaluation.pck import Pck, pck
from fpd.pipeline.runtime.device import LAUNCHED
from fpd.pipeline.runtime.files import write_json
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.training import loop
from fpd.pipeline.training import progress as messages
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.progress import ProgressReporter
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.training.step import split
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

CPU = torch.device("cpu")


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def train(path: Path, recipe: Recipe) -> WorkDir:
    work = WorkDir(path)
    work.create()
    teacher.run(work, recipe, CPU)
    return work


def rows(work: WorkDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in work.teacher.metrics.read_text().splitlines()]


# Accumulation


def test_a_batch_is_split_into_parts_that_make_it_up() -> None:
    batch = {"crop": torch.arange(7), "joints": torch.arange(14).reshape(7, 2)}
    for parts in range(1, 8):
        found = split(batch, parts)
        assert len(found) == parts
        for key, values in batch.items():
            assert torch.equal(torch.cat([part[key] for part in found]), values)
        lengths = [len(part["crop"]) for part in found]
        assert max(lengths) - min(lengths) <= 1


def test_accumulated_gradients_are_the_weighted_sum_of_the_parts(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the first step, by hand: each part's loss counts by its share of the views."""
    found: list[list[torch.Tensor]] = []
    step = AdamW.step

    def spy(self: AdamW, *arguments: Any) -> Any:
        found.append([p.grad.clone() for p in self.param_groups[0]["params"]])
        return step(self, *arguments)

    monkeypatch.setattr(AdamW, "step", spy)
    recipe = changed(
        toy_recipe, "teacher.grad_accum_steps=3", "teacher.batch_size=8", "teacher.epochs=1"
    )
    train(tmp_path, recipe)
    torch.manual_seed(0)
    network = recipe.teacher.model.build(14).to(memory_format=torch.channels_last).train()
    views = fresh_views(recipe, toy_samples, 0)
    keys = next(iter(EpochSampler(toy_samples, 8, 0, None)))
    assert len(keys) == 6
    for start in (0, 2, 4):
        data = default_collate([views[key] for key in keys[start : start + 2]])
        mean, std = (torch.tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        crop = ((data["crop"].float() / 255 - mean) / std).permute(0, 3, 1, 2)
        (Objective(recipe.targets, 16)(network(crop), data)[0] * 2 / 6).backward()
    expected = [weights.grad for weights in network.parameters()]
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for gradient, by_hand in zip(found[0], expected, strict=True):
        assert torch.allclose(gradient, by_hand, rtol=1e-3, atol=1e-4 * scale)


def test_the_loss_of_accumulated_steps_counts_every_view_once(
    tmp_path: Path, toy_recipe: Recipe
) -> None:
    still = ["teacher.learning_rate=1e-30", "teacher.epochs=1"]
    whole = train(tmp_path / "a", changed(toy_recipe, *still))
    parts = train(tmp_path / "b", changed(toy_recipe, *still, "teacher.grad_accum_steps=2"))
    # Batch statistics differ, the energy of the targets does not.
    assert rows(parts)[0]["collapsed_loss"] == pytest.approx(
        rows(whole)[0]["collapsed_loss"], rel=1e-6
    )
    assert rows(parts)[0]["loss"] == pytest.approx(rows(whole)[0]["loss"], rel=0.05)


def test_parts_without_a_view_are_refused(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "teacher.grad_accum_steps=4", "geometry.crop_px=128")
    with pytest.raises(ValueError, match=r"one for each part.*found 6.*teacher\.batch"):
        train(tmp_path, changed(recipe, "teacher.grad_accum_steps=7"))
    train(tmp_path, changed(recipe, "teacher.epochs=1"))


# Clipping


def test_no_step_follows_a_longer_gradient_than_is_allowed(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = AdamW.step

    def spy(self: AdamW, *arguments: Any) -> Any:
        gradients = [p.grad for p in self.param_groups[0]["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(AdamW, "step", spy)
    train(tmp_path / "free", changed(toy_recipe, "teacher.epochs=1"))
    free, norms[:] = list(norms), []
    bound = min(free) / 2
    train(
        tmp_path / "bound",
        changed(toy_recipe, "teacher.epochs=1", f"teacher.clip_grad_norm={bound}"),
    )
    assert norms == [pytest.approx(bound, rel=1e-3)] * 3


# The moving average


def test_what_is_kept_is_the_moving_average(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    decay, average = 0.7, {}
    step = loop.Run._step

    def follow(self: loop.Run, batch: Any) -> torch.Tensor:
        found = step(self, batch)
        for name, value in self.state.network.state_dict().items():
            if value.dtype.is_floating_point:
                before = average.get(name, value.double())
                average[name] = decay * before + (1 - decay) * value.double()
        return found

    monkeypatch.setattr(loop.Run, "_step", follow)
    recipe = changed(toy_recipe, f"teacher.ema_decay={decay}", "data.validation=0")
    kept = load_file(train(tmp_path, recipe).teacher.weights)
    assert average.keys() < kept.keys()
    for name, expected in average.items():
        assert torch.allclose(kept[name].double(), expected, rtol=1e-4, atol=1e-6), name


def test_an_average_goes_on_after_an_interruption(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(toy_recipe, "teacher.ema_decay=0.9")
    whole = train(tmp_path / "whole", recipe)
    step = loop.Run._step
    taken: list[int] = []

    def interrupted(self: loop.Run, batch: Any) -> Any:
        taken.append(1)
        if len(taken) == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "_step", interrupted)
        with pytest.raises(Interrupted) as asked:
            train(tmp_path / "stopped", recipe)
    assert asked.value.signal == signal.SIGTERM
    stopped = train(tmp_path / "stopped", recipe)
    assert stopped.teacher.weights.read_bytes() == whole.teacher.weights.read_bytes()
    plain = train(tmp_path / "plain", toy_recipe)
    assert plain.teacher.weights.read_bytes() != whole.teacher.weights.read_bytes()


# Patience


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [
        ([0.5, 0.4, 0.3, 0.9, 0.9], 2, 3, 1),
        ([0.1, 0.2, 0.2, 0.2, 0.9], 2, 4, 2),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1, 5, 5),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 5, 5, 1),
    ],
)
def test_patience_ends_a_run_that_gets_no_better(
    tmp_path: Path,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scores: list[float],
    patience: int,
    epochs: int,
    best: int,
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    perfect = pck(np.zeros((1, 14, 2)), np.zeros((1, 14, 2)), np.ones(1), LSP)
    left = iter(scores)

    def score(*_: Any) -> Pck:
        return replace(perfect, mean=next(left))

    monkeypatch.setattr(loop, "score", score)
    recipe = changed(toy_recipe, "teacher.epochs=5", f"teacher.patience={patience}")
    work = train(tmp_path, recipe)
    result = work.teacher.record()["result"]
    assert (len(rows(work)), result["epochs"], result["best_epoch"]) == (epochs, epochs, best)
    said = f"no better validation PCK since epoch {best}: stopped after {epochs} of 5 epochs"
    assert (said in caplog.text) == (epochs < 5)
    # It is finished: the same command does nothing more.
    assert train(tmp_path, recipe).teacher.record()["result"] == result


def test_patience_needs_somebody_to_score(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "teacher.patience=3", "data.validation=0")
    with pytest.raises(ValueError, match=r"expected data\.validation above 0"):
        train(tmp_path, recipe)


# Compiled


def test_a_compiled_network_learns_the_same(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of torch.compile but generating code, which takes minutes."""
    compile_it, compiled_networks = nn.Module.compile, []

    def without_code(self: nn.Module) -> None:
        compiled_networks.append(self)
        compile_it(self, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", without_code)
    short = ["teacher.epochs=1", "teacher.learning_rate=1e-5"]
    plain = train(tmp_path / "plain", changed(toy_recipe, *short))
    compiled = train(tmp_path / "compiled", changed(toy_recipe, *short, "teacher.compile=true"))
    assert rows(compiled)[0]["loss"] == pytest.approx(rows(plain)[0]["loss"], rel=1e-4)
    assert len(compiled_networks) == 1
    names = [set(load_file(work.teacher.weights)) for work in (plain, compiled)]
    assert names[0] == names[1]


# Waiting for data


def starved(recipe: Recipe, **row: float) -> list[str]:
    """Warnings of two epochs."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    messages.log.addHandler(handler)
    try:
        tell = ProgressReporter("teacher", recipe, recipe.teacher, CPU)
        for epoch in (3, 4):
            tell.warn_if_starved({"epoch": epoch, "data_wait_fraction": 0.3, "seconds": 60.0} | row)
    finally:
        messages.log.removeHandler(handler)
    return found


def test_waiting_for_data_is_told_once_with_advice(
    toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "usable_cores", lambda: 8)
    (said,) = starved(changed(toy_recipe, "loader.workers=2"))
    assert "30 % of epoch 3 was spent waiting for data (2 reading beside it)" in said
    assert "--set loader.workers=3" in said
    (said,) = starved(changed(toy_recipe, "loader.workers=8"))
    assert "loader.workers" not in said
    assert "more cores than its 8" in said


@pytest.mark.parametrize("row", [{"data_wait_fraction": 0.1}, {"seconds": 5.0}])
def test_little_waiting_is_not(toy_recipe: Recipe, row: dict[str, float]) -> None:
    assert starved(toy_recipe, **row) == []


# Being taken off the machine


def test_sigterm_to_all_processes_saves_and_asks_to_be_requeued(
    tmp_path: Path, toy_recipe: Recipe
) -> None:
    """As schedulers do: to the whole group, reading processes among them."""
    recipe = changed(toy_recipe, "teacher.epochs=60", "teacher.batch_size=2", "loader.workers=2")
    work = WorkDir(tmp_path / "work")
    work.create()
    write_json(work.root / "recipe.json", recipe.model_dump(mode="json"))
    process = subprocess.Popen(
        [sys.executable, "-m", "fpd", "run", "teacher", "-w", work.root, "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 60
        while not work.teacher.state.is_file():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 75, said
    assert "the same command continues from there" in said
    assert "Traceback" not in said and "killed by signal" not in said
    progress = json.loads(torch.load(work.teacher.state, weights_only=True)["progress"])
    assert progress["epoch"] >= 1


@pytest.mark.parametrize("command", [["evaluate"], ["cache-heatmaps"], ["run", "all"], ["demo"]])
def test_only_training_is_shared_by_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    for name in LAUNCHED:
        monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(main, [*command, "-w", str(tmp_path / "work")])
    assert result.exit_code == 1
    assert "run this command without it" in result.output
    assert not (tmp_path / "work").exists()


# Memory


MEASURE = """
import sys
from pathlib import Path
import torch
from fpd.pipeline.training import loop
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student, teacher

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

finish = loop.Run._finish_epoch
def measured(self, stop):
    finish(self, stop)
    print(resident_mb())
loop.Run._finish_epoch = measured
torch.set_num_threads(1)
work = WorkDir(Path(sys.argv[1]))
student.run(work, work.recipe(None, ()), torch.device("cpu"))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for a process's size")
def test_memory_is_flat_over_epochs(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.epochs=30", "student.ema_decay=0.9", "loader.workers=0")
    write_json(work.root / "recipe.json", recipe.model_dump(mode="json"))
    command = [sys.executable, "-c", MEASURE, str(work.root)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sizes = [float(line) for line in said.split()]
    assert len(sizes) == 30
    # The crops of these 20 epochs, kept, would be 4.4 MB, their checkpoints 5.
    assert sizes[-1] - sizes[9] < 3, sizes


def test_peak_memory_is_measured(tmp_path: Path, toy_recipe: Recipe) -> None:
    found = rows(train(tmp_path, changed(toy_recipe, "teacher.epochs=2")))
    peaks = [row["peak_memory_mb"] for row in found]
    assert 50 < peaks[0] <= peaks[1] < 100_000
