"""Run times of tasks, alone and in turn."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from fpd.pipeline.runtime import timing
from fpd.pipeline.runtime.timing import median_ms, time_interleaved


def test_tasks_run_in_turn_and_every_other_round_in_reverse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "ROUNDS", 3)
    monkeypatch.setattr(timing, "ROUND_S", 1e-4)
    calls: list[str] = []
    spreads = time_interleaved({name: lambda name=name: calls.append(name) for name in "ab"})
    assert "".join(name for name, _ in groupby(calls)) == "abab"  # ab, ba, ab
    for name, spread in spreads.items():
        assert 0 < spread.lower_ms <= spread.median_ms <= spread.upper_ms
        assert 3 <= spread.runs <= calls.count(name)


def test_a_spread_has_median_and_quartiles() -> None:
    spread = timing._spread([0.010, 0.020, 0.030, 0.040, 1.0], 5)
    assert (spread.lower_ms, spread.median_ms, spread.upper_ms) == pytest.approx((20, 30, 40))


def test_a_task_is_timed_without_gradients_on_the_threads_in_use() -> None:
    threads: set[int] = set()

    def task() -> None:
        assert not torch.is_grad_enabled()
        threads.add(torch.get_num_threads())

    assert median_ms(task, torch.device("cpu")) > 0
    assert threads == {torch.get_num_threads()}
