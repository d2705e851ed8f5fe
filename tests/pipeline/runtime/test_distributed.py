"""Several processes train one network as one process would; by gloo, on CPUs, as torchrun does."""

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
from fpd.pipeline.models.hourglass import HourglassSettings
from fpd.pipeline.runtime.device import LAUNCHED
from fpd.pipeline.runtime.distributed import SINGLE_PROCESS, ProcessGroup, joined, without_exchange
from fpd.pipeline.runtime.files import write_json
from fpd.pipeline.runtime.sync_batch_norm import synchronize
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _launched(
    rank: int, size: int, port: int, job: Callable[[ProcessGroup, str], None], out: str
) -> None:
    values = (rank, size, rank, "127.0.0.1", port)
    os.environ |= {name: str(value) for name, value in zip(LAUNCHED, values, strict=True)}
    torch.set_num_threads(1)
    with joined(CPU) as group:
        job(group, out)


def together(size: int, job: Callable[[ProcessGroup, str], None], out: Path) -> None:
    """Run a job in as many processes, each of which finds itself in the group of all."""
    multiprocessing.spawn(_launched, (size, free_port(), job, str(out)), nprocs=size)


# Batches


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_shares_of_a_batch_make_it_up(toy_samples: SampleSet, size: int) -> None:
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
    """Of one batch of seven, by name; the running statistics too. float64."""
    network = make()
    called = group.together(network, CPU, synchronized=synchronized)
    crops, maps = torch.randn(7, 3, 64, 64).double(), torch.randn(7, 5, 16, 16).double()
    own = list(group.share(range(7)))
    stages = called(crops[own])
    loss = sum((said - maps[own]).square().sum((2, 3)).mean() for said in stages)
    (loss * (len(own) / 7 * group.size)).backward()
    found = {name: weights.grad for name, weights in network.named_parameters()}
    return found | dict(network.named_buffers())


def _keep_gradients(make: Make, group: ProcessGroup, out: str) -> None:
    whole = gradients(group, make, synchronized=True)
    apart = gradients(group, make, synchronized=False)
    if group.is_first:
        torch.save(whole, out)
        torch.save(apart, out + ".apart")


@pytest.mark.parametrize("make", [hourglass, activated])
def test_gradients_and_statistics_are_those_of_one_process(tmp_path: Path, make: Make) -> None:
    together(2, partial(_keep_gradients, make), tmp_path / "found")
    expected = gradients(SINGLE_PROCESS, make, synchronized=True)
    found = torch.load(tmp_path / "found", weights_only=True)
    apart = torch.load(tmp_path / "found.apart", weights_only=True)
    assert found.keys() == expected.keys() == apart.keys()
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-6, atol=1e-9 * scale), name
    # Without synchronization they are others: this comparison can fail.
    assert not torch.allclose(apart["conv1.weight"], expected["conv1.weight"], rtol=0.01)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_activation_within_a_normalization_stays(device: str) -> None:
    """PyTorch's own conversion, which a GPU needs, would drop it."""
    network, crops = activated().eval(), torch.randn(2, 3, 64, 64).double()
    [expected] = network(crops)
    names = list(network.state_dict())
    synchronize(network, torch.device(device))
    assert type(network.bn1) is not BatchNormAct and not network.bn1.training
    [found] = network(crops)
    assert torch.equal(found, expected)
    assert list(network.state_dict()) == names


def test_an_unknown_normalization_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match=r"form of Other is known: --set student.sync_batch_norm"):
        synchronize(nn.Sequential(Other(3)), CPU)


def _accumulate(group: ProcessGroup, out: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1).double()
    called = group.together(network, CPU, synchronized=True)
    rows = torch.arange(24.0).double().reshape(8, 3)
    own = rows[list(group.share(range(8)))]
    with without_exchange(called):
        (called(own[:2]).sum() / 8 * group.size).backward()
    assert network.weight.grad is not None
    unequal = network.weight.grad.clone()
    (called(own[2:]).sum() / 8 * group.size).backward()
    torch.save((unequal, network.weight.grad), f"{out}.{group.rank}")


def test_parts_before_the_last_are_not_exchanged(tmp_path: Path) -> None:
    together(2, _accumulate, tmp_path / "found")
    first, second = (torch.load(tmp_path / f"found.{r}", weights_only=True) for r in (0, 1))
    assert not torch.equal(first[0], second[0])
    mean = torch.arange(24.0).double().reshape(8, 3).mean(0, keepdim=True)
    for _, gradient in (first, second):
        assert torch.allclose(gradient, mean)


# What is agreed on


