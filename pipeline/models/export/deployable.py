"""A network with its pre- and post-processing inside: from uint8 crops to joints.

Shape letters: B batch, S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....data.heatmap_codec import decode
from ..checkpoint import TrainedModel
from ..preprocessing import MEAN_RGB, STD_RGB

INPUT = "crops"
OUTPUTS = ("joints", "peaks", "heatmaps")


class ModelOutput(NamedTuple):
    """The output of a deployed model.

    Attributes:
        joints: float32 (B, K, 2), x and y in pixels of the crop, pixel centers at whole numbers.
        peaks: float32 (B, K), height of each heatmap's highest pixel.
        heatmaps: float32 (B, K, H, W).
    """

    joints: NDArray[np.float32]
    peaks: NDArray[np.float32]
    heatmaps: NDArray[np.float32]


ModelRunner = Callable[[NDArray[np.uint8]], ModelOutput]
"""Runs a model, with whatever library, on crops: uint8 (B, S, S, 3) RGB."""


class Deployable(nn.Module):
    """The network as it is exported: normalizes, predicts, decodes.

    Input: uint8 (B, S, S, 3) RGB. Output: the tensors of `ModelOutput`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        self.network = trained.network
        self.stride_px = trained.geometry.stride_px
        # The same operations as `preprocessing.normalize`, so that inputs are bit-identical.
        self.register_buffer("mean", torch.tensor(MEAN_RGB).mul(255))
        self.register_buffer("scale", torch.tensor(STD_RGB).mul(255).reciprocal())
        self.to(next(trained.network.parameters()).device).eval().requires_grad_(False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (crops.float() - self.mean) * self.scale
        heatmaps: Tensor = self.network(inputs.permute(0, 3, 1, 2))[-1].float()
        joints, peaks = decode(heatmaps)
        # Heatmap pixels to crop pixels: `Geometry.to_crop`.
        return (joints + 0.5) * self.stride_px - 0.5, peaks, heatmaps


def in_pytorch(module: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> ModelRunner:
    """Run a `Deployable`, or a program exported from one, in PyTorch on the CPU."""

    def run(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        with torch.inference_mode():
            return ModelOutput(*(t.numpy() for t in module(torch.from_numpy(crops_BSS3))))

    return run
