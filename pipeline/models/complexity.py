"""The cost of a network: parameters, multiply-accumulates, milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..runtime.timing import median_ms
from .networks import AnyModel


def count(model: AnyModel, num_joints: int, crop_px: int) -> tuple[int, float]:
    """(parameters, GMACs) of a network, without allocating its weights or computing anything.

    GMACs are 1e9 multiply-accumulates of the convolutions and matrix products, for one crop.
    """
    with torch.device("meta"):
        network = model.build(num_joints).eval()
        crop = torch.empty(1, 3, crop_px, crop_px)
        gmacs = count_gmacs(lambda: network(crop))
    return sum(p.numel() for p in network.parameters()), gmacs


def count_gmacs(task: Callable[[], object]) -> float:
    """1e9 multiply-accumulates of the convolutions and matrix products that a call runs."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        task()
    # The counter reports floating-point operations: two per multiply-accumulate.
    return counter.get_total_flops() / 2 / 1e9


def latency_ms(network: nn.Module, crop_px: int, device: torch.device) -> float:
    """Median milliseconds of a forward pass at batch size 1 (see `runtime.timing.median_ms`)."""
    crop = torch.rand(1, 3, crop_px, crop_px, device=device)
    return median_ms(lambda: network(crop), device)
