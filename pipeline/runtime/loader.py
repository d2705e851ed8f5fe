"""PyTorch data loaders over batches of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader

from .device import loader_workers
from .interrupt import outlive_first_signal

T = TypeVar("T")


Key = tuple[int, int]
"""(sample index, view number)."""


FlipKey = tuple[int, int, bool]
"""(sample index, view number, whether to mirror it)."""


def make_loader(
    dataset: Any, batches: Any, device: torch.device, *, workers: int | None, prefetch: int
) -> DataLoader[Any]:
    """A PyTorch loader over batches of keys, which shuts down quietly after a signal.

    Args:
        dataset: map-style, by key.
        batches: a batch sampler: yields lists of keys.
        workers: processes; None: `loader_workers` chooses.
        prefetch: batches that each process reads ahead.
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


def in_batches(keys: Sequence[T], batch: int) -> list[Sequence[T]]:
    """Keys, or indices, in batches, in order."""
    return [keys[i : i + batch] for i in range(0, len(keys), batch)]


def _init_worker(_: int) -> None:
    outlive_first_signal()
    cv2.setNumThreads(0)
