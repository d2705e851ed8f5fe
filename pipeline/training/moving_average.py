"""An exponential moving average of a network's weights and batch statistics."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """PyTorch's averaged model, updated without waiting for the device.

    PyTorch's own update copies a counter to the GPU, and averages the integer buffers (counters of
    batch normalizations) one by one; here they are copied from the network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start at the network's weights, which the first update copies again."""
        super().__init__(network, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the network's current weights: average = decay x average + (1 - decay) x weights."""
        weight = 1.0 if self.n_averaged == 0 else 1 - self.decay
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], weight)
        if others:
            torch._foreach_copy_([a for a, _ in others], [b for _, b in others])
        self.n_averaged += 1


def _tensors(network: nn.Module) -> list[Tensor]:
    return list(chain(network.parameters(), network.buffers()))
