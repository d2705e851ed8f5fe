"""The memory of a pass, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from fpd.data.samples import SampleSet
from fpd.pipeline.caching.encode import encode_batches
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.evaluation.inference import predict_by
from fpd.pipeline.runtime.memory import LiveTensors, explain_out_of_memory, peak_bytes

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


# What no machine has: PyTorch's own error follows.
FAR_TOO_MUCH = 1 << 48


def test_memory_that_is_not_there_is_one_sentence() -> None:
    said = r"^a map did not fit into memory \(tried to allocate \d+ bytes\): draw it smaller$"
    with pytest.raises(ValueError, match=said), explain_out_of_memory("a map", "draw it smaller"):
        torch.empty(FAR_TOO_MUCH)


def test_a_gpus_memory_is_told_of_likewise() -> None:
    text = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB."
    said = r"^a map did not fit into memory \(tried to allocate 2.00 GiB\): draw it smaller$"
    with pytest.raises(ValueError, match=said), explain_out_of_memory("a map", "draw it smaller"):
        raise torch.cuda.OutOfMemoryError(text)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), explain_out_of_memory("a map", ""):
        raise RuntimeError("size mismatch")
    with pytest.raises(KeyError), explain_out_of_memory("a map", ""):
        raise KeyError("a")


def greedy(crops: torch.Tensor) -> torch.Tensor:
    return torch.empty(FAR_TOO_MUCH)


def test_a_teacher_asked_too_much_says_what_to_set() -> None:
    batch = {"crop": torch.zeros(6, 64, 64, 3, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"asked about 6 views at once, .* --set store\.batch=3 "):
        next(encode_batches(greedy, [batch], 0.1))
    assert not torch.is_inference_mode_enabled()


def test_a_pass_that_does_not_fit_is_told_of(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    with pytest.raises(ValueError, match=r"^a pass of up to 32 .*or use another machine$"):
        predict_by(greedy, toy_recipe, toy_samples, CPU)
