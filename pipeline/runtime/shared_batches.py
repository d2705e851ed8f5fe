"""Batches from loader processes, in shared memory that later batches use again.

PyTorch puts every batch into new shared memory. The kernel has to provide and clear its pages,
which takes longer than decoding a crop does (docs/performance.md, "Data loading"). Here, a process
writes its batches in turn into a few blocks of shared memory, each of which it hands over once.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

SPARE_BATCHES = 2
"""Batches of a process that are neither waiting nor being made: the one that the caller works on,
and one more for safety."""

ALIGNMENT = 64  # bytes; of PyTorch's own memory

BlockKey = tuple[str, int, int]
"""(collate function, loader process, number of the block)."""

_received: dict[BlockKey, Block] = {}
"""The blocks that this process was handed, by every loader that is in use."""


class SharedCollate:
    """Collates dicts of arrays and numbers, for callers that hold one batch at a time.

    A batch changes some time after the next one has been asked for. In the caller's own process,
    `default_collate` does the work, and every batch is new.
    """

    def __init__(self, prefetch: int) -> None:
        """Create a collate function for a loader whose processes read `prefetch` batches ahead."""
        self.name = uuid.uuid4().hex
        self.blocks: list[Block | None] = [None] * (prefetch + SPARE_BATCHES)
        self.batches = 0

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """A batch: for each key, a tensor with the views along its first axis."""
        worker = get_worker_info()
        if worker is None:
            return default_collate(list(items))
        columns = {key: [item[key] for item in items] for key in items[0]}
        arrays = {
            key: [np.asarray(value) for value in values]
            for key, values in columns.items()
            if isinstance(values[0], np.ndarray | np.generic | int | float)
        }
        others = {key: default_collate(columns[key]) for key in columns if key not in arrays}
        number = self.batches % len(self.blocks)
        self.batches += 1
        block = self.blocks[number]
        is_new = block is None or not block.fits(arrays)
        if block is None or is_new:
            block = self.blocks[number] = Block.allocate(arrays)
        for key, rows in block.columns().items():
            np.stack(arrays[key], out=rows[: len(items)])
        return SharedBatch(
            key=(self.name, worker.id, number),
            views=len(items),
            others=others,
            block=block if is_new else None,
        )

    def release(self) -> None:
        """Release the blocks that this process was handed."""
        # A copy: the thread of another loader, which pins its batches, may add blocks meanwhile.
        for key in [key for key in list(_received) if key[0] == self.name]:
            del _received[key]


class Column(NamedTuple):
    """Where a block has the values of one key."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # bytes


class Block(NamedTuple):
    """Shared memory for one batch: uint8 (bytes,), and what is where in it."""

    memory: Tensor
    layout: dict[str, Column]

    @staticmethod
    def allocate(arrays: Mapping[str, Sequence[NDArray[Any]]]) -> Block:
        """Room for a batch and one view more: the batches of an epoch differ by one view."""
        layout, offset = {}, 0
        for key, values in arrays.items():
            shape = (len(values) + 1, *values[0].shape)
            layout[key] = Column(values[0].dtype, shape, offset)
            column_bytes = (len(values) + 1) * values[0].nbytes
            offset += -(-column_bytes // ALIGNMENT) * ALIGNMENT
        memory = torch.empty(offset, dtype=torch.uint8)
        memory.share_memory_()  # type: ignore[no-untyped-call]
        return Block(memory, layout)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The memory as arrays by key, views first."""
        memory = self.memory.numpy()
        return {
            key: np.ndarray(column.shape, column.dtype, memory, column.offset)
            for key, column in self.layout.items()
        }

    def fits(self, arrays: Mapping[str, Sequence[NDArray[Any]]]) -> bool:
        """Whether there is room for a batch of this kind and size."""
        return self.layout.keys() == arrays.keys() and all(
            column.shape[0] >= len(arrays[key])
            and all(value.shape == column.shape[1:] for value in arrays[key])
            and arrays[key][0].dtype == column.dtype
            for key, column in self.layout.items()
        )


class SharedBatch(NamedTuple):
    """A batch on its way: it arrives in the caller's process as a dict of tensors.

    Attributes:
        views: the number of rows in use.
        others: what is not in the block.
        block: None: it was handed over before.
    """

    key: BlockKey
    views: int
    others: dict[str, Any]
    block: Block | None

    def __reduce__(self) -> Any:
        return receive, tuple(self)


def receive(
    key: BlockKey, views: int, others: dict[str, Any], block: Block | None
) -> dict[str, Any]:
    """The batch that a `SharedBatch` stands for."""
    if block is not None:
        _received[key] = block
    columns = _received[key].columns()
    return {name: torch.from_numpy(rows[:views]) for name, rows in columns.items()} | others
