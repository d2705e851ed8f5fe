"""Where the numbers are crunched, and how cores are shared between training and reading."""

from __future__ import annotations

import os

import cv2
import torch

MOST_WORKERS = 8

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun gives each of its processes."""


def is_launched() -> bool:
    """Whether torchrun, or somebody who does as it does, started this process among others."""
    return all(name in os.environ for name in LAUNCHED)


def launched_rank() -> int:
    """This process's number among those that were launched together; 0 where it is alone."""
    return int(os.environ["RANK"]) if is_launched() else 0


def choose_device(name: str) -> torch.device:
    """A device by name; "auto" is the GPU if there is one. Launched processes take a GPU each.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if not is_launched():
            return torch.device(name)
    if name == "cuda" and is_launched():
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" is a device, but has no numbers
    except (RuntimeError, AssertionError):
        gpus = "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))
        raise ValueError(f"--device {name}: expected a device of this machine: cpu{gpus}") from None
    return device


def loader_workers(workers: int | None, device: torch.device) -> int:
    """Loader processes: `workers` if given, else one for a CPU and up to 8 for a GPU."""
    if workers is not None:
        return workers
    cores = usable_cores()
    return min(MOST_WORKERS, cores) if device.type == "cuda" else min(1, cores - 1)


def usable_cores() -> int:
    """Cores for this process: those it may run on, where the system tells (Linux), else all there
    are; shared evenly among the processes that were launched together on this machine.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_launched() else 1
    return max(1, cores // sharing)


def divide_cores(workers: int | None, device: torch.device) -> None:
    """Leave the readers their cores when training on the CPU.

    OpenMP threads wait for each other by spinning: with one more busy process than there are
    cores, a training step was measured to take 13 s instead of 0.08 s (two cores, two threads).
    `OMP_NUM_THREADS`, where set, is obeyed.
    """
    cv2.setNumThreads(0)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = usable_cores() - loader_workers(workers, device)
        torch.set_num_threads(max(1, cores))
