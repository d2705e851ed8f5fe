"""The settings of photographs without labels (`readers/photos.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from ..limits import MAX_JOINTS, MAX_NAME_CHARS, MIN_SCORE
from ..settings import Settings

LabeledReader = Literal[
    "lsp", "lspet", "lsp+lspet", "mpii", "mpii-official", "pytorch-pose", "coco", "yolo"
]


class Photos(Settings):
    """Photographs without labels, for `fpd distill`."""

    joints: tuple[str, ...] | None = Field(
        None, description="the joints that students learn; `fpd distill` sets the teacher's"
    )
    boxes: Path | None = Field(
        None,
        description="people's boxes: a CSV or JSON file, or a folder of YOLO's text files "
        "(docs/photos.md); null: the detector's, or whole photographs",
    )
    detector: str | None = Field(
        None,
        description="finds people's boxes where none are given: an ONNX file of YOLO's, or a "
        "detector of Hugging Face's, as a folder or hf:ORG/NAME",
    )
    min_score: float = Field(
        MIN_SCORE, ge=0, le=1, description="boxes with a lower score are left out"
    )
    labels: LabeledReader | None = Field(
        None,
        description="a data set whose test people serve to score students; its test photographs "
        "are not trained on; null: students are compared with their teacher",
    )
    labels_root: Path | None = Field(
        None, description="folder that contains that data set's folders; null: data.root"
    )

    @field_validator("joints")
    @classmethod
    def _joints_have_names(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if not 1 <= len(value) <= MAX_JOINTS:
            raise ValueError(f"expected 1 to {MAX_JOINTS} joints, got {len(value)}")
        if not all(0 < len(name.strip()) <= MAX_NAME_CHARS for name in value):
            raise ValueError(f"expected names of 1 to {MAX_NAME_CHARS} letters")
        from .photos import skeleton_of  # here, because it imports NumPy

        skeleton_of(value)
        return value

    def absolute(self) -> Photos:
        """The same settings with absolute paths."""
        update: dict[str, object] = {
            name: path.absolute()
            for name, path in (("boxes", self.boxes), ("labels_root", self.labels_root))
            if path is not None
        }
        if self.detector is not None and Path(self.detector).exists():
            update["detector"] = str(Path(self.detector).absolute())
        return self.model_copy(update=update)
