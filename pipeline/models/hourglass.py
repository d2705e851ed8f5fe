"""The stacked hourglass (Newell, Yang & Deng, ECCV 2016) that the paper distills (section 3.1).

Parameter names are those of the public PyTorch ports (bearpaw/pytorch-pose,
ilovepose/fast-human-pose-estimation.pytorch), so that their state dicts load without changes into
a network with the `ports` stem.

Shape letters: B batch, C channels, H and W height and width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from .settings import HourglassSettings

# Standard deviation of the head's initial weights, so that a new network's heatmaps are near zero
# (as in the code of Xiao et al., ECCV 2018). With PyTorch's default they start as noise with ten
# times the targets' energy, which the first epochs have to remove (docs/experiments.md).
HEAD_STD = 1e-3

SIGMOID_BIAS = -math.log(99)
"""Initial bias of a sigmoid head: heatmaps start at 0.01 (Lin et al., ICCV 2017, section 4.1)."""


class StemWidths(NamedTuple):
    """Output channels of the stem's layers."""

    first: int  # the 7 x 7 convolution
    layer1: int
    layer2: int
    layer3: int


def stem_widths(settings: HourglassSettings) -> StemWidths:
    """Output channels of the stem; Newell's are fixed, the ports' scale with `channels`."""
    channels = settings.channels
    if settings.stem == "newell":
        return StemWidths(64, 128, 128, channels)
    return StemWidths(channels // 4, channels // 2, channels, channels)


class Bottleneck(nn.Module):
    """Pre-activation residual block: 1 x 1 to half the width, 3 x 3, 1 x 1 (He et al., 2016)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, channels_out, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if channels_in != channels_out:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        out = self.conv3(self.relu(self.bn3(out)))
        residual: Tensor = x if self.downsample is None else self.downsample(x)
        return out + residual


def _residual(channels_in: int, channels_out: int, blocks: int) -> nn.Sequential:
    rest = (Bottleneck(channels_out, channels_out) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(channels_in, channels_out), *rest)


class SingleHourglass(nn.Module):
    """One hourglass: down to 1 / 2**depth of the resolution and up again, with skip connections."""

    def __init__(self, channels: int, blocks: int, depth: int) -> None:
        super().__init__()
        # hg[level] holds: skip, down, up; the innermost level also the bottom.
        self.hg = nn.ModuleList(
            nn.ModuleList(
                _residual(channels, channels, blocks) for _ in range(4 if level == 0 else 3)
            )
            for level in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._level(len(self.hg) - 1, x)

    def _level(self, level: int, x: Tensor) -> Tensor:
        modules = self.hg[level]
        assert isinstance(modules, nn.ModuleList)
        low = modules[1](functional.max_pool2d(x, 2))
        low = self._level(level - 1, low) if level else modules[3](low)
        up: Tensor = functional.interpolate(modules[2](low), scale_factor=2.0, mode="nearest")
        skip: Tensor = modules[0](x)
        return skip + up


class Hourglass(nn.Module):
    """The stacked network.

    Input: float (B, 3, S, S), normalized (`preprocessing`). Output: a list, one entry per stage, of
    heatmaps, float (B, num_joints, S / 4, S / 4); the last is the prediction.
    """

    def __init__(self, settings: HourglassSettings, num_joints: int) -> None:
        super().__init__()
        widths, channels, stages = stem_widths(settings), settings.channels, settings.stages
        self.probabilities = settings.output == "sigmoid"
        self.conv1 = nn.Conv2d(3, widths.first, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(widths.first)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _residual(widths.first, widths.layer1, 1)
        self.layer2 = _residual(widths.layer1, widths.layer2, 1)
        self.layer3 = _residual(widths.layer2, widths.layer3, 1)
        self.hg = nn.ModuleList(
            SingleHourglass(channels, settings.blocks, settings.depth) for _ in range(stages)
        )
        self.res = nn.ModuleList(
            _residual(channels, channels, settings.blocks) for _ in range(stages)
        )
        self.fc = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), self.relu)
            for _ in range(stages)
        )
        self.score = nn.ModuleList(nn.Conv2d(channels, num_joints, 1) for _ in range(stages))
        for head in self.score:
            assert isinstance(head, nn.Conv2d) and head.bias is not None
            nn.init.normal_(head.weight, std=HEAD_STD)
            nn.init.constant_(head.bias, SIGMOID_BIAS if self.probabilities else 0.0)
        self.fc_ = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(stages - 1))
        self.score_ = nn.ModuleList(nn.Conv2d(num_joints, channels, 1) for _ in range(stages - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(self.layer1(x), 2)
        x = self.layer3(self.layer2(x))
        heatmaps = []
        for stage, hourglass in enumerate(self.hg):
            features = self.fc[stage](self.res[stage](hourglass(x)))
            heatmaps.append(self.score[stage](features))
            if stage < len(self.fc_):
                x = x + self.fc_[stage](features) + self.score_[stage](heatmaps[-1])
        return [h.float().sigmoid() for h in heatmaps] if self.probabilities else heatmaps
