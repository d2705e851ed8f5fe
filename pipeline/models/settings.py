"""The settings of the networks: kind, size, and the crops that they can take.

The networks are imported where one is built: settings are checked without waiting for PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ...data.settings import Settings

if TYPE_CHECKING:
    from .hourglass import Hourglass
    from .simple_baseline import SimpleBaseline

STRIDE_PX = 4
"""Input pixels per heatmap pixel: the stem halves the resolution twice."""

BACKBONE_STRIDE_PX = 32
"""The stride of ResNets and most other backbones: the crop's side must be a multiple of it."""


class HourglassSettings(Settings):
    """Size and variant of the network. The paper: teacher 8 x 256, student 4 x 128 (Table 1)."""

    name: Literal["hourglass"] = "hourglass"
    stages: int = Field(4, ge=1, le=16, description="hourglasses in sequence, each supervised")
    channels: int = Field(128, ge=8, le=1024, description="feature channels of an hourglass")
    stem: Literal["newell", "ports"] = Field(
        "newell", description="fixed 64 -> 128 channels, or channels/4 -> channels/2 -> channels"
    )
    blocks: int = Field(1, ge=1, le=8, description="residual blocks at each place in an hourglass")
    depth: int = Field(4, ge=1, le=6, description="times that an hourglass halves its resolution")
    output: Literal["linear", "sigmoid"] = Field(
        "linear", description="heatmaps as the heads output them, or after a sigmoid, within 0..1"
    )

    @model_validator(mode="after")
    def _channels_split(self) -> HourglassSettings:
        if self.channels % 4:
            raise ValueError(f"expected channels a multiple of 4, got {self.channels}")
        return self

    def check_crop(self, crop_px: int, stride_px: int) -> None:
        """Refuse a crop size that cannot be halved `depth` times after the stem.

        Raises:
            ValueError: the geometry does not fit; the message states which do.
        """
        step = STRIDE_PX << self.depth
        if stride_px != STRIDE_PX:
            raise ValueError(f"expected geometry.stride_px = {STRIDE_PX} for an hourglass network")
        if crop_px % step:
            raise ValueError(
                f"expected geometry.crop_px a multiple of {step} for an hourglass of depth "
                f"{self.depth}, got {crop_px}"
            )

    def min_batch_size(self, crop_px: int) -> int:
        """Smallest batch of a training step: batch statistics of one pixel need a second sample."""
        return 2 if crop_px == STRIDE_PX << self.depth else 1

    def build(self, num_joints: int) -> Hourglass:
        """A newly initialized network with one heatmap for each of `num_joints` joints."""
        from .hourglass import Hourglass

        return Hourglass(self, num_joints)

    def start(self, num_joints: int) -> Hourglass:
        """The network that training starts from: `build`'s."""
        return self.build(num_joints)


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
        timm = import_timm()
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
        from .simple_baseline import check_heatmaps

        check_heatmaps(self, crop_px)

    def min_batch_size(self, crop_px: int) -> int:
        """Smallest batch of a training step: batch statistics of one pixel need a second sample."""
        return 2 if crop_px == BACKBONE_STRIDE_PX else 1

    def build(self, num_joints: int) -> SimpleBaseline:
        """A newly initialized network with one heatmap for each of `num_joints` joints."""
        from .simple_baseline import SimpleBaseline

        return SimpleBaseline(self, num_joints)

    def start(self, num_joints: int) -> SimpleBaseline:
        """The network that training starts from: `build`'s, with a pretrained backbone if set.

        Raises:
            ValueError: the pretrained weights are neither cached nor downloadable.
        """
        from .simple_baseline import SimpleBaseline

        return SimpleBaseline(self, num_joints, pretrained=self.pretrained)


def import_timm() -> Any:
    """The timm package.

    Raises:
        ValueError: it cannot be imported.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision was built for another torch
        raise ValueError(
            f"expected timm, for model.name = timm, found none that can be imported ({error}): "
            "`pip install 'fast-pose-distillation[timm]'`, with a torchvision of torch's release "
            "and build (CPU or CUDA)"
        ) from None
    return timm
