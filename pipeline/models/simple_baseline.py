"""A timm backbone with the deconvolution head of Xiao, Wu & Wei, "Simple baselines for human pose
estimation and tracking" (ECCV 2018, section 2).

    model = { name = "timm", backbone = "resnet18" }

The head: 4 x 4 deconvolutions with stride 2 and 256 channels, each followed by batch normalization
and ReLU, until the stride is 4 (three of them after a ResNet), then a 1 x 1 convolution.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .hourglass import HEAD_STD, SIGMOID_BIAS
from .settings import STRIDE_PX, TimmSettings, import_timm


@functools.cache
def check_heatmaps(settings: TimmSettings, crop_px: int) -> None:
    """Check that the network produces heatmaps for a crop, on PyTorch's shape-only `meta` device.

    A backbone's name in timm does not tell which sizes it accepts: most attention networks accept
    only the size that they were made for, and some networks have no feature maps.

    Raises:
        ValueError: it does not.
    """
    name = settings.backbone
    try:
        with torch.device("meta"), torch.no_grad():
            [heatmaps] = settings.build(1).eval()(torch.empty(1, 3, crop_px, crop_px))
    except Exception as error:  # the type depends on the network
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    else:
        if heatmaps.shape[2:] == (crop_px // STRIDE_PX,) * 2:
            return
        reason = f"its heatmaps would be {tuple(heatmaps.shape[2:])}"
    raise ValueError(
        f"timm's {name} produces no heatmaps for crops of {crop_px} x {crop_px} pixels ({reason}): "
        "expected a network that accepts images of any size, such as resnet18"
    )


def _backbone(name: str, pretrained: bool) -> Any:
    """A timm network that outputs its feature maps."""
    try:
        return import_timm().create_model(name, features_only=True, pretrained=pretrained)
    except Exception as error:  # the hub and its HTTP client have error classes of their own
        if not pretrained:
            raise
        raise ValueError(
            f"model.pretrained: expected timm's weights of {name}, downloaded or in the cache of "
            f"the Hugging Face hub (HF_HOME), found none ({error}): download them where the "
            "internet is reachable, or train from scratch with pretrained = false"
        ) from None


class SimpleBaseline(nn.Module):
    """A backbone and deconvolutions. Input and output are those of an hourglass of one stage."""

    def __init__(
        self, settings: TimmSettings, num_joints: int, *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.backbone = _backbone(settings.backbone, pretrained)
        stride, channels = (
            values[-1]
            for values in (
                self.backbone.feature_info.reduction(),
                self.backbone.feature_info.channels(),
            )
        )
        layers: list[nn.Module] = []
        while stride > STRIDE_PX:
            layers += _deconvolution(channels, settings.channels)
            stride, channels = stride // 2, settings.channels
        if stride != STRIDE_PX:
            raise ValueError(
                f"{settings.backbone}: expected a backbone with a stride of 4 to 64, got {stride}"
            )
        self.deconv = nn.Sequential(*layers)
        # `score` is the name from which the number of joints of any network is read.
        self.probabilities = settings.output == "sigmoid"
        self.score = nn.ModuleList([nn.Conv2d(channels, num_joints, 1)])
        nn.init.normal_(self.score[0].weight, std=HEAD_STD)  # type: ignore[arg-type]
        nn.init.constant_(self.score[0].bias, SIGMOID_BIAS if self.probabilities else 0.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        heatmaps: Tensor = self.score[0](self.deconv(self.backbone(x)[-1]))
        return [heatmaps.float().sigmoid() if self.probabilities else heatmaps]


def _deconvolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    up = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)
    nn.init.normal_(up.weight, std=HEAD_STD)  # lib/models/pose_resnet.py, `init_weights`
    return [up, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]
