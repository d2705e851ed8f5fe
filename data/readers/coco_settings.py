"""The settings of data sets in COCO's format (`readers/coco.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ..settings import Settings


class Coco(Settings):
    """A data set in COCO's format."""

    train: str = Field("person_keypoints_train2017.json", description="file in coco/annotations/")
    test: str = Field("person_keypoints_val2017.json", description="file in coco/annotations/")
    train_images: str = Field("images/train2017", description="folder in coco/")
    test_images: str = Field("images/val2017", description="folder in coco/")
    category: str | None = Field(
        None, description="category to use; not set: the only one with keypoints"
    )
    min_keypoints: int = Field(
        1,
        ge=0,
        description="least number of labeled joints of a sample; 0: also those without labels",
    )
    flip: tuple[tuple[str, str], ...] | Literal["none"] | None = Field(
        None,
        description="pairs of joints that a flip swaps, or none; not set: joints whose names "
        "differ in left and right",
    )
    sigmas: tuple[float, ...] | dict[str, float] | None = Field(
        None,
        description="OKS's tolerance of each joint, in the files' order or by name; not set: "
        "COCO's for COCO's joints",
    )

    @field_validator("train", "test", "train_images", "test_images")
    @classmethod
    def _inside(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts or not value:
            raise ValueError("expected a name inside data.root/coco")
        return value

    @field_validator("sigmas")
    @classmethod
    def _positive(
        cls, value: tuple[float, ...] | dict[str, float] | None
    ) -> tuple[float, ...] | dict[str, float] | None:
        numbers = value.values() if isinstance(value, dict) else value or ()
        if not all(0 < sigma <= 1 for sigma in numbers):
            raise ValueError(
                "expected numbers above 0 and up to 1, such as COCO's 0.025 for an eye"
            )
        return value
