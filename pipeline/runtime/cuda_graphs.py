"""Passes through a network that a GPU replays as one CUDA graph.

PyTorch launches each of the thousands of kernels of a training step by itself. For batches of usual
sizes that takes longer than the GPU needs to run them (docs/gpu.md). A CUDA graph records the
kernels of one forward and backward pass, and launches all of them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger("fpd")

MAX_SHAPES = 4
"""Shapes of batches that are recorded. An epoch has batches of at most two sizes."""


class ReplayedNetwork(nn.Module):
    """A network whose passes over batches of a known shape are replayed.

    The first batch of each shape is run a few times to record it; batch statistics are put back
    afterwards. What comes out is valid until the next pass, and gradients until the next backward
    pass: one batch at a time, without accumulation.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes: dict[tuple[Any, ...], Callable[[Tensor], Any]] = {}
        self.pool: Any = None

    def forward(self, inputs: Tensor) -> Any:
        """What the network returns for a batch, of any shape."""
        key = (*inputs.shape, self.network.training)
        if key not in self.passes:
            self.passes[key] = self._record(inputs)
        return self.passes[key](inputs)

    def _record(self, inputs: Tensor) -> Callable[[Tensor], Any]:
        """The function to call for inputs of this shape; the network where it cannot be replayed.

        Raises:
            torch.cuda.OutOfMemoryError: there is no memory for the passes.
        """
        if len(self.passes) >= MAX_SHAPES:
            return self.network
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        # Gradients are summed up in the stream that recorded them. Waiting for it costs little.
        if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        try:
            with _buffers_kept(self.network), _autocast_without_cache():
                replayed: Callable[[Tensor], Any] = torch.cuda.make_graphed_callables(
                    _Passes(self.network), (inputs.detach().clone(),), pool=self.pool
                )
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning(
                "the network cannot be recorded as a CUDA graph and runs without (%s)",
                str(error).splitlines()[0],
            )
            return self.network
        finally:
            torch.cuda.empty_cache()  # what the runs before the recording needed
        return replayed


class _Passes(nn.Module):
    """Stands for a network, because PyTorch replaces the `forward` of what it records."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs)


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Put a network's buffers back as they were: recording runs the network several times."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)


def _autocast_without_cache() -> torch.autocast:
    """Autocast with its present settings, and no cache: a graph has to convert the weights."""
    return torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    )
