"""Peak memory against sums by hand, and out-of-memory errors."""

from __future__ import annotations

import errno

import cv2
import pytest
import torch

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.evaluation.inference import predict_with
from fpd.pipeline.runtime.memory import (
    LiveTensors,
    explain_exhausted,
    explain_out_of_memory,
    peak_bytes,
)

CPU = torch.device("cpu")
KB = 1000  # floats


def test_the_peak_is_of_tensors_alive_at_once() -> None:
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
    assert live.peak == 4 * KB + 20 + 20  # the previous round's x is alive until this one's exists
    del x
    assert live.now == 0


def test_views_of_earlier_tensors_are_not_counted() -> None:
    before = torch.zeros(KB)
    assert peak_bytes(lambda: before[3:].view(-1).t(), CPU, resident=0) == 0


# More than any machine has, so that PyTorch raises its own error.
FAR_TOO_MUCH = 1 << 48


def test_too_little_memory_is_explained_in_one_sentence() -> None:
    message = r"^a map did not fit into memory \(tried to allocate \d+ bytes\): draw it smaller$"
    with (
        pytest.raises(ValueError, match=message),
        explain_out_of_memory("a map", "draw it smaller"),
    ):
        torch.empty(FAR_TOO_MUCH)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "too little memory: end other programs"),
        (
            MemoryError("Unable to allocate 1.5 GiB for an array with shape (1,)"),
            "a piece of 1.5 GiB",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "too little memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "too little memory"),
        (cv2.error("Insufficient memory in function 'OutOfMemoryError'"), "too little memory"),
        (RuntimeError("worker (pid 3) is killed by signal: Killed. "), "loader.workers=0"),
        (RuntimeError("worker (pid 3) is killed by signal: Bus error. It is"), "--shm-size"),
        (RuntimeError("unable to write to file </torch_12_34>: No space (28)"), "/dev/shm"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
    ],
)
def test_each_librarys_error_of_memory_has_a_remedy(error: Exception, part: str) -> None:
    message = explain_exhausted(error)
    assert message is not None and part in message
    assert "same command" in message


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), OSError(errno.ENOSPC, "No space"), ValueError("")]
)
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    assert explain_exhausted(error) is None


def test_so_is_too_little_gpu_memory() -> None:
    text = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB."
    message = r"^a map did not fit into memory \(tried to allocate 2.00 GiB\): draw it smaller$"
    with (
        pytest.raises(ValueError, match=message),
        explain_out_of_memory("a map", "draw it smaller"),
    ):
        raise torch.cuda.OutOfMemoryError(text)


def test_so_is_too_little_memory_for_a_librarys_workspace() -> None:
    with (
        pytest.raises(ValueError, match=r"^a map did not fit into memory: draw it smaller$"),
        explain_out_of_memory("a map", "draw it smaller"),
    ):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")


def test_other_errors_are_not_changed() -> None:
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), explain_out_of_memory("a map", ""):
        raise RuntimeError("size mismatch")
    with pytest.raises(KeyError), explain_out_of_memory("a map", ""):
        raise KeyError("a")


def allocate_too_much(crops: torch.Tensor) -> torch.Tensor:
    return torch.empty(FAR_TOO_MUCH)


def test_a_pass_of_an_evaluation_that_does_not_fit_is_explained(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    with pytest.raises(ValueError, match=r"^a pass of up to 32 .*or use another machine$"):
        predict_with(allocate_too_much, toy_recipe, toy_samples, CPU)
