"""Readers: one file a format, each giving `SampleSet`s for the splits "train" and "test".

Held-out validation people are taken from the training people here, the same way for every format;
and people without labels join them here, for students whose teacher knows better.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from .corruption import LabelCorruption, corrupt_labels, labeled
from .readers import coco as _coco
from .readers import folder as _folder
from .readers import lsp as _lsp
from .readers import mpii as _mpii
from .readers import mpii_official as _mpii_official
from .readers import pytorch_pose as _pytorch_pose
from .readers.coco import Coco
from .readers.synthetic import people as _synthetic
from .samples import SampleSet, join
from .settings import Settings
from .skeletons import KNOWN
from .validation import check

Split = Literal["train", "labeled", "validation", "test"]
"""Training people; those of them that labels were made for, which is fewer where `data.unlabeled_root`
names a folder; those held out from them; test people."""


FOLDER_READERS: dict[str, Callable[[Path, str], SampleSet]] = {
    "lsp": _lsp.lsp,
    "lspet": _lsp.lspet,
    "lsp+lspet": _lsp.lsp_lspet,
    "mpii": _mpii.mpii,
    "mpii-official": _mpii_official.mpii_official,
    "pytorch-pose": _pytorch_pose.pytorch_pose,
}


class Synthetic(Settings):
    """The drawn people of the embedded data set."""

    train: int = Field(2000, ge=2, description="training people, validation included")
    test: int = Field(500, ge=1, description="test people")
    seed: int = Field(0, ge=0, lt=2**32, description="another seed draws other people")


class Folder(Settings):
    """A folder of images without labels."""

    skeleton: Literal["lsp", "mpii", "coco"] | None = Field(
        None, description="the joints of the teacher that is to teach on them"
    )


class Data(Settings):
    """Which people, from where."""

    reader: Literal[
        "synthetic",
        "lsp",
        "lspet",
        "lsp+lspet",
        "mpii",
        "mpii-official",
        "pytorch-pose",
        "coco",
        "folder",
    ] = Field("synthetic", description="the format (docs/data.md)")
    root: Path | None = Field(
        None, description="folder that holds the data set's folders; of `folder`, the images"
    )
    validation: float = Field(
        0.05, ge=0, lt=1, description="share of the training people held out to choose weights"
    )
    unlabeled_root: Path | None = Field(
        None, description="folder of images, as of `folder`: students with a teacher train on them"
    )
    label_corruption: LabelCorruption = Field(
        LabelCorruption(), description="for experiments: training labels made worse"
    )
    synthetic: Synthetic = Synthetic()
    coco: Coco = Field(Coco())
    folder: Folder = Field(Folder())

    @model_validator(mode="after")
    def _what_the_reader_needs(self) -> Data:
        if self.reader != "synthetic" and self.root is None:
            raise ValueError(f"data.root is needed for {self.reader}: --set data.root=FOLDER")
        if self.reader == "folder" and self.folder.skeleton is None:
            raise ValueError(
                "data.folder.skeleton is needed for folder, the teacher's joints: "
                f"--set data.folder.skeleton={'|'.join(KNOWN)}"
            )
        if self.reader == "folder" and self.unlabeled_root is not None:
            raise ValueError(
                "data.unlabeled_root joins labeled people: with data.reader=folder, put all images "
                "below data.root"
            )
        return self

    def absolute(self) -> Data:
        """The same data, for processes with a working directory of their own."""
        paths = {"root": self.root, "unlabeled_root": self.unlabeled_root}
        known = {name: path.absolute() for name, path in paths.items() if path is not None}
        return self.model_copy(update=known)


def load(data: Data, split: Split) -> SampleSet:
    """The people of one split, checked (`checks.check`).

    Raises:
        ValueError: files are missing or damaged, labels are impossible, or nobody is left.
    """
    return load_all(data, (split,))[split]


def load_training(data: Data, *, with_unlabeled: bool) -> dict[str, SampleSet]:
    """The "train" and "validation" people of a network, checked.

    Args:
        taught: it has a teacher, who teaches on unlabeled people, too.

    Raises:
        ValueError: as `load`.
    """
    split: Split = "train" if with_unlabeled else "labeled"
    found = load_all(data, (split, "validation"))
    return {"train": found[split], "validation": found["validation"]}


def load_all(data: Data, splits: tuple[Split, ...]) -> dict[Split, SampleSet]:
    """Several splits at once, checked: each label file is read once.

    Raises:
        ValueError: as `load`.
    """
    people = read(data, splits)
    for split, found in people.items():
        if not len(found) and split != "validation":
            name = "train" if split == "labeled" else split
            raise ValueError(f"data set {data.reader!r} has no people in its {name} split")
        check(found)
    return people


def read(data: Data, splits: tuple[Split, ...]) -> dict[Split, SampleSet]:
    """Several splits, neither checked nor refused for being empty.

    Raises:
        ValueError: a label file is missing or damaged.
    """
    source_of = {split: "test" if split == "test" else "train" for split in splits}
    sets = {source: _read(data, source) for source in dict.fromkeys(source_of.values())}
    return {split: _part(data, sets[source], split) for split, source in source_of.items()}


def _part(data: Data, people: SampleSet, split: Split) -> SampleSet:
    if split == "test":
        return people
    # Whom nobody labeled can choose no weights.
    share = 0.0 if data.reader == "folder" else data.validation
    held_out = _held_out(people, share)
    people = people.take(np.flatnonzero(held_out == (split == "validation")))
    if split == "validation":
        return people
    people = corrupt_labels(people, data.label_corruption)
    if split == "labeled" and data.label_corruption.unlabeled:
        return people.take(np.flatnonzero(labeled(people)))
    if split == "train" and data.unlabeled_root is not None:
        return join(people, _folder.folder(data.unlabeled_root, people.skeleton), "unlabeled")
    return people


def _read(data: Data, split: str) -> SampleSet:
    if data.reader == "synthetic":
        dials = data.synthetic
        return _synthetic.synthetic_people(
            split,
            dials.train if split == "train" else dials.test,
            seed=dials.seed,
        )
    assert data.root is not None
    if data.reader == "coco":
        return _coco.coco(data.root, split, data.coco)
    if data.reader == "folder":  # both splits: where nobody is labeled, nobody is scored
        return _folder.folder(data.root, KNOWN[data.folder.skeleton or ""])
    return FOLDER_READERS[data.reader](data.root, split)


def _held_out(people: SampleSet, share: float) -> np.ndarray:
    """Mask of the people whose id hashes lie in the lowest `share` of all hashes.

    Who is held out hangs on nobody else: people added to a data set move no one to and fro, and a
    store of its training people can be extended. In return the share is met only roughly.
    """
    return people.id_hash_N < np.uint64(share * 2.0**64)
