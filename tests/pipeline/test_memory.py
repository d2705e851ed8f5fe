"""The memory of a pass, against sums by hand."""

from __future__ import annotations

import torch

from fpd.pipeline.memory import LiveTensors, peak_bytes

CPU = torch.device("cpu")
KB = 1000  # floats


def test_what_lives_at_once_counts() -> None:
    before = torch.zeros(KB)

    def task() -> None:
        a = before + 1  # 4 kB
        b = a + 1  # 8 kB
        del a
        c = b.view(10, 100).t()  # the same storage
        del b
        d = torch.cat([c.flatten(), before])  # 4 + 4 + 8: flatten copies
        d.add_(1)

    assert peak_bytes(task, CPU, resident=5) == 5 + 16 * KB


def test_everything_is_released() -> None:
    live = LiveTensors()
    with live, torch.inference_mode():
        for _ in range(3):
            x = torch.ones(KB).relu_()[:5] * 2
    assert live.peak == 4 * KB + 20 + 20  # the last round's x is there until this one's is
    del x
    assert live.now == 0


def test_views_of_what_was_there_before_are_free() -> None:
    before = torch.zeros(KB)
    assert peak_bytes(lambda: before[3:].view(-1).t(), CPU, resident=0) == 0
