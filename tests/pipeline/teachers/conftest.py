"""A small teacher for these tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fpd.pipeline.teachers import TeacherSpec


class ConvTeacher(nn.Module):
    """A random convolution, for any spec."""

    def __init__(self, spec: TeacherSpec, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            stride = spec.stride_px
            self.conv = nn.Conv2d(3, len(spec.joints), 2 * stride - 1, stride, stride - 1)
        self.spec = spec
        self.digest = f"seed {seed}"

    def forward(self, crops_B3HW: Tensor) -> Tensor:
        heatmaps: Tensor = self.conv(crops_B3HW)
        return heatmaps
