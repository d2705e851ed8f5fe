"""Devices by name, and how cores are shared."""

from __future__ import annotations

import os

import cv2
import pytest
import torch

from fpd.pipeline.runtime.device import (
    LAUNCHED,
    choose_device,
    divide_cores,
    is_launched,
    launched_rank,
    loader_workers,
    usable_cores,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four cores, and no word from the user."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


def test_auto_is_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == GPU


def test_cpu() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"--device {name}: expected a device of this machine: cpu"
    ):
        choose_device(name)


def test_meta_is_no_device_to_train_on() -> None:
    with pytest.raises(ValueError, match="--device meta"):
        choose_device("meta")


@pytest.mark.parametrize(
    ("count", "beside_cpu", "beside_gpu"), [(1, 0, 1), (2, 1, 2), (4, 1, 4), (64, 1, 8)]
)
def test_workers_by_cores(
    monkeypatch: pytest.MonkeyPatch, count: int, beside_cpu: int, beside_gpu: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    assert loader_workers(None, CPU) == beside_cpu
    assert loader_workers(None, GPU) == beside_gpu


@pytest.mark.parametrize("workers", [0, 3, 20])
def test_the_recipes_workers_are_obeyed(workers: int) -> None:
    assert loader_workers(workers, CPU) == workers
    assert loader_workers(workers, GPU) == workers


@pytest.mark.parametrize(("workers", "threads"), [(None, 3), (0, 4), (2, 2), (4, 1), (9, 1)])
def test_readers_are_left_their_cores(
    cores: pytest.MonkeyPatch, workers: int | None, threads: int
) -> None:
    divide_cores(workers, CPU)
    assert torch.get_num_threads() == threads
    assert cv2.getNumThreads() <= 1


def test_the_users_word_on_threads_is_obeyed(cores: pytest.MonkeyPatch) -> None:
    cores.setenv("OMP_NUM_THREADS", "2")
    divide_cores(0, CPU)
    assert torch.get_num_threads() == 1  # as it was


def test_beside_a_gpu_threads_are_left_alone(cores: pytest.MonkeyPatch) -> None:
    divide_cores(0, GPU)
    assert torch.get_num_threads() == 1


def launched(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    values = dict.fromkeys(LAUNCHED, "1") | {"LOCAL_RANK": "3"} | more
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_launched_processes_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []

    def zeros(_: int, device: torch.device) -> torch.Tensor:
        taken.append(device)
        return torch.tensor([0.0])

    launched(monkeypatch)
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    third = torch.device("cuda:3")
    assert [choose_device(name) for name in ("auto", "cuda")] == [third, third] == taken
    assert choose_device("cpu") == CPU


def test_launched_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert usable_cores() == 16
    launched(monkeypatch, LOCAL_WORLD_SIZE="4")
    assert usable_cores() == 4
    assert loader_workers(None, GPU) == 4
    launched(monkeypatch, LOCAL_WORLD_SIZE="64")
    assert usable_cores() == 1


def test_a_process_is_launched_only_with_all_that_torchrun_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (is_launched(), launched_rank()) == (False, 0)
    launched(monkeypatch, RANK="2")
    assert (is_launched(), launched_rank()) == (True, 2)
    monkeypatch.delenv("MASTER_ADDR")  # some schedulers set RANK and WORLD_SIZE of their own accord
    assert (is_launched(), launched_rank()) == (False, 0)
