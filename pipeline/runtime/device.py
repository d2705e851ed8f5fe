"""Devices by name, and how CPU cores are divided between training and data loading."""

from __future__ import annotations

import math
import os

import cv2
import torch

from .launch import is_launched, usable_cores

MAX_GPU_WORKERS = 8
MAX_LOADER_GROWTH = 2
"""Loader processes beside a GPU, by default."""


def choose_device(name: str) -> torch.device:
    """Return a device by name. Each process of a torchrun launch gets a GPU of its own.

    Args:
        name: as given to `--device`; "auto" is the GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if not is_launched():
            return torch.device(name)
    if name == "cuda" and is_launched():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" is a device, but holds no values
    except (RuntimeError, AssertionError):
        gpus = "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ValueError(f"--device {name}: expected a device of this machine: cpu{gpus}") from None
    return device


def loader_workers(workers: int | None, device: torch.device) -> int:
    """Number of loader processes: `workers` if given, else one for a CPU and up to 8 for a GPU."""
    if workers is not None:
        return workers
    cores = usable_cores()
    return min(MAX_GPU_WORKERS, cores) if device.type == "cuda" else min(1, cores - 1)


def enough_workers(workers: int, wait_fraction: float) -> int:
    """Number of loader processes that keep up with training, up to the cores of this process.

    Never more than `MAX_LOADER_GROWTH` times as many: each holds batches in shared memory.

    Args:
        workers: number of processes that did not.
        wait_fraction: share of the time that training waited for their batches, below 1.
    """
    # They took 1 / (1 - wait_fraction) times as long for a batch as a step takes.
    most = min(usable_cores(), MAX_LOADER_GROWTH * max(1, workers))
    return min(most, math.ceil(max(1, workers) / (1 - wait_fraction)))


def divide_cores(workers: int | None, device: torch.device) -> None:
    """Limit PyTorch's threads so that loader processes have cores when training on the CPU.

    OpenMP threads wait for each other by spinning: with one busy process more than there are
    cores, a training step was measured to take 13 s instead of 0.08 s (two cores, two threads).
    `OMP_NUM_THREADS` takes precedence.
    """
    cv2.setNumThreads(0)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = usable_cores() - loader_workers(workers, device)
        torch.set_num_threads(max(1, cores))
