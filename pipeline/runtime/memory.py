"""Measures a pass's peak memory, and turns out-of-memory errors into advice."""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(task: Callable[[], object], device: torch.device, resident: int) -> int:
    """Peak memory of a task in bytes.

    On CUDA, the peak of PyTorch's allocator, workspaces included. On a CPU, `resident` plus the
    largest sum of tensors alive at once: the same on every machine, without the memory that a
    library allocates inside an operation.

    Args:
        resident: bytes that are in use before the task, such as the weights.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        task()
        return int(torch.cuda.max_memory_allocated(device))
    live = LiveTensors()
    with live:
        task()
    return resident + live.peak


@contextmanager
def explain_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """Turn PyTorch's out-of-memory errors in a block into one sentence.

    Args:
        what: the subject of the sentence: what did not fit.
        advice: what needs less memory.

    Raises:
        ValueError: PyTorch could not allocate memory.
    """
    try:
        yield
    except RuntimeError as error:
        # The GPU's error has a class of its own; the CPU's is recognized by its allocator's name.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "CPUAllocator" not in str(error):
            raise
        match = re.search(r"ried to allocate [\d.]+ \w+", str(error))
        size = f" (t{match[0]})" if match else ""
        raise ValueError(f"{what} did not fit into memory{size}: {advice}") from None


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensor storages that are created inside the block and still alive.

    Attributes:
        now, peak: in bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor, before)
        return result

    def _hold(self, tensor: Tensor, before: set[int]) -> None:
        """Count a storage once, until the last of its tensors is released."""
        storage = _storage(tensor)
        if storage in before and not self._users[storage]:
            return  # a view of a tensor from before the block
        size = tensor.untyped_storage().nbytes()
        if not self._users[storage]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._users[storage] += 1
        weakref.finalize(tensor, self._release, storage, size)

    def _release(self, storage: int, size: int) -> None:
        self._users[storage] -= 1
        if not self._users[storage]:
            self.now -= size


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
