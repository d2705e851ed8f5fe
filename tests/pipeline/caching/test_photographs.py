"""The photographs of a data set: which files its samples use, each counted once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fpd.data.io.images import ImageFolder
from fpd.data.samples import SampleSet, join
from fpd.pipeline.caching.photographs import (
    Photographs,
    image_paths,
    measure_photographs,
    read_all_splits,
)
from fpd.pipeline.config.recipe import Recipe, apply_overrides


def with_files(samples: SampleSet, folder: Path, names: list[str], image_N: list[int]) -> SampleSet:
    """As many samples as `image_N` has, whose images are files of 100, 200, ... bytes."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).write_bytes(bytes(100 * (i + 1)))
    taken = samples.take(range(len(image_N)))
    return replace(taken, images=ImageFolder(folder, names), image_N=np.array(image_N))


def test_every_file_is_counted_once(toy_samples: SampleSet, tmp_path: Path) -> None:
    train = with_files(toy_samples, tmp_path / "a", ["0.jpg", "1.jpg", "2.jpg"], [0, 0, 2])
    test = train.take([1])
    assert image_paths(train) == {tmp_path / "a" / "0.jpg", tmp_path / "a" / "2.jpg"}
    expected = Photographs(files=2, bytes=400, splits=("train", "test"))
    assert measure_photographs({"train": train, "test": test}) == expected


def test_sources_that_were_joined_are_all_counted(toy_samples: SampleSet, tmp_path: Path) -> None:
    one = with_files(toy_samples, tmp_path / "a", ["0.jpg", "1.jpg"], [1])
    other = with_files(toy_samples.take(range(5, 9)), tmp_path / "b", ["0.jpg"], [0])
    joined = join(join(one, other, "other"), toy_samples.take([10]), "drawn")
    assert image_paths(joined) == {tmp_path / "a" / "1.jpg", tmp_path / "b" / "0.jpg"}


def test_a_missing_file_has_no_size(toy_samples: SampleSet, tmp_path: Path) -> None:
    samples = with_files(toy_samples, tmp_path / "a", ["0.jpg", "1.jpg"], [0, 1])
    (tmp_path / "a" / "1.jpg").unlink()
    measured = measure_photographs({"train": samples})
    assert measured is not None
    assert (measured.files, measured.bytes) == (2, 100)


def test_drawn_images_are_no_files(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    splits = read_all_splits(toy_recipe, toy_samples)
    assert {name: len(samples) for name, samples in splits.items()} == {
        "train": 18,
        "validation": 6,
        "test": 8,
    }
    assert measure_photographs(splits) is None


def test_a_split_without_samples_is_left_out(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), ["data.validation=0"])
    assert set(read_all_splits(recipe, toy_samples)) == {"train", "test"}
