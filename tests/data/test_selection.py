"""Parts of a data set: a limit, images that are missing, held-out images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fpd.data.datasets import load, read_splits
from fpd.data.io.images import ImageFolder
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.sections import Data, Synthetic
from fpd.data.selection import held_out_images, limited, without_missing_images

ALL = synthetic_samples("train", 60)
DATA = Data(synthetic=Synthetic(train=400, test=20), validation=0.25)


def test_a_number_and_a_share_of_samples_in_their_order() -> None:
    for limit, count in ((1, 1), (15, 15), (0.25, 15), (0.001, 1), (59, 59)):
        samples = limited(ALL, limit)
        assert len(samples) == count
        indices = [ALL.ids.index(name) for name in samples.ids]
        assert indices == sorted(indices)
    assert limited(ALL, None) is ALL and limited(ALL, 60) is ALL and limited(ALL, 1000) is ALL


def test_the_selection_depends_on_ids_alone_and_grows_with_the_limit() -> None:
    few, many = set(limited(ALL, 10).ids), set(limited(ALL, 20).ids)
    assert few < many
    shuffled = ALL.take(np.random.default_rng(0).permutation(60))
    assert set(limited(shuffled, 10).ids) == few


def test_the_limit_is_stated() -> None:
    (tally,) = limited(ALL, 0.25).tallies
    assert str(tally) == (
        "60 people in the samples of synthetic/train, 15 kept; left out: 45 over data.limit = 0.25"
    )


def test_held_out_samples_are_part_of_the_limit_and_test_samples_are_not() -> None:
    whole = read_splits(DATA, ("train", "validation", "test"))
    part = read_splits(DATA.model_copy(update={"limit": 200}), ("train", "validation", "test"))
    assert len(part["train"]) + len(part["validation"]) == 200
    # The hash of the limit is not that of the held-out share: a quarter, within 4 sigma.
    assert abs(len(part["validation"]) - 50) < 4 * np.sqrt(200 * 0.25 * 0.75)
    assert set(part["validation"].ids) < set(whole["validation"].ids)
    assert part["test"].fingerprint() == whole["test"].fingerprint()


def test_caching_and_training_have_the_same_samples() -> None:
    data = DATA.model_copy(update={"limit": 0.1})
    assert load(data, "train").fingerprint() == load(data, "train").fingerprint()
    assert load(data, "train").ids == load(data, "labeled").ids


def test_unlabeled_images_are_limited_as_well(tmp_path) -> None:
    for number in range(8):
        Image.new("RGB", (90, 90)).save(tmp_path / f"{number}.png")
    data = DATA.model_copy(update={"unlabeled_root": tmp_path, "validation": 0.0, "limit": 5})
    samples = load(data, "train")
    assert len(samples) == 10 and sum(name.startswith("folder/") for name in samples.ids) == 5


@pytest.mark.parametrize("limit", [0, -1, 1.0, 0.0, 1.5, True, "x"])
def test_impossible_limits_are_refused(limit) -> None:
    with pytest.raises(
        ValidationError, match="expected a number of samples, 1 or more, or a share"
    ):
        Data(limit=limit)


def test_the_samples_of_a_store_have_no_limit() -> None:
    with pytest.raises(ValidationError, match="limit the data set when the store is made"):
        Data(reader="store", limit=0.5)


def test_photographs_are_limited_and_held_out_ones_are_not(tmp_path) -> None:
    for number in range(12):
        Image.new("RGB", (90, 90)).save(tmp_path / f"{number}.png")
    data = Data(reader="photos", root=tmp_path, validation=0.3, photos={"joints": ["nose"]})
    whole = read_splits(data, ("train", "test"))
    part = read_splits(data.model_copy(update={"limit": 2}), ("train", "test"))
    assert len(part["train"]) == 2 and set(part["train"].ids) < set(whole["train"].ids)
    assert part["test"].ids == whole["test"].ids


def folder_of(root: Path, *names: str) -> ImageFolder:
    for name in names:
        (root / name).touch()
    return ImageFolder(root, ["a.jpg", "b.jpg", "c.jpg"])


def test_samples_of_missing_images_are_left_out(make_samples, tmp_path) -> None:
    images = folder_of(tmp_path, "a.jpg", "c.jpg")
    samples = without_missing_images(make_samples(np.ones((3, 14, 2)), images))
    assert samples.image_N.tolist() == [0, 2]
    assert dict(samples.tallies[-1].left_out) == {"whose image is missing": 1}


def test_names_that_no_file_can_have_are_missing(make_samples, tmp_path) -> None:
    samples = make_samples(np.ones((1, 14, 2)), ImageFolder(tmp_path, ["a" * 5000]))
    assert len(without_missing_images(samples)) == 0


def test_nothing_is_noted_where_nothing_is_missing(make_samples, tmp_path) -> None:
    samples = make_samples(np.ones((3, 14, 2)), folder_of(tmp_path, "a.jpg", "b.jpg", "c.jpg"))
    assert without_missing_images(samples) is samples
    assert without_missing_images(ALL) is ALL  # drawn: no files


def test_held_out_images() -> None:
    names = [f"{number}.jpg" for number in range(500)]
    mask = held_out_images(names, 0.1)
    assert abs(mask.sum() - 50) < 4 * np.sqrt(500 * 0.1 * 0.9)
    few = [name for name, out in zip(names, mask, strict=True) if not out][:3]
    assert held_out_images(few, 0.0).sum() == 1  # one at least
    assert held_out_images(few, 0.999999).sum() == 2  # and one is left
    assert not held_out_images(few[:1], 0.9).any()
