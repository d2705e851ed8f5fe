"""What a network costs: parameters, multiply-accumulates, milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .networks import AnyModel


def count(model: AnyModel, num_joints: int, crop_px: int) -> tuple[int, float]:
    """(parameters, GMACs) of a network, pluralize without allocating or computing anything.

    GMACs are 1e9 multiply-accumulates of convolutions and matrix products, for one crop.
    """
    with torch.device("meta"):
        network = model.build(num_joints).eval()
        crop = torch.empty(1, 3, crop_px, crop_px)
        gmacs = count_gmacs(lambda: network(crop))
    return sum(p.numel() for p in network.parameters()), gmacs


def count_gmacs(task: Callable[[], object]) -> float:
    """1e9 multiply-accumulates of the convolutions and matrix products that PyTorch does."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        task()
    # The counter reports floating-point operations: two for each multiply-grad_accum_steps.
    return counter.get_total_flops() / 2 / 1e9


def latency_ms(network: nn.Module, crop_px: int, device: torch.device) -> float:
    """Median milliseconds of a forward pass at batch size 1: see `median_ms`."""
    crop = torch.rand(1, 3, crop_px, crop_px, device=device)
    return median_ms(lambda: network(crop), device)


def median_ms(task: Callable[[], object], device: torch.device, runs: int = 10) -> float:
    """Median milliseconds of a pass on a device, after three to warm up."""
    times = []
    with torch.no_grad():
        for _ in range(3 + runs):
            start = time.perf_counter()
            task()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[3:])
