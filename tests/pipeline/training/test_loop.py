"""The training loop: what it records, which weights it keeps, how it stops and resumes."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views
from fpd.pipeline.evaluation.pck import Pck, pck
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.training import loop
from fpd.pipeline.training.loop import Diverged
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.progress import ProgressReporter
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student, teacher

CPU = torch.device("cpu")


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def train(root: Path, recipe: Recipe) -> ModelDir:
    """Train the teacher of a work directory."""
    work = WorkDir(root)
    work.create()
    teacher.run(work, recipe, CPU)
    return work.teacher


def rows(folder: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def timeless(folder: ModelDir) -> list[dict[str, Any]]:
    """The metrics that do not depend on the clock."""
    clocked = {"seconds", "images_per_s", "data_wait_fraction", "peak_memory_mb"}
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows(folder)]


def saved_progress(folder: ModelDir) -> dict[str, Any]:
    progress: dict[str, Any] = json.loads(torch.load(folder.state, weights_only=True)["progress"])
    return progress


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Metrics


def test_metrics_have_a_line_per_epoch(toy_work: Path) -> None:
    found = rows(WorkDir(toy_work).teacher)
    assert [row["epoch"] for row in found] == [1, 2]
    columns = "epoch loss collapsed_loss learning_rate seconds images_per_s data_wait_fraction"
    for row in found:
        assert set(row) == {*columns.split(), "peak_memory_mb", "validation_pck"}
        assert row["loss"] > 0 and row["collapsed_loss"] > 0
        assert 0 <= row["validation_pck"] <= 1
        assert row["images_per_s"] == pytest.approx(18 / row["seconds"])
        assert 0 <= row["data_wait_fraction"] <= 1
        assert 50 < row["peak_memory_mb"] < 100_000
    assert found[1]["learning_rate"] < found[0]["learning_rate"]  # one-cycle, past its peak


def test_the_loss_is_the_mean_over_all_samples_of_the_epoch(
    tmp_path: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    """At a learning rate of nearly 0, the initial network's losses can be added up by hand."""
    recipe = changed(
        toy_recipe,
        "teacher.epochs=1",
        "teacher.learning_rate=1e-30",
        "teacher.lr_schedule=constant",
        "teacher.batch_size=5",
    )
    folder = train(tmp_path, recipe)
    torch.manual_seed(0)
    network = recipe.teacher.model.build(14).to(memory_format=torch.channels_last).train()
    views = fresh_views(recipe, toy_samples, 0)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    total, sizes = 0.0, []
    for keys in EpochSampler(toy_samples, 5, 0, None):
        batch = default_collate([views[key] for key in keys])
        crop = ((batch["crop"].double() / 255 - mean) / std).permute(0, 3, 1, 2).float()
        total += Objective(recipe.targets, 16)(network(crop), batch).loss.item() * len(keys)
        sizes.append(len(keys))
    assert sizes == [5, 5, 4, 4]
    assert rows(folder)[0]["loss"] == pytest.approx(total / 18, rel=1e-3)


# Which weights are kept


def fake_scores(monkeypatch: pytest.MonkeyPatch, means: list[float]) -> list[dict[str, Tensor]]:
    """Replace the validation PCK by `means`; returns the states of the networks scored."""
    states: list[dict[str, Tensor]] = []
    perfect = pck(np.zeros((1, 14, 2)), np.zeros((1, 14, 2)), np.ones(1), LSP)

    def score(network: nn.Module, *_: Any) -> Pck:
        states.append({key: value.clone() for key, value in network.state_dict().items()})
        return replace(perfect, mean=means[len(states) - 1])

    monkeypatch.setattr(loop, "score", score)
    return states


@pytest.mark.parametrize(("means", "best"), [([0.1, 0.3, 0.3, 0.2], 2), ([0.0, 0.0], 1)])
def test_the_weights_of_the_best_epoch_are_kept(
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    means: list[float],
    best: int,
) -> None:
    states = fake_scores(monkeypatch, means)
    folder = train(tmp_path, changed(tiny_recipe, f"teacher.epochs={len(means)}"))
    kept = load_file(folder.weights)
    assert [same_tensors(kept, state) for state in states] == [
        number + 1 == best for number in range(len(means))
    ]
    result = folder.record()["result"]
    assert (result["best_epoch"], result["validation_pck"]) == (best, max(means))
    assert [row["validation_pck"] for row in rows(folder)] == means


