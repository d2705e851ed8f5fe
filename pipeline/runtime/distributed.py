"""The processes that train one network together, as `torchrun` starts them.

    torchrun --nproc-per-node 4 -m fpd run student -w work/lsp

A step's batch is the recipe's however many processes share it, so that the result does not hang on
their number. Gradients travel by PyTorch's DistributedDataParallel; what is agreed on here is small
and goes by way of the CPU (gloo), so that no GPU is waited for.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from .device import is_launched
from .diff import differences
from .sync_batch_norm import synchronize

T = TypeVar("T")

LET_GO_S = 0.5
"""Gloo's threads let go of a result's Python object some time after it was waited for, and need the
interpreter to: one that is ending by then aborts the process ("terminate called without an active
exception", in a quarter of short runs on two busy cores). PyTorch does not wait for them."""


@dataclass(frozen=True)
class ProcessGroup:
    """One process among `size`, by its rank. Alone, it agrees with itself at no cost."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and talks to people."""
        return self.rank == 0

    def share(self, keys: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: consecutive keys, parts differing by one at most."""
        start, stop = (len(keys) * rank // self.size for rank in (self.rank, self.rank + 1))
        return keys[start:stop]

    def sum(self, values: Sequence[float] | Tensor) -> Tensor:
        """The sum over all processes of as many numbers each, float64 on the CPU."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def highest(self, values: Sequence[float]) -> list[float]:
        """The highest of each number that any process has."""
        return list(self._reduce(values, distributed.ReduceOp.MAX).tolist())

    def _reduce(self, values: Sequence[float] | Tensor, how: Any) -> Tensor:
        reduced = torch.as_tensor(values, dtype=torch.float64, device="cpu").contiguous()
        if self.size > 1:
            distributed.all_reduce(reduced, how)
        return reduced

    def of_first(self, content: bytes | None) -> bytes | None:
        """What the first process has, in all of them."""
        if self.size == 1:
            return content
        length = torch.tensor([-1 if content is None else len(content)])
        distributed.broadcast(length, src=0)
        if length.item() < 0:
            return None
        carried = torch.empty(int(length.item()), dtype=torch.uint8)
        if content is not None and self.is_first:
            carried = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(carried, src=0)
        return carried.numpy().tobytes()

    def check_same(self, value: dict[str, Any]) -> None:
        """Refuse processes that are about to do different things.

        Raises:
            ValueError: in each process, naming the first one that differs and where.
        """
        if self.size == 1:
            return
        text = self.of_first(json.dumps(value).encode())
        assert text is not None
        different = differences(json.loads(text), value)
        worst = int(self.highest([self.rank if different else -1])[0])
        if different:
            raise ValueError(
                f"process {self.rank} on {socket.gethostname()} has other settings or inputs than "
                f"process 0: {'; '.join(different)}; all need the same recipe and the same files"
            )
        if worst >= 0:
            raise ValueError(f"process {worst} has other settings or inputs than process 0")

    def wait(self) -> None:
        """Wait until every process is here."""
        self.sum([0.0])  # by way of the CPU, as all else; a barrier would take the GPUs

    def wrap(self, network: nn.Module, device: torch.device, *, synchronized: bool) -> nn.Module:
        """A network whose gradients, in each process, become the mean of all processes'.

        Args:
            synchronized: batch statistics are those of all processes' views; else of each one's.
        """
        if self.size == 1:
            return network
        if synchronized:
            synchronize(network, device)
        return DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None
        )

    def same_buffers(self, network: nn.Module) -> None:
        """Give all processes the first one's running statistics, so that they score one network."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


SINGLE_PROCESS = ProcessGroup()


def without_exchange(network: nn.Module) -> AbstractContextManager[None]:
    """Backward passes in it only add up: the last one, outside, exchanges gradients."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


@contextmanager
def joined(device: torch.device) -> Iterator[ProcessGroup]:
    """The group of the processes that were launched together; `SINGLE_PROCESS` where this is the only one.

    Raises:
        ValueError: they cannot reach each other.
    """
    if not is_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"process {os.environ['RANK']} on {socket.gethostname()} found no way to the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({error})"
        ) from None
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
        time.sleep(LET_GO_S)
