"""Sizes of crops and heatmaps, and the coordinates of one on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from .settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Geometry(Settings):
    """Sizes of a network's input crops and output heatmaps."""

    crop_px: int = Field(256, ge=16, le=1024, description="side of the square input crop, pixels")
    stride_px: int = Field(4, ge=1, le=16, description="crop pixels per heatmap pixel")

    @model_validator(mode="after")
    def _stride_divides(self) -> Geometry:
        if self.crop_px % self.stride_px:
            raise ValueError(f"expected crop_px a multiple of {self.stride_px}, got {self.crop_px}")
        return self

    @property
    def heatmap_px(self) -> int:
        """Side of the square heatmap, heatmap pixels."""
        return self.crop_px // self.stride_px

    def to_heatmap(self, crop_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Crop to heatmap coordinates (..., 2): pixel centers are integers on both grids."""
        return (crop_xy + 0.5) / self.stride_px - 0.5

    def to_crop(self, heatmap_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Heatmap to crop coordinates (..., 2)."""
        return (heatmap_xy + 0.5) * self.stride_px - 0.5
