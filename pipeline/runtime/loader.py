"""PyTorch data loaders over batches of keys."""

from __future__ import annotations

import errno
import multiprocessing
import sys
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader

from .device import loader_workers
from .interrupt import ignore_first_signal, signals_blocked
from .memory import explain_exhausted
from .shared_batches import SharedCollate

T = TypeVar("T")

Key = tuple[int, int]
"""(sample index, view number)."""

FlipKey = tuple[int, int, bool]
"""(sample index, view number, whether to flip the view)."""


def make_loader(
    dataset: Any,
    batches: Any,
    device: torch.device,
    *,
    workers: int | None,
    prefetch: int,
    reuse_memory: bool = False,
) -> DataLoader[Any]:
    """Make a PyTorch loader over batches of keys that shuts down cleanly after a signal.

    Args:
        dataset: map-style, indexed by key.
        batches: a batch sampler, which yields lists of keys.
        workers: number of processes; None: `loader_workers` chooses.
        prefetch: number of batches that each process reads ahead.
        reuse_memory: use the memory of batches again; for callers that hold one at a time.
    """
    processes = loader_workers(workers, device)
    collate = SharedCollate(prefetch) if reuse_memory and processes else None
    loader = Loader(
        dataset,
        batch_sampler=batches,
        num_workers=processes,
        pin_memory=device.type == "cuda",
        persistent_workers=processes > 0,
        prefetch_factor=prefetch if processes else None,
        worker_init_fn=_init_worker,
        collate_fn=collate,
    )
    if collate is not None:
        weakref.finalize(loader, collate.release)
    return loader


class Loader(DataLoader[Any]):
    """A PyTorch loader that explains errors of exhausted memory in its processes."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The batches.

        Raises:
            ValueError: memory, shared memory or file descriptors ran out; other errors of a
                loader process are raised as they are.
        """
        try:
            yield from self._start()
        except (RuntimeError, MemoryError, OSError, cv2.error) as error:
            # multiprocessing's own semaphores are in /dev/shm, too: their error names no file.
            is_semaphore = (
                isinstance(error, OSError)
                and error.errno == errno.ENOSPC
                and error.filename is None
            )
            message = explain_exhausted(
                OSError("unable to allocate shared memory") if is_semaphore else error
            )
            if message is None:
                raise
            raise ValueError(message) from None

    def _start(self) -> Iterator[Any]:
        if not self.num_workers:
            return super().__iter__()
        multiprocessing.Event()  # fails here, and not in a loader that is made in half
        # A signal to the whole process group waits until new processes know what to do with it.
        with signals_blocked():
            return super().__iter__()


def in_batches(keys: Sequence[T], batch_size: int) -> list[Sequence[T]]:
    """Split keys into batches, in order; the last one may be smaller."""
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]


def _init_worker(_: int) -> None:
    ignore_first_signal()
    sys.excepthook = _print_unless_disconnected
    cv2.setNumThreads(0)


def _print_unless_disconnected(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an error in a loader process, unless another process closed a connection to it.

    A thread of `multiprocessing` passes the memory of batches on. If a signal stops the command in
    the middle of it, the thread would print a traceback. Errors in views take another way.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, traceback)
