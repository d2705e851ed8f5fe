"""What a network costs: parameters, multiply-accumulates, milliseconds."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from . import HourglassSettings, TimmSettings


def count(
    model: HourglassSettings | TimmSettings, num_joints: int, crop_px: int
) -> tuple[int, float]:
    """(parameters, GMACs) of a network, counted without allocating or computing anything.

    GMACs are 1e9 multiply-accumulates of convolutions and matrix products, for one crop.
    """
    with torch.device("meta"):
        network = model.build(num_joints).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, 3, crop_px, crop_px))
    # The counter reports floating-point operations: two for each multiply-accumulate.
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2 / 1e9


def latency_ms(network: nn.Module, crop_px: int, device: torch.device, runs: int = 10) -> float:
    """Median milliseconds of a forward pass at batch size 1, after three to warm up."""
    crop = torch.rand(1, 3, crop_px, crop_px, device=device)
    times = []
    with torch.no_grad():
        for _ in range(3 + runs):
            start = time.perf_counter()
            network(crop)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[3:])
