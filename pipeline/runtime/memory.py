"""Measures a pass's peak memory, and turns errors of exhausted resources into advice."""

from __future__ import annotations

import errno
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch raised an error because it could not allocate memory."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _says(error, NO_TENSOR_MEMORY)
    )


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
        if not is_out_of_memory(error):
            raise
        match = re.search(r"ried to allocate [\d.]+ \w+", str(error))
        size = f" (t{match[0]})" if match else ""
        raise ValueError(f"{what} did not fit into memory{size}: {advice}") from None


NO_TENSOR_MEMORY = (
    "CPUAllocator",  # PyTorch, on the CPU
    "CUDNN_STATUS_ALLOC_FAILED",  # cuDNN and cuBLAS, of their workspaces
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What errors of PyTorch say that are not of its class for exhausted memory."""

NO_MEMORY = (
    *NO_TENSOR_MEMORY,
    "Insufficient memory",  # OpenCV
    "is killed by signal: Killed",  # the system, of a loader process
    "annot allocate memory",
)
NO_SHARED_MEMORY = (
    "is killed by signal: Bus error",  # a loader process wrote beyond a full /dev/shm
    "unable to write to file </torch_",
    "unable to allocate shared memory",
    "unable to open shared memory",
    "unable to mmap",
)
NO_DESCRIPTORS = ("Too many open files", "received 0 items of ancdata")


def explain_exhausted(error: BaseException) -> str | None:
    """A sentence with a remedy for an error that says that the machine lacks memory.

    Python, PyTorch, OpenCV and the operating system each raise errors of their own.

    Returns:
        The sentence; None: the error says something else.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE) or _says(error, NO_DESCRIPTORS):
        return (
            "the limit of open files is reached: raise it with `ulimit -n 4096`, or use fewer "
            "loader processes (--set loader.workers=1), and run the same command again"
        )
    if _says(error, NO_SHARED_MEMORY):
        return (
            "the shared memory of this machine, /dev/shm, is full: the loader processes pass their "
            "batches through it. Enlarge it (in a container, --shm-size=8g or --ipc=host), remove "
            "files that ended processes left there, or load in this process with --set "
            "loader.workers=0; finished work is kept, run the same command again"
        )
    if (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or number == errno.ENOMEM
        or _says(error, NO_MEMORY)
    ):
        match = re.search(r"llocate ([\d.]+ [KMGT]i?B)", text)
        size = f" (a piece of {match[1]})" if match else ""
        return (
            f"there is too little memory{size}: end other programs, or use smaller batches (--set "
            "SECTION.batch_size, of the sections teacher, student and store) and fewer loader "
            "processes (--set loader.workers=0); finished work is kept, run the same command again"
        )
    return None


def _says(error: BaseException, parts: tuple[str, ...]) -> bool:
    return any(part in str(error) for part in parts)


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
