"""What a teacher is: a function from crops to heatmaps, and its specification.

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
    """A teacher's input and output. As JSON: the same keys, in `FILE.json` beside the file."""

    input: tuple[int, int] = Field(description="(height, width) of the input, pixels")
    joints: tuple[str, ...] = Field(
        min_length=1,
        description="names in order of the heatmaps: 'left eye', left_eye or L_Eye",
    )
    stride_px: int = Field(4, ge=1, le=64, description="input pixels per heatmap pixel")
    mean_rgb: Triple = Field(MEAN_RGB, description="subtracted from pixels of 0..1")
    std_rgb: Triple = Field(STD_RGB, description="pixels of 0..1 are divided by it")
    channels: Literal["rgb", "bgr"] = Field("rgb", description="order of the input's channels")
    grid: Literal["half-pixel", "corners", "origin"] = Field(
        "half-pixel",
        description="position of input pixel p in a heatmap of stride s: (p + 0.5) / s - 0.5; for "
        "corners p (heatmap - 1) / (input - 1), as in UDP (Huang et al., CVPR 2020, eq. 4); for "
        "origin p / s, as in HRNet's lib/dataset/JointsDataset.py",
    )
    peak: float = Field(1.0, gt=0, description="peak of a confident joint's heatmap")
    sigma_px: float | None = Field(
        None, gt=0, description="standard deviation of the Gaussians, heatmap pixels"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> TeacherSpec:
        if not all(16 <= side <= 2048 and side % self.stride_px == 0 for side in self.input):
            raise ValueError(
                f"expected input sides of 16 to 2048 pixels, multiples of stride_px = "
                f"{self.stride_px}, got {self.input}"
            )
        if min(self.heatmap) < 3:
            raise ValueError(f"expected heatmaps of at least 3 x 3 pixels, got {self.heatmap}")
        if not all(deviation > 0 for deviation in self.std_rgb):
            raise ValueError(f"expected std_rgb above zero, got {self.std_rgb}")
        return self

    @property
    def heatmap(self) -> tuple[int, int]:
        """(height, width) of the heatmaps, heatmap pixels."""
        height, width = self.input
        return height // self.stride_px, width // self.stride_px


class Teacher(Protocol):
    """Anything that maps crops to heatmaps.

    Attributes:
        spec: its input and output.
        digest: identifies whatever its heatmaps depend on (weights, code); a SHA-256 in
            hexadecimal, or a text of the user's choice.
    """

    @property
    def spec(self) -> TeacherSpec: ...

    @property
    def digest(self) -> str: ...

    def __call__(self, crops_B3HW: Tensor, /) -> Tensor:
        """From crops, float32 (B, 3, *spec.input), normalized and with channels as in the spec, to
        heatmaps, float (B, len(spec.joints), *spec.heatmap), on the same device.
        """
        ...


def read_spec(path: Path) -> TeacherSpec:
    """Read a spec from a JSON file.

    Raises:
        ValueError: the file is missing, or a key is missing or invalid.
    """
    if not path.is_file():
        raise ValueError(
            f'expected the teacher\'s spec in {path}, found none: write {{"input": [256, 192], '
            '"joints": ["nose", ...]}; docs/teachers.md lists all keys'
        )
    content = read_bytes(path, MAX_SPEC_BYTES, "a teacher's spec")
    try:
        return TeacherSpec.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Pydantic's errors in one line, each with its key."""
    reasons = []
    for item in error.errors():
        key = ".".join(map(str, item["loc"]))
        message = item["msg"].removeprefix("Value error, ")
        reasons.append(f"{key}: {message}" if key else message)
    return "; ".join(reasons)
