"""Several processes train a network as one process does: on CPUs, with gloo, as under torchrun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing, nn

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.runtime.distributed import (
    SINGLE_PROCESS,
    ProcessGroup,
    join_process_group,
    no_sync,
)
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.runtime.launch import LAUNCHED
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_launched(
    rank: int, size: int, port: int, job: Callable[[ProcessGroup, str], None], out: str
) -> None:
    values = (rank, size, rank, "127.0.0.1", port)
    os.environ |= {name: str(value) for name, value in zip(LAUNCHED, values, strict=True)}
    torch.set_num_threads(1)
    with join_process_group(CPU) as group:
        job(group, out)


def run_in_group(size: int, job: Callable[[ProcessGroup, str], None], out: Path) -> None:
    """Run a job in `size` processes that form a group."""
    multiprocessing.spawn(_run_launched, (size, free_port(), job, str(out)), nprocs=size)


# Batches


@pytest.mark.parametrize("size", [1, 3])
def test_the_shares_of_a_batch_add_up_to_it(toy_samples: SampleSet, size: int) -> None:
    whole = list(EpochSampler(toy_samples, 7, 3, 2, flip=True))
    shares = [
        list(EpochSampler(toy_samples, 7, 3, 2, flip=True, group=ProcessGroup(rank, size)))
        for rank in range(size)
    ]
    for step, batch in enumerate(whole):
        assert [key for share in shares for key in share[step]] == batch
        lengths = [len(share[step]) for share in shares]
        assert max(lengths) - min(lengths) <= 1
        assert EpochSampler(toy_samples, 7, 3, 2).size(step) == len(batch) == sum(lengths)
    assert sorted(key[0] for batch in whole for key in batch) == list(range(18))


# Gradients


Make = Callable[[], nn.Module]


def hourglass() -> nn.Module:
    torch.manual_seed(0)
    network = HourglassSettings(stages=2, channels=8, stem="ports").build(5).double()
    for head in network.score:
        nn.init.normal_(head.weight, std=0.1)
    return network


class BatchNormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: with an activation, here one that learns."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.act(self.drop(super().forward(x)))
        return activated


class Activated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, 4, 3), BatchNormAct(4)
        self.score = nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.score(self.bn1(self.conv1(x)))]


def activated() -> nn.Module:
    torch.manual_seed(0)
    return Activated().double()


def gradients(group: ProcessGroup, make: Make, *, synchronized: bool) -> dict[str, torch.Tensor]:
    """Gradients of a batch of seven, and running statistics, by name: float64."""
    network = make()
    wrapped = group.wrap(network, CPU, synchronized=synchronized)
    crops, maps = torch.randn(7, 3, 64, 64).double(), torch.randn(7, 5, 16, 16).double()
    own = list(group.share(range(7)))
    stages = wrapped(crops[own])
    loss = sum((output - maps[own]).square().sum((2, 3)).mean() for output in stages)
    (loss * (len(own) / 7 * group.size)).backward()
    gradients = {name: weights.grad for name, weights in network.named_parameters()}
    return gradients | dict(network.named_buffers())


def _save_gradients(make: Make, group: ProcessGroup, out: str) -> None:
    synchronized = gradients(group, make, synchronized=True)
    separate = gradients(group, make, synchronized=False)
    if group.is_first:
        torch.save(synchronized, out)
        torch.save(separate, out + ".separate")


@pytest.mark.slow
@pytest.mark.parametrize("make", [hourglass, activated])
def test_gradients_and_statistics_are_those_of_one_process(tmp_path: Path, make: Make) -> None:
    run_in_group(2, partial(_save_gradients, make), tmp_path / "found")
    expected = gradients(SINGLE_PROCESS, make, synchronized=True)
    found = torch.load(tmp_path / "found", weights_only=True)
    separate = torch.load(tmp_path / "found.separate", weights_only=True)
    assert found.keys() == expected.keys() == separate.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-6, atol=1e-9 * scale), name
    # Without synchronization they differ: the comparison is able to fail.
    assert not torch.allclose(separate["conv1.weight"], expected["conv1.weight"], rtol=0.01)


def _accumulate(group: ProcessGroup, out: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1).double()
    wrapped = group.wrap(network, CPU, synchronized=True)
    rows = torch.arange(24.0).double().reshape(8, 3)
    own = rows[list(group.share(range(8)))]
    with no_sync(wrapped):
        (wrapped(own[:2]).sum() / 8 * group.size).backward()
    assert network.weight.grad is not None
    local = network.weight.grad.clone()
    (wrapped(own[2:]).sum() / 8 * group.size).backward()
    torch.save((local, network.weight.grad), f"{out}.{group.rank}")


@pytest.mark.slow
def test_accumulated_gradients_are_exchanged_once(tmp_path: Path) -> None:
    run_in_group(2, _accumulate, tmp_path / "found")
    first, second = (torch.load(tmp_path / f"found.{r}", weights_only=True) for r in (0, 1))
    assert not torch.equal(first[0], second[0])
    mean = torch.arange(24.0).double().reshape(8, 3).mean(0, keepdim=True)
    for _, gradient in (first, second):
        assert torch.allclose(gradient, mean)


# Small values


def _exchange(group: ProcessGroup, out: str) -> None:
    first = group.rank == 0
    found: dict[str, Any] = {
        "sum": group.sum([1.0, group.rank]).tolist(),
        "max": group.max([group.rank, -group.rank]),
        "broadcast": (group.broadcast(b"abc" if first else None) or b"").decode(),
        "none": group.broadcast(None if first else b"mine"),
    }
    group.check_same({"a": 1})
    try:
        group.check_same({"a": 1, "b": [group.rank // 2]})
    except ValueError as error:
        found["refused"] = str(error)
    Path(f"{out}.{group.rank}").write_text(json.dumps(found))


@pytest.mark.slow
def test_processes_exchange_small_values(tmp_path: Path) -> None:
    run_in_group(3, _exchange, tmp_path / "found")
    for rank in range(3):
        found = json.loads((tmp_path / f"found.{rank}").read_text())
        refused = found.pop("refused")
        assert found == {
            "sum": [3.0, 3.0],
            "max": [2.0, 0.0],
            "broadcast": "abc",
            "none": None,
        }
        differs = "b: expected [0], found [1]"
        assert (differs in refused) == (rank == 2)
        assert refused.startswith("process 2 ")


def test_a_single_process_exchanges_nothing() -> None:
    assert SINGLE_PROCESS.sum([1.5, 2.0]).tolist() == [1.5, 2.0]
    assert SINGLE_PROCESS.max([3]) == [3.0]
    assert SINGLE_PROCESS.broadcast(b"x") == b"x"
    assert SINGLE_PROCESS.broadcast(None) is None
    network = nn.Linear(2, 2)
    assert SINGLE_PROCESS.wrap(network, CPU, synchronized=True) is network
    SINGLE_PROCESS.check_same({})
    SINGLE_PROCESS.barrier()


# Whole runs


def torchrun(processes: int, *arguments: str | Path) -> subprocess.Popen[str]:
    """Launch `fpd` with torchrun, in a process group of its own."""
    return subprocess.Popen(
        [
            *[sys.executable, "-m", "torch.distributed.run", "--standalone"],
            *["--nproc-per-node", str(processes), "-m", "fpd", *map(str, arguments)],
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def new_work(path: Path, recipe: Recipe) -> WorkDir:
    work = WorkDir(path)
    work.create()
    write_sealed_json(work.root / "recipe.json", recipe.model_dump(mode="json"))
    return work


def losses(work: WorkDir) -> list[float]:
    return [json.loads(line)["loss"] for line in work.teacher.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def calm_recipe(toy_recipe: Recipe) -> Recipe:
    """A low learning rate, since AdamW turns rounding errors of zero gradients into steps.

    Two processes share the batches, of 7 and 6, unevenly.
    """
    overrides = ["teacher.learning_rate=1e-5", "teacher.batch_size=7", "teacher.epochs=3"]
    return apply_overrides(toy_recipe.model_dump(mode="json"), overrides)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, calm_recipe: Recipe) -> WorkDir:
    torch.set_num_threads(1)
    work = new_work(tmp_path_factory.mktemp("one") / "work", calm_recipe)
    teacher.run(work, calm_recipe, CPU)
    return work


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(
    tmp_path: Path, calm_recipe: Recipe, one_process: WorkDir
) -> None:
    work = new_work(tmp_path / "two", calm_recipe)
    monitor = ["--set", "monitor.contact_sheet_every=2", "--set", "monitor.tensorboard=true"]
    process = torchrun(2, "run", "teacher", "-w", work.root, "--device", "cpu", *monitor)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert losses(work) == pytest.approx(losses(one_process), rel=1e-4)
    expected, found = load_file(one_process.teacher.weights), load_file(work.teacher.weights)
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value.double(), rtol=1e-2, atol=1e-3), name
    record, other = work.teacher.record(), one_process.teacher.record()
    assert (record["processes"], other["processes"]) == (2, 1)
    assert record["identity"] == other["identity"]
    # One of them prints, draws and writes.
    sheets = (work.teacher.path / "contact_sheets").iterdir()
    assert sorted(p.name for p in sheets) == [f"epoch_000{n}.png" for n in (1, 2, 3)]
    assert len(list((work.teacher.path / "tensorboard").iterdir())) == 1
    assert "warning: no contact sheet" not in errors
    assert output.count("teacher: trained in") == 1
    assert errors.count("teacher epoch 1/3") == 1
    assert sorted(p.name for p in work.teacher.path.iterdir()) == [
        *["contact_sheets", "metrics.jsonl", "record.json", "state.pt", "tensorboard"],
        "weights.safetensors",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_launch_continues_with_another_number_of_processes(
    tmp_path: Path, toy_recipe: Recipe, number: signal.Signals
) -> None:
    """All processes receive the signal, loader workers too, and torchrun forwards it once more."""
    overrides = ["teacher.learning_rate=1e-5", "teacher.epochs=12"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), overrides)
    work = new_work(tmp_path / "work", recipe)
    loader = ["--set", "loader.workers=1"]
    process = torchrun(2, "run", "teacher", "-w", work.root, "--device", "cpu", *loader)
    try:
        deadline = time.monotonic() + 120
        while not work.teacher.state.is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, number)
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert errors.count("the same command continues from there") == 1
    assert "killed by signal" not in errors  # PyTorch's message about loader workers
    progress = json.loads(torch.load(work.teacher.state, weights_only=True)["progress"])
    done = 3 * progress["epoch"] + progress["step"]
    assert 3 <= done < 36
    assert teacher.run(work, recipe, CPU)["processes"] == 1
    uninterrupted = new_work(tmp_path / "uninterrupted", recipe)
    teacher.run(uninterrupted, recipe, CPU)
    assert losses(work) == pytest.approx(losses(uninterrupted), rel=1e-3)
