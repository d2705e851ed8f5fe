"""Readers: one file a format, each giving `SampleSet`s for the splits "train" and "test".

Held-out validation people are taken from the training people here, the same way for every format.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ..checks import check
from ..samples import SampleSet
from ..settings import Settings
from . import figures as _figures
from . import lsp as _lsp
from . import mpii as _mpii

Split = Literal["train", "validation", "test"]

FOLDER_READERS: dict[str, Callable[[Path, str], SampleSet]] = {
    "lsp": _lsp.lsp,
    "lspet": _lsp.lspet,
    "lsp+lspet": _lsp.lsp_lspet,
    "mpii": _mpii.mpii,
}


class Figures(Settings):
    """The drawn people of the embedded data set."""

    train: int = Field(2000, ge=2, description="training people, validation included")
    test: int = Field(500, ge=1, description="test people")
    seed: int = Field(0, ge=0, lt=2**32, description="another seed draws other people")
    label_noise: float = Field(
        0.0, ge=0, le=1, description="std of training labels' displacement, in torso lengths"
    )
    missing_labels: float = Field(
        0.0, ge=0, lt=1, description="probability that a training joint is not labelled"
    )


class Data(Settings):
    """Which people, from where."""

    reader: Literal["figures", "lsp", "lspet", "lsp+lspet", "mpii"] = Field(
        "figures", description="the format"
    )
    root: Path | None = Field(None, description="folder that holds the data set's folders")
    validation: float = Field(
        0.05, ge=0, lt=1, description="share of the training people held out to choose weights"
    )
    figures: Figures = Figures()

    @model_validator(mode="after")
    def _root_where_needed(self) -> Data:
        if self.reader != "figures" and self.root is None:
            raise ValueError(f"data.root is needed for {self.reader}: --set data.root=FOLDER")
        return self


def load(data: Data, split: Split) -> SampleSet:
    """The people of one split, checked (`checks.check`).

    Raises:
        ValueError: files are missing or damaged, labels are impossible, or nobody is left.
    """
    people = _read(data, "test" if split == "test" else "train")
    if split != "test":
        held_out = _held_out(people, data.validation)
        people = people.take(np.flatnonzero(held_out == (split == "validation")))
    if not len(people) and split != "validation":
        raise ValueError(f"data set {data.reader!r} has no people in its {split} split")
    check(people)
    return people


def _read(data: Data, split: str) -> SampleSet:
    if data.reader == "figures":
        dials = data.figures
        return _figures.figures(
            split,
            dials.train if split == "train" else dials.test,
            seed=dials.seed,
            label_noise=dials.label_noise,
            missing_labels=dials.missing_labels,
        )
    assert data.root is not None
    return FOLDER_READERS[data.reader](data.root, split)


def _held_out(people: SampleSet, share: float) -> np.ndarray:
    """Mask of the people whose id hashes lie in the lowest `share` of all hashes.

    Who is held out hangs on nobody else: people added to a data set move no one to and fro, and a
    store of its training people can be extended. In return the share is met only roughly.
    """
    return people.id_hash_N < np.uint64(share * 2.0**64)
