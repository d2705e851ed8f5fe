"""What a teacher is: a map from crops to heatmaps, and what has to be known of it.

Shape letters: B batch, K joints, H and W height and width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from ...data.io.files import read_bytes
from ...data.settings import Settings
from ..models.preprocessing import MEAN_RGB, STD_RGB

MAX_SPEC_BYTES = 1 << 20

Triple = tuple[float, float, float]


class TeacherSpec(Settings):
    """What a teacher takes and gives. As JSON: the same keys, beside the file, as `FILE.json`."""

    input: tuple[int, int] = Field(description="(height, width) of its input, pixels")
    joints: tuple[str, ...] = Field(
        min_length=1, description="names, in the order of its maps: 'left eye', left_eye or L_Eye"
    )
    stride_px: int = Field(4, ge=1, le=64, description="input pixels a heatmap pixel covers")
    mean_rgb: Triple = Field(MEAN_RGB, description="subtracted, of 0..1")
    std_rgb: Triple = Field(STD_RGB, description="divided by, of 0..1")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="the order that it takes them in")
    grid: Literal["half-pixel", "corners", "origin"] = Field(
        "half-pixel",
        description="where input pixel p lies on its map of stride s: (p + 0.5) / s - 0.5; corners "
        "on corners, p (map - 1) / (input - 1), as in UDP (Huang et al., CVPR 2020, eq. 4); or "
        "p / s, as in HRNet's lib/dataset/JointsDataset.py",
    )
    peak: float = Field(1.0, gt=0, description="height of the map of a joint it is sure of")
    sigma_px: float | None = Field(
        None, gt=0, description="standard deviation of its Gaussians, of its heatmap pixels"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> TeacherSpec:
        if not all(16 <= side <= 2048 and side % self.stride_px == 0 for side in self.input):
            raise ValueError(
                f"expected an input of 16 to 2048 pixels a side, multiples of stride_px = "
                f"{self.stride_px}, got {self.input}"
            )
        if min(self.heatmap) < 3:
            raise ValueError(f"expected maps of 3 pixels a side or more, got {self.heatmap}")
        if not all(deviation > 0 for deviation in self.std_rgb):
            raise ValueError(f"expected deviations above zero, got {self.std_rgb}")
        return self

    @property
    def heatmap(self) -> tuple[int, int]:
        """(height, width) of its maps, heatmap pixels."""
        height, width = self.input
        return height // self.stride_px, width // self.stride_px


class Teacher(Protocol):
    """Anything that maps crops to heatmaps.

    Attributes:
        spec: what it takes and gives.
        digest: SHA-256 in hexadecimal, of whatever decides its answers (its weights, its code).
    """

    @property
    def spec(self) -> TeacherSpec: ...

    @property
    def digest(self) -> str: ...

    def __call__(self, crops_B3HW: Tensor, /) -> Tensor:
        """From crops, float32 (B, 3, *spec.input), normalized and in the order of the spec, to
        heatmaps, float (B, len(spec.joints), *spec.heatmap) on the same device.
        """
        ...


def read_spec(path: Path) -> TeacherSpec:
    """The spec in a JSON file.

    Raises:
        ValueError: there is none, or it does not say what is needed.
    """
    if not path.is_file():
        raise ValueError(
            f'expected the teacher\'s spec in {path}, found none: write {{"input": [256, 192], '
            '"joints": ["nose", ...]}; docs/teachers.md has every key'
        )
    content = read_bytes(path, MAX_SPEC_BYTES, "a teacher's spec")
    try:
        return TeacherSpec.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Pydantic's findings in one sentence, each by its key."""
    findings = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        findings.append(f"{key}: {message}" if key else message)
    return "; ".join(findings)
