"""Batches in shared memory that is used again: they are the batches that PyTorch's loader gives."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fpd.pipeline.runtime import shared_batches
from fpd.pipeline.runtime.loader import in_batches, make_loader

CPU = torch.device("cpu")
PREFETCH = 2


class Numbered:
    """Items that hold their number in every kind of value."""

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        number, side = key
        return {
            "crop": np.full((side, side, 3), number % 256, np.uint8),
            "half": np.full(3, number, np.float16),
            "index": number,
            "flipped": number % 2 == 1,
            "name": str(number),
        }


def batches_of(count: int, size: int, side: int = 4) -> list[Any]:
    return in_batches([(number, side) for number in range(count)], size)


def copied(batch: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in batch.items()}


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_of_a_plain_loader(workers: int) -> None:
    batches = batches_of(95, 8)
    plain = make_loader(Numbered(), batches, CPU, workers=workers, prefetch=PREFETCH)
    reusing = make_loader(
        Numbered(), batches, CPU, workers=workers, prefetch=PREFETCH, reuse_memory=True
    )
    expected = [copied(batch) for batch in plain]

    for _epoch in range(2):
        found = [copied(batch) for batch in reusing]
        assert len(found) == len(expected)
        for batch, other in zip(found, expected, strict=True):
            assert batch.keys() == other.keys()
            assert batch["name"] == other["name"]
            for key in batch.keys() - {"name"}:
                torch.testing.assert_close(batch[key], other[key], rtol=0, atol=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_stays_as_it_is_until_the_next_one_is_asked_for(workers: int) -> None:
    loader = make_loader(
        Numbered(), batches_of(200, 2), CPU, workers=workers, prefetch=PREFETCH, reuse_memory=True
    )
    previous = None
    for number, batch in enumerate(loader):
        assert batch["index"].tolist() == [2 * number, 2 * number + 1]
        # Everything that the processes read ahead is written by now, or will be soon.
        torch.testing.assert_close(batch["crop"][:, 0, 0, 0].long(), batch["index"] % 256)
        if previous is not None and workers == 1:
            assert previous["index"].tolist() == [2 * number - 2, 2 * number - 1]
        previous = batch


def test_memory_is_used_again() -> None:
    loader = make_loader(
        Numbered(), batches_of(64, 2), CPU, workers=1, prefetch=PREFETCH, reuse_memory=True
    )

    addresses = {batch["crop"].data_ptr() for batch in loader}

    assert len(addresses) == PREFETCH + shared_batches.SPARE_BATCHES


def test_an_epoch_that_ends_early_is_no_trouble_for_the_next_one() -> None:
    batches = batches_of(40, 2)
    loader = make_loader(Numbered(), batches, CPU, workers=2, prefetch=PREFETCH, reuse_memory=True)
    next(iter(loader))

    found = [batch["index"].tolist() for batch in loader]

    assert found == [[index for index, _ in batch] for batch in batches]


def test_larger_and_other_batches_get_memory_of_their_own() -> None:
    batches = [*batches_of(4, 2), *batches_of(18, 9), *batches_of(6, 2, side=5)]
    loader = make_loader(Numbered(), batches, CPU, workers=1, prefetch=PREFETCH, reuse_memory=True)

    shapes = [tuple(batch["crop"].shape) for batch in loader]

    assert shapes == [(len(batch), batch[0][1], batch[0][1], 3) for batch in batches]


def test_blocks_are_released_with_their_loader() -> None:
    gc.collect()
    before = len(shared_batches._received)
    loader = make_loader(
        Numbered(), batches_of(8, 2), CPU, workers=1, prefetch=PREFETCH, reuse_memory=True
    )
    list(loader)
    assert len(shared_batches._received) > before

    del loader
    gc.collect()

    assert len(shared_batches._received) == before
