"""Whether torchrun started this process, and which share of the machine's cores it has."""

from __future__ import annotations

import os

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun gives each of its processes."""


def is_launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return all(name in os.environ for name in LAUNCHED)


def launched_rank() -> int:
    """This process's rank among those launched together; 0 for a single process."""
    return int(os.environ["RANK"]) if is_launched() else 0


def usable_cores() -> int:
    """Number of cores for this process: its share of those that it may run on.

    Processes that were launched together on this machine share the cores evenly. Where the system
    does not report a CPU affinity (it is Linux that does), all cores count.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_launched() else 1
    return max(1, cores // sharing)
