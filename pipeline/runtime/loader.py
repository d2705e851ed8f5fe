"""PyTorch data loaders over batches of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader

from .device import loader_workers
from .interrupt import ignore_first_signal

T = TypeVar("T")

Key = tuple[int, int]
"""(sample index, view number)."""

FlipKey = tuple[int, int, bool]
"""(sample index, view number, whether to flip the view)."""


def make_loader(
    dataset: Any, batches: Any, device: torch.device, *, workers: int | None, prefetch: int
) -> DataLoader[Any]:
    """Make a PyTorch loader over batches of keys that shuts down cleanly after a signal.

    Args:
        dataset: map-style, indexed by key.
        batches: a batch sampler, which yields lists of keys.
        workers: number of processes; None: `loader_workers` chooses.
        prefetch: number of batches that each process reads ahead.
    """
    processes = loader_workers(workers, device)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=processes,
        pin_memory=device.type == "cuda",
        persistent_workers=processes > 0,
        prefetch_factor=prefetch if processes else None,
        worker_init_fn=_init_worker,
    )


def in_batches(keys: Sequence[T], batch_size: int) -> list[Sequence[T]]:
    """Split keys into batches, in order; the last one may be smaller."""
    return [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]


def _init_worker(_: int) -> None:
    ignore_first_signal()
    cv2.setNumThreads(0)
