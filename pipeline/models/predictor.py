"""Runs a network on crops: normalization, forward pass, optional flip averaging."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...data.heatmap_codec import flip_heatmaps
from .preprocessing import normalize

HeatmapPredictor = Callable[[Tensor], Tensor]
"""From crops, uint8 (B, S, S, 3) RGB, to heatmaps, float32 (B, K, H, W) on the model's device."""


def input_px(predictor: HeatmapPredictor) -> int | None:
    """Side of the crops that a predictor is to be run on, pixels; None: that of the students'.

    A predictor that needs crops of its own size has it as its attribute `crop_px`.
    """
    size: int | None = getattr(predictor, "crop_px", None)
    return size


def teacher_input(batch: Mapping[str, Tensor]) -> Tensor:
    """The crops of a batch that a teacher is run on: of its own size, where they are cut."""
    return batch["teacher_crop"] if "teacher_crop" in batch else batch["crop"]


def make_predictor(
    network: nn.Module, device: torch.device, flip_indices: tuple[int, ...] | None
) -> HeatmapPredictor:
    """Make a predictor of a network.

    Args:
        flip_indices: the skeleton's, to average the heatmaps of each crop with those of its flipped
            copy, at twice the cost; the heatmaps of a flipped crop are then exactly the flipped
            heatmaps. None: no averaging.
    """

    def predictor(crop_BSS3: Tensor) -> Tensor:
        inputs = normalize(crop_BSS3, device)
        heatmaps: Tensor = network(inputs)[-1].float()
        if flip_indices is None:
            return heatmaps
        unflipped = flip_heatmaps(network(inputs.flip(-1))[-1].float(), flip_indices)
        return (heatmaps + unflipped) / 2

    return predictor
