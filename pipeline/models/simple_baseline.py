"""A timm backbone with the deconvolution head of Xiao, Wu & Wei, "Simple baselines for human pose
estimation and tracking" (ECCV 2018, section 2).

    model = { name = "timm", backbone = "resnet18" }

The head: 4 x 4 deconvolutions with stride 2 and 256 channels, each followed by batch normalization
and ReLU, until the stride is 4 (three of them after a ResNet), then a 1 x 1 convolution.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ...data.settings import Settings
from .hourglass import HEAD_STD, SIGMOID_BIAS, STRIDE_PX

BACKBONE_STRIDE_PX = 32
"""The stride of ResNets and most other backbones: the crop's side must be a multiple of it."""


class TimmSettings(Settings):
    """A timm backbone and the head. The paper: resnet50 to resnet152, 256 channels."""

    name: Literal["timm"]
    backbone: str = Field(
        min_length=1, pattern=r"^[\w.]+$", description="a name from timm.list_models()"
    )
    channels: int = Field(256, ge=8, le=1024, description="channels of the head")
    output: Literal["linear", "sigmoid"] = Field("linear", description="as for an hourglass")
    pretrained: bool = Field(
        False,
        description="start from timm's weights of the backbone (mostly trained on ImageNet), "
        "downloaded from the Hugging Face hub or read from its cache, HF_HOME",
    )

    @model_validator(mode="after")
    def _timm_has_it(self) -> TimmSettings:
        timm = _timm()
        if not timm.is_model(self.backbone):
            like = ", ".join(timm.list_models(f"*{self.backbone[:6]}*")[:5]) or "resnet18, ..."
            raise ValueError(f"timm has no {self.backbone}: expected {like}, for example")
        return self

    def check_crop(self, crop_px: int, stride_px: int) -> None:
        """Refuse a crop size that the backbone cannot take, and a backbone without feature maps.

        Raises:
            ValueError: the message states which crop sizes fit, or why the backbone fails.
        """
        if stride_px != STRIDE_PX:
            raise ValueError(f"expected geometry.stride_px = {STRIDE_PX} for a timm network")
        if crop_px % BACKBONE_STRIDE_PX:
            raise ValueError(
                f"expected geometry.crop_px a multiple of {BACKBONE_STRIDE_PX} for a timm network, "
                f"got {crop_px}"
            )
        _check_heatmaps(self, crop_px)

    def min_batch_size(self, crop_px: int) -> int:
        """Smallest batch of a training step: batch statistics of one pixel need a second sample."""
        return 2 if crop_px == BACKBONE_STRIDE_PX else 1

    def build(self, num_joints: int) -> SimpleBaseline:
        """A newly initialized network with one heatmap for each of `num_joints` joints."""
        return SimpleBaseline(self, num_joints)

    def start(self, num_joints: int) -> SimpleBaseline:
        """The network that training starts from: `build`'s, with a pretrained backbone if set.

        Raises:
            ValueError: the pretrained weights are neither cached nor downloadable.
        """
        return SimpleBaseline(self, num_joints, pretrained=self.pretrained)


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision was built for another torch
        raise ValueError(
            f"expected timm, for model.name = timm, found none that can be imported ({error}): pip "
            "install -e '.[timm]', with a torchvision of the same release as torch"
        ) from None
    return timm


@functools.cache
def _check_heatmaps(settings: TimmSettings, crop_px: int) -> None:
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
        return _timm().create_model(name, features_only=True, pretrained=pretrained)
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
