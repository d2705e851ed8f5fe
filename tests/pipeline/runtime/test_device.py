"""Devices by name, and the division of CPU cores."""

from __future__ import annotations

import os

import cv2
import pytest
import torch

from fpd.pipeline.runtime.device import choose_device, divide_cores, enough_workers, loader_workers
from fpd.pipeline.runtime.launch import LAUNCHED, is_launched, launched_rank, usable_cores

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four cores, and no OMP_NUM_THREADS."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


def test_auto_is_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == GPU


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta"])
def test_a_device_that_this_machine_lacks_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"--device {name}: expected a device of this machine: cpu"
    ):
        choose_device(name)


@pytest.mark.parametrize(("cores", "with_cpu", "with_gpu"), [(1, 0, 1), (4, 1, 4), (64, 1, 8)])
def test_loader_workers_depend_on_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, with_cpu: int, with_gpu: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert loader_workers(None, CPU) == with_cpu
    assert loader_workers(None, GPU) == with_gpu


def test_the_recipes_loader_workers_take_precedence() -> None:
    assert loader_workers(0, GPU) == 0
    assert loader_workers(20, CPU) == 20


@pytest.mark.parametrize(
    ("workers", "wait_fraction", "expected"),
    [(8, 0.5, 16), (8, 0.3, 12), (8, 0.01, 9), (0, 0.5, 2), (8, 0.999, 16), (40, 0.9, 64)],
)
def test_enough_workers_keep_up_with_training(
    monkeypatch: pytest.MonkeyPatch, workers: int, wait_fraction: float, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert enough_workers(workers, wait_fraction) == expected


@pytest.mark.parametrize(("workers", "threads"), [(None, 3), (0, 4), (9, 1)])
def test_loader_workers_are_left_their_cores(
    cores: pytest.MonkeyPatch, workers: int | None, threads: int
) -> None:
    divide_cores(workers, CPU)
    assert torch.get_num_threads() == threads
    assert cv2.getNumThreads() <= 1


def test_omp_num_threads_takes_precedence(cores: pytest.MonkeyPatch) -> None:
    cores.setenv("OMP_NUM_THREADS", "2")
    divide_cores(0, CPU)
    assert torch.get_num_threads() == 1  # as it was


def test_with_a_gpu_the_threads_stay_as_they_are(cores: pytest.MonkeyPatch) -> None:
    divide_cores(0, GPU)
    assert torch.get_num_threads() == 1


def set_launched(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    values = dict.fromkeys(LAUNCHED, "1") | {"LOCAL_RANK": "3"} | more
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_launched_processes_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[torch.device] = []

    def zeros(_: int, device: torch.device) -> torch.Tensor:
        probed.append(device)
        return torch.tensor([0.0])

    set_launched(monkeypatch)
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = torch.device("cuda:3")  # of LOCAL_RANK
    assert [choose_device(name) for name in ("auto", "cuda")] == [gpu, gpu] == probed
    assert choose_device("cpu") == CPU


def test_launched_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert usable_cores() == 16
    set_launched(monkeypatch, LOCAL_WORLD_SIZE="4")
    assert usable_cores() == 4
    assert loader_workers(None, GPU) == 4
    set_launched(monkeypatch, LOCAL_WORLD_SIZE="64")
    assert usable_cores() == 1


def test_a_process_is_launched_only_with_all_of_torchruns_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (is_launched(), launched_rank()) == (False, 0)
    set_launched(monkeypatch, RANK="2")
    assert (is_launched(), launched_rank()) == (True, 2)
    monkeypatch.delenv("MASTER_ADDR")  # some schedulers set RANK and WORLD_SIZE of their own accord
    assert (is_launched(), launched_rank()) == (False, 0)
