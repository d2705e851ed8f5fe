"""Run times, measured with `torch.utils.benchmark`.

Its timer warms up, repeats short tasks in blocks, and waits for the GPU before it reads the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.benchmark import Timer

Task = Callable[[], object]
"""A task returns when its work is done: on a GPU, after it has synchronized."""

ROUNDS = 6
ROUND_S = 0.03
"""Shortest time to spend on each task in a round."""


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one run.

    Attributes:
        median_ms, lower_ms, upper_ms: median and quartiles, over blocks of runs.
        runs: number of runs in all blocks.
    """

    median_ms: float
    lower_ms: float
    upper_ms: float
    runs: int


def median_ms(task: Task, device: torch.device) -> float:
    """Measure the median milliseconds of a task without gradients.

    Args:
        device: the GPU that the task need not wait for: each run is synchronized here.
    """

    def run_once() -> None:
        task()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.no_grad():
        return 1e3 * float(_timer(run_once).blocked_autorange().median)


def time_interleaved(tasks: Mapping[str, Task]) -> dict[str, Spread]:
    """Measure tasks in turn, round by round, so that other load on the machine affects all alike.

    Every other round runs the tasks in reverse order.

    Args:
        tasks: by name.
    """
    timers = {name: _timer(task) for name, task in tasks.items()}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    runs = dict.fromkeys(tasks, 0)
    for number in range(ROUNDS):
        for name in list(tasks) if number % 2 == 0 else reversed(list(tasks)):
            measurement = timers[name].blocked_autorange(min_run_time=ROUND_S)
            seconds[name] += measurement.times
            runs[name] += measurement.number_per_run * len(measurement.times)
    return {name: _spread(seconds[name], runs[name]) for name in tasks}


def _timer(task: Task) -> Timer:
    # The timer's own default is one thread.
    return Timer("task()", globals={"task": task}, num_threads=torch.get_num_threads())


def _spread(seconds: list[float], runs: int) -> Spread:
    lower, median, upper = np.percentile(seconds, [25, 50, 75]) * 1e3
    return Spread(float(median), float(lower), float(upper), runs)
