"""The settings of data sets in COCO's format (`readers/coco.py`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ..settings import Settings, check_inside

HELD_OUT = "held-out"
"""The value of `data.coco.test` where there is one file for both splits."""


class Coco(Settings):
    """A data set in COCO's format."""

    folder: str = Field(
        "coco", description="folder in data.root that has the files below; `.`: data.root itself"
    )
    train: str = Field(
        "person_keypoints_train2017.json",
        description="file in its folder annotations/, or else its path in the folder",
    )
    test: str = Field(
        "person_keypoints_val2017.json",
        description="as `train`; held-out: a tenth of the training file's images, by their names",
    )
    train_images: str = Field("images/train2017", description="folder in `folder`")
    test_images: str = Field("images/val2017", description="folder in `folder`")
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

    @field_validator("folder", "train", "test", "train_images", "test_images")
    @classmethod
    def _inside(cls, value: str) -> str:
        return check_inside(value, "data.root")

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
