"""How long things take, on machines that are never quite idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one run: the median and the quartiles of `runs` of them."""

    median_ms: float
    lower_ms: float
    upper_ms: float
    runs: int


def interleaved(
    tasks: Mapping[str, Callable[[], object]], *, warmup_fraction: int, rounds: int, runs: int
) -> dict[str, Spread]:
    """Time tasks in turn, round by round, so that a slow minute of the machine meets all of them.

    Args:
        tasks: by name; each returns when its work is done, on whatever device.
        warmup_fraction: runs of each before the first that counts.
        rounds: every other one goes through the tasks backwards.
        runs: of each task a round.
    """
    for task in tasks.values():
        for _ in range(warmup_fraction):
            task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(rounds):
        order = list(tasks) if number % 2 == 0 else list(tasks)[::-1]
        for name in order:
            for _ in range(runs):
                start = time.perf_counter()
                tasks[name]()
                times[name].append(time.perf_counter() - start)
    return {name: _spread(seconds) for name, seconds in times.items()}


def _spread(seconds: list[float]) -> Spread:
    lower, median, upper = np.percentile(seconds, [25, 50, 75]) * 1e3
    return Spread(float(median), float(lower), float(upper), len(seconds))
