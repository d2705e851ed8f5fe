"""A process group of one process on a GPU: NCCL for gradients, gloo for small values."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.models.checkpoint import to_device
from fpd.pipeline.runtime.device import choose_device
from fpd.pipeline.runtime.distributed import SINGLE_PROCESS, ProcessGroup, join_process_group
from fpd.pipeline.runtime.launch import LAUNCHED
from fpd.pipeline.training.checkpoint import TrainingState
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.optimizers import make_lr_scheduler, make_optimizer
from fpd.pipeline.training.step import train_step

from .comparing import build_network, changed, label_batch, relative_difference

pytestmark = pytest.mark.gpu

CROP_PX = 128  # the lowest level of the network then has 2 x 2 pixels
VIEWS = 8
TIMEOUT_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def group(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessGroup]:
    """A group of one process that acts as one of two, so that nothing is left out.

    `join_process_group` makes no group for a single process: it is told of two, PyTorch of one.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    port = free_port()
    for name, value in zip(LAUNCHED, (0, 2, 0, "127.0.0.1", port), strict=True):
        monkeypatch.setenv(name, str(value))
    backends: list[str] = []
    init_process_group = distributed.init_process_group

    def init_alone(backend: str) -> None:
        backends.append(backend)
        init_process_group(
            backend,
            init_method=f"tcp://127.0.0.1:{port}",
            rank=0,
            world_size=1,
            timeout=timedelta(seconds=TIMEOUT_S),
        )

    monkeypatch.setattr(distributed, "init_process_group", init_alone)
    monkeypatch.setattr("fpd.pipeline.runtime.distributed.GLOO_RELEASE_S", 0.1)
    with join_process_group(device) as joined:
        assert joined == ProcessGroup(0, 1)
        assert backends == ["cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"]
        yield ProcessGroup(0, 2)


def take_step(
    group: ProcessGroup, recipe: Recipe, samples: SampleSet, device: torch.device
) -> tuple[nn.Module, nn.Module, Tensor]:
    """The wrapped network after a step, the plain one inside, and what the step returned."""
    training = recipe.teacher
    network = to_device(build_network(smooth=True), device).train()
    wrapped = group.wrap(network, device, synchronized=True)
    optimizer = make_optimizer(training, network)
    state = TrainingState(network, optimizer, make_lr_scheduler(training, optimizer, 10))
    sums = train_step(
        state=state,
        network=wrapped,
        objective=Objective(recipe.targets, recipe.geometry.heatmap_px),
        training=training,
        batch=label_batch(recipe, samples, VIEWS),
        loss_weight=1.0,
        device=device,
    )
    return wrapped, network, sums


@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_a_step_of_a_group_is_that_of_one_process(
    group: ProcessGroup,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    device: torch.device,
    grad_accum_steps: int,
) -> None:
    """With one process, PyTorch's SyncBatchNorm computes its statistics without an exchange."""
    recipe = changed(
        toy_recipe,
        f"geometry.crop_px={CROP_PX}",
        f"teacher.grad_accum_steps={grad_accum_steps}",
        "teacher.precision=float32",
    )
    _, plain, expected = take_step(SINGLE_PROCESS, recipe, toy_samples, device)
    wrapped, network, found = take_step(group, recipe, toy_samples, device)
    assert isinstance(wrapped, DistributedDataParallel)
    normalizations = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    if device.type == "cuda":
        assert not normalizations
        assert any(isinstance(m, nn.SyncBatchNorm) for m in network.modules())
    assert found.device.type == device.type
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradients = [
        torch.cat([w.grad.flatten() for w in each.parameters() if w.grad is not None])
        for each in (network, plain)
    ]
    assert relative_difference(*gradients) < 1e-3
    buffers = dict(plain.named_buffers())
    group.broadcast_buffers(network)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-3, atol=1e-4)


def test_small_values_stay_on_the_cpu(group: ProcessGroup, device: torch.device) -> None:
    assert group.sum(torch.tensor([1.5, 2.5], device=device)).tolist() == [1.5, 2.5]
    assert group.max([3.0, -1.0]) == [3.0, -1.0]
    assert group.broadcast(b"abc") == b"abc"
    assert group.broadcast(None) is None
    group.check_same({"a": 1})
    group.barrier()


def test_a_launched_process_gets_its_own_gpu(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(LAUNCHED, (0, 1, 0, "127.0.0.1", 1), strict=True):
        monkeypatch.setenv(name, str(value))
    expected = device if device.type == "cpu" else torch.device("cuda", 0)
    assert choose_device("auto" if device.type == "cuda" else "cpu") == expected
