"""Runs a network on crops: normalization, forward pass, optional flip averaging."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ...data.heatmap_codec import flip_heatmaps
from ...data.views import TeacherCrop
from .preprocessing import normalize

HeatmapPredictor = Callable[..., Tensor]
"""From crops, uint8 (B, S, S, 3) RGB, to heatmaps, float32 (B, K, H, W) on the model's device.

One whose `input_crop` asks for the torso takes it, float32 (B, 2, 2), as a second argument."""


def input_crop(predictor: HeatmapPredictor) -> TeacherCrop | None:
    """The crops that a predictor is to be run on; None: the students'.

    A predictor that needs crops of its own has them as its attribute `crop`.
    """
    crop: TeacherCrop | None = getattr(predictor, "crop", None)
    return crop


def teacher_input(batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What of a batch a teacher is run on: its own crops, where they are cut, and the torsos."""
    crops = batch["teacher_crop"] if "teacher_crop" in batch else batch["crop"]
    return (crops, batch["teacher_torso"]) if "teacher_torso" in batch else (crops,)


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
