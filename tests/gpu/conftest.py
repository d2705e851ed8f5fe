"""Shared by the tests of a GPU: the device that they run on, and its precision."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from fpd.pipeline.runtime.device import choose_device

DEVICE_VARIABLE = "FPD_GPU_TESTS_DEVICE"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first CUDA device, or the one that the environment variable names.

    `FPD_GPU_TESTS_DEVICE=cpu` rehearses the tests where there is no GPU.
    """
    if DEVICE_VARIABLE in os.environ:
        return choose_device(os.environ[DEVICE_VARIABLE])
    if not torch.cuda.is_available():
        pytest.skip(f"needs a CUDA device, found none ({DEVICE_VARIABLE}=cpu rehearses it)")
    return torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def _float32_without_tf32() -> Iterator[None]:
    """TF32 has 10 bits of mantissa; without it, float32 rounds on a GPU as it does on a CPU."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of PyTorch advise other names
        before = matmul.allow_tf32, cudnn.allow_tf32
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        yield
        matmul.allow_tf32, cudnn.allow_tf32 = before
