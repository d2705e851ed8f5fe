"""The memory that a pass needs, and what is said where there is not so much."""

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
    """Bytes at the highest moment of a task.

    On CUDA, what PyTorch's allocator had handed out, workspaces included. On a CPU, `resident`
    (weights) and the largest sum of tensors alive at once: the same on every machine, and what a
    library takes for itself inside an operation is left out.
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
    """Say what was too much, and what takes less, where PyTorch finds no memory for a block.

    Raises:
        ValueError: it found none.
    """
    try:
        yield
    except RuntimeError as error:
        # A GPU's error has a class of its own; a CPU's has its allocator's name.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "CPUAllocator" not in str(error):
            raise
        found = re.search(r"ried to allocate [\d.]+ \w+", str(error))
        tried = f" (t{found[0]})" if found else ""
        raise ValueError(f"{what} did not fit into memory{tried}: {advice}") from None


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up the storages that operations make, for as long as they live.

    Attributes:
        now, peak: bytes, of storages made inside the block.
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
        """Count a storage once, and until the last of its tensors has gone."""
        storage = _storage(tensor)
        if storage in before and not self._users[storage]:
            return  # a view of what was there before the block
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
