"""Loaders for a GPU: batches in pinned memory are those of a loader without processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fpd.pipeline.runtime.loader import in_batches, make_loader

pytestmark = pytest.mark.gpu

PREFETCH = 2
EPOCHS = [(96, 8), (95, 7)]  # items and batch size


class Numbered:
    """Items that hold their number in every kind of value that a view has."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        number, side = key
        return {
            "crop": np.full((side, side, 3), number % 256, np.uint8),
            "affine": np.full((2, 3), number, np.float64),
            "steps": np.full(3, number, np.float16),
            "coefficients": np.full((3, 4), number % 128 - 64, np.int8),
            "index": number,
            "flipped": number % 2 == 1,
            "name": str(number),
        }


class Batches:
    """A batch sampler whose epochs have batches of different sizes."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.epoch = 0

    def __iter__(self) -> Iterator[Any]:
        items, size = EPOCHS[self.epoch]
        return iter(in_batches([(number, self.side) for number in range(items)], size))

    def __len__(self) -> int:
        return len(list(iter(self)))


def clone(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: v.clone() if isinstance(v, Tensor) else v for key, v in batch.items()}


def assert_same_batch(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(found[key].cpu(), value, rtol=0, atol=0)
        else:
            assert found[key] == value


def test_reused_memory_gives_the_same_batches_in_the_same_order(device: torch.device) -> None:
    """Each is compared as it arrives, and copied to the device while the next one arrives."""
    plain_batches, reusing_batches = Batches(16), Batches(16)
    plain = make_loader(Numbered(), plain_batches, device, workers=0, prefetch=PREFETCH)
    reusing = make_loader(
        Numbered(), reusing_batches, device, workers=2, prefetch=PREFETCH, reuse_memory=True
    )
    for epoch in range(len(EPOCHS)):
        plain_batches.epoch = reusing_batches.epoch = epoch
        expected = [clone(batch) for batch in plain]
        copies: list[dict[str, Any]] = []
        for number, batch in enumerate(reusing):
            assert_same_batch(batch, expected[number])
            copies.append(
                {
                    key: value.to(device, non_blocking=True, copy=True)
                    for key, value in batch.items()
                    if isinstance(value, Tensor)
                }
            )
        assert len(copies) == len(expected)
        for copy, other in zip(copies, expected, strict=True):
            assert_same_batch(copy, {key: other[key] for key in copy})


def test_a_held_batch_does_not_change_while_the_next_one_arrives(device: torch.device) -> None:
    """Pinned memory is the caller's own; without pinning, one loader process has spare batches."""
    batches = Batches(8)
    workers = 2 if device.type == "cuda" else 1
    loader = make_loader(
        Numbered(), batches, device, workers=workers, prefetch=PREFETCH, reuse_memory=True
    )
    size, held = EPOCHS[0][1], None
    for number, batch in enumerate(loader):
        if held is not None:
            first = size * (number - 1)
            assert held["index"].tolist() == list(range(first, first + size))
            assert torch.equal(held["crop"][:, 0, 0, 0].long(), held["index"] % 256)
        held = batch


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_for_a_gpu(device: torch.device, workers: int) -> None:
    loader = make_loader(
        Numbered(), Batches(8), device, workers=workers, prefetch=PREFETCH, reuse_memory=True
    )
    batch = next(iter(loader))
    for value in batch.values():
        if isinstance(value, Tensor):
            assert value.is_pinned() == (device.type == "cuda")


def test_copies_that_are_not_waited_for_have_the_batch_that_they_were_made_of(
    device: torch.device,
) -> None:
    """The training loop drops a pinned batch while its copy may be under way."""
    loader = make_loader(
        Numbered(), Batches(64), device, workers=2, prefetch=PREFETCH, reuse_memory=True
    )
    busy = torch.ones(2048, 2048, device=device)
    sums = []
    for batch in loader:
        if device.type == "cuda":  # so that copies queue up
            busy = (busy @ busy).clamp_(max=1)
        crop = batch["crop"].to(device, non_blocking=True, copy=True)
        sums.append((crop[:, 0, 0, 0].long() - crop[:, -1, -1, -1].long(), crop[:, 0, 0, 0]))
        del batch
    numbers = torch.cat([first for _, first in sums]).cpu()
    assert torch.equal(numbers.long(), torch.arange(EPOCHS[0][0]) % 256)
    assert not any(bool(difference.any()) for difference, _ in sums)
