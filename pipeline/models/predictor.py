"""Runs a network on crops: normalization, forward pass, optional flip averaging."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...data.heatmap_codec import flip_heatmaps
from .preprocessing import normalize

HeatmapPredictor = Callable[[Tensor], Tensor]
"""From crops, uint8 (B, S, S, 3), to the teacher's heatmaps, float32 (B, K, H, W) on its device."""


def make_predictor(
    network: nn.Module, device: torch.device, flip_indices: tuple[int, ...] | None
) -> HeatmapPredictor:
    """How a network is asked.

    Args:
        flip_indices: the skeleton's, to average each answer with its mirrored twin (at twice the
            passes): then the answer to a mirrored crop is the mirrored answer, exactly. None: not.
    """

    def predictor(crop_BSS3: Tensor) -> Tensor:
        inputs = normalize(crop_BSS3, device)
        said: Tensor = network(inputs)[-1].float()
        if flip_indices is None:
            return said
        twin = flip_heatmaps(network(inputs.flip(-1))[-1].float(), flip_indices)
        return (said + twin) / 2

    return predictor
