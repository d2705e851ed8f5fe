"""The recipe's sections `data` and `augmentation`.

They are apart from the modules that read and augment, so that settings are checked without loading
those.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .readers.coco_settings import Coco
from .readers.photos_settings import Photos
from .readers.yolo_settings import Yolo
from .settings import Settings
from .skeletons import SKELETONS


class Augmentation(Settings):
    """Ranges of the uniformly drawn view parameters. Defaults: the paper, section 4 (Training)."""

    scale: tuple[float, float] = Field(
        (0.75, 1.25), description="factor on the side of the person's box"
    )
    rotation_deg: float = Field(
        30.0, ge=0, le=180, description="largest rotation in either direction"
    )
    flip: bool = Field(True, description="flip half of the views")

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= value[0] <= value[1] <= 10:
            raise ValueError(f"expected 0.1 <= low <= high <= 10, got {value}")
        return value

    @cached_property
    def digest(self) -> int:
        """64-bit hash of the settings: the second word of the generator's key."""
        # Written out instead of dumped: neither a library's version nor a new setting at its
        # default value may change the digest. For the same reason, the text says "mirror".
        low, high = self.scale
        text = f"scale {low!r} {high!r} rotation_deg {self.rotation_deg!r} mirror {self.flip!r}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class LabelCorruption(Settings):
    """How training labels are degraded; held-out and test samples keep theirs."""

    unlabeled: float = Field(
        0.0, ge=0, lt=1, description="share of samples that lose all labels and keep their boxes"
    )
    missing: float = Field(0.0, ge=0, lt=1, description="probability that a joint loses its label")
    noise: float = Field(
        0.0, ge=0, le=1, description="std of a label's displacement, in sides of the person's box"
    )
    swapped: float = Field(
        0.0, ge=0, le=1, description="probability that a sample's left and right are swapped"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the corruption")


STORE_READER = "store"
"""The value of `data.reader` whose samples are those of the portable store."""


class Synthetic(Settings):
    """The synthetic data set: drawn people."""

    train: int = Field(2000, ge=2, description="training samples, validation included")
    test: int = Field(500, ge=1, description="test samples")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of poses and drawings")


class Lsp(Settings):
    """Leeds Sports Pose and its extension (LSPET)."""

    extension: Literal["required", "optional"] = Field(
        "required",
        description="of the reader lsp+lspet, where lspet/ is missing. required: an error. "
        "optional: LSP alone, with a note",
    )


class Folder(Settings):
    """A folder of images without labels."""

    skeleton: Literal["lsp", "mpii", "coco"] | None = Field(
        None, description="the joints of the teacher that makes the heatmaps"
    )


def needs_root(reader: str | None) -> bool:
    """Whether a reader needs `data.root`; None: the default one."""
    return reader not in (None, "synthetic", STORE_READER)


class Data(Settings):
    """Which data set, and where it is."""

    reader: Literal[
        "synthetic",
        "lsp",
        "lspet",
        "lsp+lspet",
        "mpii",
        "mpii-official",
        "pytorch-pose",
        "coco",
        "yolo",
        "folder",
        "photos",
        "store",
    ] = Field(
        "synthetic",
        description="the format (docs/data.md); store: the samples in the portable heatmap store",
    )
    root: Path | None = Field(
        None,
        description="folder that contains the data set's folders; for `folder` and `photos`, the "
        "images; for `yolo`, data.yaml",
    )
    validation: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the training samples held out to select weights; of `photos`: share "
        "of the photographs held out to compare students with their teacher",
    )
    limit: int | float | None = Field(
        None,
        description="for quick trials: number (1 or more) or share (below 1) of the training "
        "samples to use, those held out from them included; of `unlabeled_root`'s images as "
        "well. Test samples are not limited",
    )
    missing_images: Literal["refuse", "skip"] = Field(
        "refuse",
        description="samples whose image file is missing. refuse: an error. skip: left out and "
        "counted, for a part of a data set",
    )
    unlabeled_root: Path | None = Field(
        None,
        description="folder of images, as for `folder`: students with a teacher also train on them",
    )
    label_corruption: LabelCorruption = Field(
        LabelCorruption(), description="for experiments: degraded training labels"
    )
    synthetic: Synthetic = Synthetic()
    lsp: Lsp = Lsp()
    coco: Coco = Field(Coco())
    yolo: Yolo = Field(Yolo())
    folder: Folder = Field(Folder())
    photos: Photos = Field(Photos())

    @field_validator("limit", mode="before")
    @classmethod
    def _limit_is_a_number_or_a_share(cls, value: Any) -> Any:
        is_number = type(value) is int and value >= 1
        if value is None or is_number or (type(value) is float and 0 < value < 1):
            return value
        raise ValueError(
            f"expected a number of samples, 1 or more, or a share between 0 and 1, got {value!r}"
        )

    @model_validator(mode="after")
    def _reader_has_its_settings(self) -> Data:
        if needs_root(self.reader) and self.root is None:
            raise ValueError(f"data.root is needed for {self.reader}: --set data.root=FOLDER")
        if self.reader == STORE_READER and self.limit is not None:
            raise ValueError(
                "data.limit does not apply to the samples of a store (data.reader = store): limit "
                "the data set when the store is made"
            )
        if self.reader == "folder" and self.folder.skeleton is None:
            raise ValueError(
                "data.folder.skeleton is needed for folder, the teacher's joints: "
                f"--set data.folder.skeleton={'|'.join(SKELETONS)}"
            )
        if self.reader in ("folder", "photos") and self.unlabeled_root is not None:
            raise ValueError(
                f"data.unlabeled_root adds images to labeled samples: with data.reader="
                f"{self.reader}, put all images below data.root"
            )
        return self

    def absolute(self) -> Data:
        """The same settings with absolute paths, for processes in other working directories."""
        paths = {"root": self.root, "unlabeled_root": self.unlabeled_root}
        absolute_paths = {name: path.absolute() for name, path in paths.items() if path is not None}
        return self.model_copy(update=absolute_paths | {"photos": self.photos.absolute()})

    @property
    def labels(self) -> Data:
        """Of `photos`: the labeled data set whose test people serve to score students."""
        assert self.photos.labels is not None
        root = self.photos.labels_root or self.root
        return self.model_copy(update={"reader": self.photos.labels, "root": root})
