"""The size on disk of the photographs that samples are cut from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.datasets import Split, read_splits
from ...data.io.images import ImageFolder
from ...data.samples import ImageSource, JoinedImages, SampleSet
from ..config.recipe import Recipe


@dataclass(frozen=True)
class Photographs:
    """The image files of a data set.

    Attributes:
        files, bytes: number and size of the files that the samples use, each counted once.
        splits: whose samples were counted.
    """

    files: int
    bytes: int
    splits: tuple[str, ...]


def measure_photographs(splits: Mapping[str, SampleSet]) -> Photographs | None:
    """The image files of all samples of some splits; None: the images are not files."""
    paths = set().union(*map(image_paths, splits.values()))
    return Photographs(len(paths), _total_bytes(paths), tuple(splits)) if paths else None


def read_all_splits(recipe: Recipe, samples: SampleSet) -> dict[str, SampleSet]:
    """The samples of every split of which the data set has any.

    Args:
        samples: the training samples.
    """
    splits: dict[Split, SampleSet] = {"train": samples}
    held_out: tuple[Split, ...] = ("validation", "test")
    for name in held_out:
        with suppress(ValueError):  # a data set may have no test samples
            splits |= read_splits(recipe.data, (name,))
    return {name: held for name, held in splits.items() if len(held)}


def image_paths(samples: SampleSet) -> set[Path]:
    """The files of the samples' images; those that are drawn, or crops in a store, have none."""
    return _paths(samples.images, np.unique(samples.image_N))


def _paths(images: ImageSource, indices: NDArray[np.int64]) -> set[Path]:
    if isinstance(images, ImageFolder):
        return {images.path(index) for index in indices.tolist()}
    if not isinstance(images, JoinedImages):
        return set()
    parts = np.searchsorted(images.starts, indices, side="right") - 1
    return set().union(
        *(
            _paths(source, indices[parts == part] - images.starts[part])
            for part, source in enumerate(images.sources)
        )
    )


def _total_bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        with suppress(OSError):  # missing images are reported where samples are checked
            total += path.stat().st_size
    return total
