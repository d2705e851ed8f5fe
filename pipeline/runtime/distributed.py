"""The processes that train one network together, as `torchrun` starts them.

    torchrun --nproc-per-node 4 -m fpd run student -w work/lsp

The batch size is the recipe's, over all processes, so that the result does not depend on their
number. PyTorch's DistributedDataParallel exchanges the gradients. The values exchanged here are
small and stay on the CPU (gloo), so that no GPU has to be synchronized.
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

from .diff import differences
from .launch import is_launched
from .sync_batch_norm import synchronize

T = TypeVar("T")

GLOO_RELEASE_S = 0.5
"""Gloo's threads release a result's Python object some time after the call has returned, for which
they need the interpreter. If it is shutting down by then, the process aborts ("terminate called
without an active exception", in a quarter of short runs on two busy cores). PyTorch does not wait
for them."""


@dataclass(frozen=True)
class ProcessGroup:
    """One process, by its rank, of `size`. With one process, no method communicates."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def share(self, keys: Sequence[T]) -> Sequence[T]:
        """This process's share of a batch: consecutive keys. Shares differ by one key at most."""
        start, stop = (len(keys) * rank // self.size for rank in (self.rank, self.rank + 1))
        return keys[start:stop]

    def sum(self, values: Sequence[float] | Tensor) -> Tensor:
        """The sum of each number over all processes: float64, on the CPU, shaped as `values`."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """The maximum of each number over all processes."""
        return list(self._reduce(values, distributed.ReduceOp.MAX).tolist())

    def _reduce(self, values: Sequence[float] | Tensor, how: Any) -> Tensor:
        reduced = torch.as_tensor(values, dtype=torch.float64, device="cpu").contiguous()
        if self.size > 1:
            distributed.all_reduce(reduced, how)
        return reduced

    def broadcast(self, content: bytes | None) -> bytes | None:
        """Return the first process's content in every process; the others' is ignored."""
        if self.size == 1:
            return content
        length = torch.tensor([-1 if content is None else len(content)])
        distributed.broadcast(length, src=0)
        if length.item() < 0:
            return None
        buffer = torch.empty(int(length.item()), dtype=torch.uint8)
        if content is not None and self.is_first:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        distributed.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()

    def check_same(self, value: dict[str, Any]) -> None:
        """Check that all processes have the first one's settings and inputs.

        Raises:
            ValueError: in every process; where they differ, and a process that does.
        """
        if self.size == 1:
            return
        expected = self.broadcast(json.dumps(value).encode())
        assert expected is not None
        different = differences(json.loads(expected), value)
        last_differing_rank = int(self.max([self.rank if different else -1])[0])
        if different:
            raise ValueError(
                f"process {self.rank} on {socket.gethostname()} has other settings or inputs than "
                f"process 0: {'; '.join(different)}; all need the same recipe and the same files"
            )
        if last_differing_rank >= 0:
            raise ValueError(
                f"process {last_differing_rank} has other settings or inputs than process 0"
            )

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.sum([0.0])  # on the CPU; PyTorch's own barrier would use the GPUs

    def wrap(self, network: nn.Module, device: torch.device, *, synchronized: bool) -> nn.Module:
        """Return a network that averages its gradients over all processes.

        Args:
            synchronized: compute batch statistics over the views of all processes, and not over
                each process's own.
        """
        if self.size == 1:
            return network
        if synchronized:
            synchronize(network, device)
        return DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None
        )

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the first process's running statistics to all, which then score the same network."""
        if self.size > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, src=0)


SINGLE_PROCESS = ProcessGroup()


def no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients in this context; the next backward pass outside exchanges them."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


@contextmanager
def join_process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that were launched together; yields `SINGLE_PROCESS` if there is one.

    Raises:
        ValueError: the processes cannot reach each other.
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
            f"process {os.environ['RANK']} on {socket.gethostname()} cannot reach the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({error})"
        ) from None
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
        time.sleep(GLOO_RELEASE_S)