def test_without_validation_the_weights_of_the_last_epoch_are_kept(
    tmp_path: Path, tiny_recipe: Recipe
) -> None:
    folder = train(tmp_path, changed(tiny_recipe, "data.validation=0"))
    result = folder.record()["result"]
    assert (result["best_epoch"], result["validation_pck"]) == (2, None)
    assert all("validation_pck" not in row for row in rows(folder))
    state = torch.load(folder.state, weights_only=True)
    assert same_tensors(load_file(folder.weights), state["network"])


def test_a_trained_model_loads_ready_to_predict(toy_work: Path) -> None:
    network = load_model(WorkDir(toy_work).teacher, CPU).network
    assert not network.training
    assert same_tensors(load_file(WorkDir(toy_work).teacher.weights), network.state_dict())


def test_the_moving_average_is_kept_where_there_is_one(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    decay, average = 0.7, {}
    step = loop.Run._step

    def follow(self: loop.Run, batch: Any) -> Tensor:
        sums = step(self, batch)
        for name, value in self.state.network.state_dict().items():
            if value.dtype.is_floating_point:
                before = average.get(name, value.double())
                average[name] = decay * before + (1 - decay) * value.double()
        return sums

    monkeypatch.setattr(loop.Run, "_step", follow)
    recipe = changed(tiny_recipe, f"teacher.ema_decay={decay}", "data.validation=0")
    kept = load_file(train(tmp_path, recipe).weights)
    assert average.keys() < kept.keys()
    for name, expected in average.items():
        torch.testing.assert_close(kept[name].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "patience", "epochs", "best"),
    [([0.1, 0.2, 0.2, 0.2, 0.9], 2, 4, 2), ([0.1, 0.2, 0.3], 1, 3, 3)],
)
def test_patience_ends_a_run_that_no_longer_improves(
    tmp_path: Path,
    tiny_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scores: list[float],
    patience: int,
    epochs: int,
    best: int,
) -> None:
    caplog.set_level(logging.INFO, logger="fpd")
    fake_scores(monkeypatch, scores)
    recipe = changed(tiny_recipe, f"teacher.epochs={len(scores)}", f"teacher.patience={patience}")
    result = train(tmp_path, recipe).record()["result"]
    assert (result["epochs"], result["best_epoch"]) == (epochs, best)
    message = f"since epoch {best}: stopped after {epochs} of {len(scores)} epochs"
    assert (message in caplog.text) == (epochs < len(scores))
    # The run is finished: the same command does nothing more.
    assert train(tmp_path, recipe).record()["result"] == result


# A loss that is not finite


def test_a_diverging_run_stops_with_advice(tmp_path: Path, tiny_recipe: Recipe) -> None:
    constant = ("learning_rate=1e30", "lr_schedule=constant")
    recipe = changed(
        tiny_recipe,
        "student.alpha=0",
        *(f"{section}.{setting}" for section in ("teacher", "student") for setting in constant),
    )
    work = WorkDir(tmp_path)
    work.create()
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) in epoch [12]") as caught:
        teacher.run(work, recipe, CPU)
    assert isinstance(caught.value, ValueError)
    assert "--set teacher.learning_rate=3.3e+29" in str(caught.value)
    assert f"remove {work.teacher.path}" in str(caught.value)
    assert not work.teacher.finished
    with pytest.raises(Diverged, match=r"--set student\.learning_rate=3\.3e\+29"):
        student.run(work, recipe, CPU)


@pytest.mark.parametrize(("value", "at"), [(math.nan, 1), (math.inf, 3)])
def test_a_loss_that_is_not_finite_is_never_saved(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, value: float, at: int
) -> None:
    """Two steps an epoch: the third one is in the second epoch."""
    call = Objective.__call__
    calls: list[int] = []

    def diverge(self: Objective, stages: Any, batch: Any) -> Any:
        losses = call(self, stages, batch)
        calls.append(1)
        return losses._replace(loss=losses.loss * value) if len(calls) == at else losses

    monkeypatch.setattr(Objective, "__call__", diverge)
    folder = WorkDir(tmp_path).teacher
    with pytest.raises(Diverged, match=f"in epoch {1 if at == 1 else 2} "):
        train(tmp_path, tiny_recipe)
    assert folder.state.is_file() == (at == 3)
    if at == 3:
        state = torch.load(folder.state, weights_only=True)
        assert all(bool(tensor.isfinite().all()) for tensor in state["network"].values())
        assert saved_progress(folder)["epoch"] == 1
        assert len(rows(folder)) == 1


# Stopping and resuming