def _agree(group: ProcessGroup, out: str) -> None:
    first = group.rank == 0
    found: dict[str, Any] = {
        "sum": group.sum([1.0, group.rank]).tolist(),
        "highest": group.highest([group.rank, -group.rank]),
        "of_first": (group.of_first(b"abc" if first else None) or b"").decode(),
        "nothing": group.of_first(None if first else b"mine"),
    }
    group.check_same({"a": 1})
    try:
        group.check_same({"a": 1, "b": [group.rank // 2]})
    except ValueError as error:
        found["refused"] = str(error)
    Path(f"{out}.{group.rank}").write_text(json.dumps(found))


def test_processes_agree(tmp_path: Path) -> None:
    together(3, _agree, tmp_path / "found")
    for rank in range(3):
        found = json.loads((tmp_path / f"found.{rank}").read_text())
        refused = found.pop("refused")
        assert found == {
            "sum": [3.0, 3.0],
            "highest": [2.0, 0.0],
            "of_first": "abc",
            "nothing": None,
        }
        differs = "b: expected [0], found [1]"
        assert (differs in refused) == (rank == 2)
        assert refused.startswith("process 2 ")


def test_alone_nothing_is_exchanged() -> None:
    assert SINGLE_PROCESS.sum([1.5, 2.0]).tolist() == [1.5, 2.0]
    assert SINGLE_PROCESS.highest([3]) == [3.0]
    assert SINGLE_PROCESS.of_first(b"x") == b"x"
    assert SINGLE_PROCESS.of_first(None) is None
    network = nn.Linear(2, 2)
    assert SINGLE_PROCESS.together(network, CPU, synchronized=True) is network
    SINGLE_PROCESS.check_same({})
    SINGLE_PROCESS.wait()


# Whole runs


def torchrun(processes: int, *arguments: str | Path) -> subprocess.Popen[str]:
    """A real launch of `fpd`, the head of a process group of its own."""
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
    write_json(work.root / "recipe.json", recipe.model_dump(mode="json"))
    return work


def losses(work: WorkDir) -> list[float]:
    return [json.loads(line)["loss"] for line in work.teacher.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def calm(toy_recipe: Recipe) -> Recipe:
    """At a low rate rounding stays rounding: AdamW turns noise around a zero gradient into steps.

    Batches of 7 and 6, which two processes share unevenly.
    """
    overrides = ["teacher.learning_rate=1e-5", "teacher.batch_size=7", "teacher.epochs=3"]
    return apply_overrides(toy_recipe.model_dump(mode="json"), overrides)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, calm: Recipe) -> WorkDir:
    torch.set_num_threads(1)
    work = new_work(tmp_path_factory.mktemp("one") / "work", calm)
    teacher.run(work, calm, CPU)
    return work


def test_two_processes_have_the_loss_curve_of_one(
    tmp_path: Path, calm: Recipe, one_process: WorkDir
) -> None:
    work = new_work(tmp_path / "two", calm)
    shown = ["--set", "monitor.contact_sheet_every=2", "--set", "monitor.tensorboard=true"]
    process = torchrun(2, "run", "teacher", "-w", work.root, "--device", "cpu", *shown)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert losses(work) == pytest.approx(losses(one_process), rel=1e-4)
    expected, found = load_file(one_process.teacher.weights), load_file(work.teacher.weights)
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value.double(), rtol=1e-2, atol=1e-3), name
    record, alone = work.teacher.record(), one_process.teacher.record()
    assert (record["processes"], alone["processes"]) == (2, 1)
    assert record["identity"] == alone["identity"]
    # One of them speaks, draws and writes.
    drawn = (work.teacher.path / "contact_sheets").iterdir()
    assert sorted(p.name for p in drawn) == [f"epoch_000{n}.png" for n in (1, 2, 3)]
    assert len(list((work.teacher.path / "tensorboard").iterdir())) == 1
    assert "warning: no contact sheet" not in errors
    assert said.count("teacher: trained in") == 1
    assert errors.count("teacher epoch 1/3") == 1
    assert sorted(p.name for p in work.teacher.path.iterdir()) == [
        *["contact_sheets", "metrics.jsonl", "record.json", "state.pt", "tensorboard"],
        "weights.safetensors",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_launch_that_was_stopped_goes_on_with_another_number_of_processes(
    tmp_path: Path, toy_recipe: Recipe, number: signal.Signals
) -> None:
    """The signal comes to all, readers too, and torchrun passes it on once more."""
    overrides = ["teacher.learning_rate=1e-5", "teacher.epochs=12"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), overrides)
    work = new_work(tmp_path / "work", recipe)
    readers = ["--set", "loader.workers=1"]
    process = torchrun(2, "run", "teacher", "-w", work.root, "--device", "cpu", *readers)
    try:
        until = time.monotonic() + 120
        while not work.teacher.state.is_file():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, number)
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert errors.count("the same command continues from there") == 1
    assert "killed by signal" not in errors  # as readers are said to be, whom nobody waits for
    progress = json.loads(torch.load(work.teacher.state, weights_only=True)["progress"])
    done = 3 * progress["epoch"] + progress["step"]
    assert 3 <= done < 36
    assert teacher.run(work, recipe, CPU)["processes"] == 1
    alone = new_work(tmp_path / "alone", recipe)
    teacher.run(alone, recipe, CPU)
    assert losses(work) == pytest.approx(losses(alone), rel=1e-3)
