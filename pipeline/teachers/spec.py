"""What a teacher is: a function from crops to heatmaps, or what they are drawn from, and its spec.

Shape letters: B batch, K joints, H and W height and width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError, field_validator, model_validator
from torch import Tensor

from ...data.io.files import parse_json, read_bytes
from ...data.settings import Settings
from ..models.preprocessing import MEAN_RGB, STD_RGB

MAX_SPEC_BYTES = 1 << 20

Triple = tuple[float, float, float]

Head = Literal["heatmaps", "logits", "simcc", "simcc-logits", "landmarks"]
LandmarkValue = Literal["x", "y", "confidence", "confidence logit", "ignored"]

LANDMARK_SIGMA_PX = 2.0
"""Sigma of the Gaussians that are drawn for landmarks, heatmap pixels: HRNet's, at stride 4."""


OMITTED_DEFAULTS = (
    "head",
    "layout",
    "output",
    "split_ratio",
    "values",
    "coordinates",
    "box_factor",
)
"""Keys that a store's manifest has only if they are not at their defaults."""


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
        None,
        gt=0,
        description="standard deviation of the Gaussians, heatmap pixels; of SimCC, bins",
    )
    head: Head = Field(
        "heatmaps",
        description="what the network computes: heatmaps; logits, whose sigmoid they are; simcc, "
        "for each axis a Gaussian of height 1, as RTMPose's; simcc-logits, whose softmax is a "
        "distribution along each axis; landmarks, coordinates with confidences",
    )
    layout: Literal["NCHW", "NHWC"] = Field(
        "NCHW", description="order of a file's axes: channels first or last (TFLite)"
    )
    output: tuple[str, ...] = Field(
        (),
        max_length=8,
        description="name of the output of a file, or names: of simcc, those of x and y; the "
        "values of several outputs of landmarks are joined",
    )
    split_ratio: float = Field(
        2.0, gt=0, le=16, description="bins of SimCC per input pixel (mmpose: simcc_split_ratio)"
    )
    values: tuple[LandmarkValue, ...] = Field(
        ("x", "y", "confidence"), max_length=64, description="the values of a landmark, in order"
    )
    coordinates: Literal["pixels", "normalized"] = Field(
        "pixels", description="unit of landmarks: input pixels, or 0..1 across the input"
    )

    box_factor: float = Field(
        1.0,
        ge=0.5,
        le=2,
        description="side of the crops that the network is run on, relative to the person's box; "
        "they share a center",
    )
    body_points: tuple[str, str] | None = Field(
        None,
        description="of heatmaps: names of two of the joints, the center of a circle around the "
        "body, and the point of it in the direction of the head (BlazePose)",
    )

    @field_validator("output", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _values_are_complete(self) -> TeacherSpec:
        confidences = sum(value.startswith("confidence") for value in self.values)
        if not self.values.count("x") == self.values.count("y") == confidences == 1:
            raise ValueError(
                'expected "x", "y" and "confidence" or "confidence logit" once each in values, '
                f"got {list(self.values)}"
            )
        return self

    @model_validator(mode="after")
    def _body_points_are_joints(self) -> TeacherSpec:
        unknown = [name for name in self.body_points or () if name not in self.joints]
        if unknown:
            raise ValueError(f"expected names of joints in body_points, got {unknown}")
        return self

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

    @property
    def bins(self) -> tuple[int, int]:
        """Number of SimCC's bins along y and x."""
        height, width = (round(side * self.split_ratio) for side in self.input)
        return height, width

    @property
    def sigma_input_px(self) -> tuple[float, float] | None:
        """Sigma of the Gaussians along y and x, input pixels; None if it is not known."""
        if self.head in ("simcc", "simcc-logits"):
            height, width = self.input
            if self.sigma_px is not None:
                return (self.sigma_px / self.split_ratio,) * 2
            # RTMPose: 4.9, 5.66, 6 and 6.93 bins for sides of 192, 256, 288 and 384 pixels, with
            # two bins a pixel (mmpose, configs/body_2d_keypoint/rtmpose).
            return math.sqrt(height / 32), math.sqrt(width / 32)
        sigma_px = self.sigma_px
        if sigma_px is None and self.head == "landmarks":
            sigma_px = LANDMARK_SIGMA_PX
        return None if sigma_px is None else (sigma_px * self.stride_px,) * 2

    def manifest_entry(self, *, with_body_points: bool = False) -> dict[str, Any]:
        """The spec as JSON, as a store's manifest holds it.

        Keys that earlier versions did not have are left out at their defaults, so the entries in
        their stores stay the same.

        Args:
            with_body_points: whether the heatmaps depend on them.
        """
        entry = self.model_dump(mode="json")
        if not with_body_points:
            del entry["body_points"]
        for key in OMITTED_DEFAULTS:
            if getattr(self, key) == type(self).model_fields[key].default:
                del entry[key]
        return entry


class Teacher(Protocol):
    """Anything that maps crops to heatmaps, or to what `heads` draws heatmaps from.

    Attributes:
        spec: its input and output.
        digest: identifies whatever its heatmaps depend on (weights, code); a SHA-256 in
            hexadecimal, or a text of the user's choice.
    """

    @property
    def spec(self) -> TeacherSpec: ...

    @property
    def digest(self) -> str: ...

    def __call__(self, crops_B3HW: Tensor, /) -> Tensor | tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            crops_B3HW: float32 (B, 3, *spec.input), normalized and with channels as in the spec.

        Returns:
            On the same device, by `spec.head`: heatmaps, or their logits, float (B, K,
            *spec.heatmap), for the K joints of `spec.joints`; of SimCC (x, y), float
            (B, K, spec.bins[1]) and (B, K, spec.bins[0]); landmarks, float (B, K,
            len(spec.values)).
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
    return complete_spec(path, {})


def complete_spec(path: Path, known: Mapping[str, Any]) -> TeacherSpec:
    """A spec of what is known of a file, and of what the JSON file `path` states, if there is one.

    Args:
        known: keys of the spec; those in the JSON file override them.

    Raises:
        ValueError: a key is missing in both, or invalid.
    """
    stated: Any = {}
    if path.is_file():
        content = read_bytes(path, MAX_SPEC_BYTES, "a teacher's spec")
        stated = parse_json(path, content, "a teacher's spec")
        if not isinstance(stated, dict):
            raise ValueError(f"{path}: expected a JSON object with the keys of docs/teachers.md")
    try:
        # As JSON: pydantic then accepts a list for a tuple, and no text for a number.
        return TeacherSpec.model_validate_json(json.dumps({**known, **stated}))
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