class Crash(Exception):
    """An unexpected error."""


def test_a_run_that_crashes_again_and_again_ends_with_the_same_weights(
    work: WorkDir, tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that saves after every step and crashes two steps after each start."""
    undisturbed = WorkDir(Path(shutil.copytree(work.root, tmp_path / "undisturbed")))
    expected = student.run(undisturbed, toy_recipe, CPU)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "COLLECT_EVERY", 1)
    step = loop.Run._step
    taken: list[int] = []

    def fragile(self: loop.Run, batch: Any) -> Any:
        taken.append(1)
        if len(taken) % 3 == 0:
            raise Crash
        return step(self, batch)

    monkeypatch.setattr(loop.Run, "_step", fragile)
    crashes = 0
    while True:
        try:
            record = student.run(work, toy_recipe, CPU)
            break
        except Crash:
            crashes += 1
            assert crashes < 20
            assert not work.student("student").finished
    assert crashes >= 2
    folders = [each.student("student") for each in (work, undisturbed)]
    assert folders[0].weights.read_bytes() == folders[1].weights.read_bytes()
    assert timeless(folders[0]) == timeless(folders[1])
    assert record["identity"] == expected["identity"]
    assert record["result"]["best_epoch"] == expected["result"]["best_epoch"]
    assert len(taken) - crashes == 3 * 2  # no step was taken twice


@contextmanager
def signal_at_step(
    monkeypatch: pytest.MonkeyPatch, number: int, step_number: int
) -> Iterator[list[int]]:
    """Receive a signal in a step; yields a list with an item for each step taken."""
    step = loop.Run._step
    taken: list[int] = []

    def interrupted(self: loop.Run, batch: Any) -> Any:
        taken.append(1)
        if len(taken) == step_number:
            signal.raise_signal(number)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "_step", interrupted)
        yield taken


@pytest.fixture(scope="module")
def averaged_recipe(tiny_recipe: Recipe) -> Recipe:
    return changed(tiny_recipe, "teacher.ema_decay=0.9")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, averaged_recipe: Recipe) -> ModelDir:
    return train(tmp_path_factory.mktemp("undisturbed"), averaged_recipe)


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_in_a_step_saves_that_step(
    tmp_path: Path,
    averaged_recipe: Recipe,
    undisturbed: ModelDir,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    """Of two steps an epoch, in the first one and in the last one."""
    folder = WorkDir(tmp_path).teacher
    with (
        signal_at_step(monkeypatch, signal.SIGTERM, at) as taken,
        pytest.raises(Interrupted, match="the same command continues") as interrupted,
    ):
        train(tmp_path, averaged_recipe)
    assert len(taken) == at
    assert interrupted.value.signal == signal.SIGTERM
    progress = saved_progress(folder)
    assert 2 * progress["epoch"] + progress["step"] == at
    train(tmp_path, averaged_recipe)
    assert folder.weights.read_bytes() == undisturbed.weights.read_bytes()
    assert timeless(folder) == timeless(undisturbed)


@pytest.mark.parametrize("during", ["score", "save"])
def test_a_signal_at_the_end_of_the_last_epoch_stops_the_run(
    tmp_path: Path,
    averaged_recipe: Recipe,
    undisturbed: ModelDir,
    monkeypatch: pytest.MonkeyPatch,
    during: str,
) -> None:
    """So that the next stage does not start either."""
    owner, name = (loop, "score") if during == "score" else (loop.Run, "_save")
    function = getattr(owner, name)
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == averaged_recipe.teacher.epochs:
            signal.raise_signal(signal.SIGINT)
        return function(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(Interrupted):
            train(tmp_path, averaged_recipe)
    assert not WorkDir(tmp_path).teacher.finished
    folder = train(tmp_path, averaged_recipe)
    assert folder.weights.read_bytes() == undisturbed.weights.read_bytes()


def start_teacher(work: WorkDir, recipe: Recipe) -> subprocess.Popen[str]:
    """`fpd run teacher` in a process group of its own, with the first epoch done."""
    work.create()
    write_sealed_json(work.root / "recipe.json", recipe.model_dump(mode="json"))
    process = subprocess.Popen(
        [sys.executable, "-m", "fpd", "run", "teacher", "-w", work.root, "--device", "cpu"],
        cwd=work.root,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not work.teacher.state.is_file():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.002)
    return process


def slow_epoch() -> dict[str, Any]:
    return {"epoch": 1, "data_wait_fraction": 0.5, "seconds": 60.0}


@pytest.mark.parametrize(
    ("device", "workers", "expected"),
    [("cuda", None, [6]), ("cuda", 3, []), ("cpu", None, [])],
)
def test_an_epoch_that_waited_gets_more_loader_processes(
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    workers: int | None,
    expected: list[int],
) -> None:
    """With a GPU, and unless the recipe has a number; otherwise, there is advice."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    settings = toy_recipe.loader.model_copy(update={"workers": workers})
    run = object.__new__(loop.Run)
    run.recipe = toy_recipe.model_copy(update={"loader": settings})
    run.device = torch.device(device)
    run.loader = SimpleNamespace(num_workers=3)  # type: ignore[assignment]
    run.reporter = ProgressReporter(
        "teacher", run.recipe, run.recipe.teacher, run.device, stated_learning_rate=1e-3
    )
    made = []
    run.make_loader = lambda workers: made.append(workers)  # type: ignore[assignment,return-value]
    run._load_faster(slow_epoch())
    assert made == expected


def test_results_do_not_depend_on_more_loader_processes(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(toy_recipe, "loader.workers=0")
    expected = train(tmp_path / "as-started", recipe).weights.read_bytes()
    made = []

    def replace_loader(run: loop.Run, row: dict[str, Any]) -> None:
        made.append(row["epoch"])
        run.loader = run.make_loader(workers=1)

    monkeypatch.setattr(loop, "loading_is_slow", lambda _: True)
    monkeypatch.setattr(loop.Run, "_load_faster", replace_loader)
    assert train(tmp_path / "replaced", recipe).weights.read_bytes() == expected
    assert made == list(range(1, recipe.teacher.epochs + 1))


@pytest.fixture(scope="module")
def long_recipe(toy_recipe: Recipe) -> Recipe:
    """Nine steps an epoch and a loader process: long enough to be stopped in the middle."""
    return changed(toy_recipe, "teacher.epochs=12", "teacher.batch_size=2", "loader.workers=1")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, long_recipe: Recipe) -> ModelDir:
    return train(tmp_path_factory.mktemp("long"), long_recipe)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_is_resumed_to_the_same_weights(
    tmp_path: Path, long_recipe: Recipe, long_run: ModelDir, number: signal.Signals
) -> None:
    """The whole process group gets the signal, loader processes included, as from a scheduler."""
    work = WorkDir(tmp_path / "work")
    process = start_teacher(work, long_recipe)
    try:
        os.killpg(process.pid, number)
        message = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.wait()
    assert not work.teacher.finished
    assert 1 <= saved_progress(work.teacher)["epoch"] < 12
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        # 75 asks a scheduler to start the job again.
        assert process.returncode == (130 if number == signal.SIGINT else 75), message
        assert "the same command continues from there" in message
        assert "Traceback" not in message and "killed by signal" not in message
    resumed = train(work.root, long_recipe)
    assert resumed.weights.read_bytes() == long_run.weights.read_bytes()
    assert timeless(resumed) == timeless(long_run)
    assert resumed.record()["result"]["best_epoch"] == long_run.record()["result"]["best_epoch"]


# Long runs


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of torch.compile except code generation, which takes minutes."""
    compile_module, compiled_networks = nn.Module.compile, []

    def without_code(self: nn.Module) -> None:
        compiled_networks.append(self)
        compile_module(self, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", without_code)
    short = ["teacher.epochs=1", "teacher.learning_rate=1e-5"]
    plain = train(tmp_path / "plain", changed(tiny_recipe, *short))
    compiled = train(tmp_path / "compiled", changed(tiny_recipe, *short, "teacher.compile=true"))
    assert rows(compiled)[0]["loss"] == pytest.approx(rows(plain)[0]["loss"], rel=1e-4)
    assert len(compiled_networks) == 1
    assert set(load_file(plain.weights)) == set(load_file(compiled.weights))


MEASURE = """
import sys
from pathlib import Path
import torch
from fpd.pipeline.training import loop
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student

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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_from_epoch_to_epoch(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.epochs=30", "student.ema_decay=0.9", "loader.workers=0")
    write_sealed_json(work.root / "recipe.json", recipe.model_dump(mode="json"))
    command = [sys.executable, "-c", MEASURE, str(work.root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sizes = [float(line) for line in output.split()]
    assert len(sizes) == 30
    # Crops that were kept for 20 epochs would take 4.4 MB, checkpoints 5 MB.
    assert sizes[-1] - sizes[9] < 3, sizes
