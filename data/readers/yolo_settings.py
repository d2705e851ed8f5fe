"""The settings of YOLO's folders of poses (`readers/yolo.py`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ..settings import Settings, check_inside


class Yolo(Settings):
    """A folder of poses as Ultralytics' YOLO trains on it."""

    file: str = Field("data.yaml", description="file in data.root that describes the data set")
    test: Literal["val", "test", "held-out"] = Field(
        "val",
        description="the file's list of images that scores are computed on; held-out: a tenth of "
        "those in `train`, by their names",
    )
    category: str | None = Field(
        None, description="class to use, by its name; not set: all, which share their keypoints"
    )
    min_keypoints: int = Field(
        1,
        ge=0,
        description="least number of labeled joints of a sample; 0: also those without labels",
    )

    @field_validator("file")
    @classmethod
    def _inside(cls, value: str) -> str:
        return check_inside(value, "data.root")
