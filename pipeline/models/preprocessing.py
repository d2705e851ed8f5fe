"""From the uint8 crops that data loaders yield to a network's input, on the network's device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# ImageNet's RGB mean and standard deviation in 0..1, as HRNet and most of the field use them.
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and 1/std on the 0-255 scale. Cached: copying them to the GPU would synchronize."""
    with torch.inference_mode(False):
        mean = torch.tensor(MEAN_RGB, device=device).mul(255)
        return mean, torch.tensor(STD_RGB, device=device).mul(255).reciprocal()


def normalize(crop_BSS3: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, S, S, 3) RGB crops to float32 (B, 3, S, S), channels last in memory."""
    mean, scale = _statistics(device)
    crop = crop_BSS3.to(device, non_blocking=True).to(torch.float32, copy=True)
    # In place: on a CPU, allocating each result can take longer than computing it.
    return crop.sub_(mean).mul_(scale).permute(0, 3, 1, 2)
