"""From crops as the loader carries them to what a network takes, on the network's device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# ImageNet's RGB mean and standard deviation in 0..1, as HRNet and most of the field use them.
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation, of 255; kept, for to bring them to a GPU waits for it."""
    with torch.inference_mode(False):
        mean = torch.tensor(MEAN_RGB, device=device).mul(255)
        return mean, torch.tensor(STD_RGB, device=device).mul(255).reciprocal()


def normalize(crop_BSS3: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, S, S, 3) RGB crops to float32 (B, 3, S, S), channels last in memory."""
    mean, scale = _statistics(device)
    crop = crop_BSS3.to(device, non_blocking=True).to(torch.float32, copy=True)
    # In place: memory for every step's result may take a CPU longer than the step.
    return crop.sub_(mean).mul_(scale).permute(0, 3, 1, 2)
