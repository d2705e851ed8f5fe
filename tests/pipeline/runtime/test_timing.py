"""Times of tasks in turn."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fpd.pipeline.runtime.timing import interleaved


def test_tasks_come_in_turn_and_back() -> None:
    calls: list[str] = []
    tasks = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = interleaved(tasks, warmup_fraction=1, rounds=3, runs=2)
    assert "".join(calls) == "ab" + "aabb" + "bbaa" + "aabb"
    assert found["a"].runs == 6


def test_median_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.010, 0.020, 0.030, 0.040, 1.0]  # one run met a busy machine
    clock = iter(np.ravel([(0.0, s) for s in seconds]).tolist())
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = interleaved({"a": lambda: None}, warmup_fraction=0, rounds=1, runs=5)["a"]
    assert (found.lower_ms, found.median_ms, found.upper_ms) == pytest.approx((20, 30, 40))
