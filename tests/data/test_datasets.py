"""Splits: samples held out by their ids, and unlabeled images added, for every reader alike."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fpd.data.datasets import FOLDER_READERS, load, load_training
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import SampleSet, id_hash
from fpd.data.sections import Data, Synthetic

SMALL = Synthetic(train=60, test=20)
ALL_SAMPLES = synthetic_samples("train", 60)


def test_validation_samples_are_held_out_of_training() -> None:
    data = Data(synthetic=SMALL, validation=0.26)
    train, validation, test = (load(data, split) for split in ("train", "validation", "test"))
    assert len(validation) == 12 and len(train) == 48 and len(test) == 20
    assert set(train.ids) | set(validation.ids) == set(ALL_SAMPLES.ids)
    assert not set(train.ids) & set(validation.ids)
    assert set(validation.ids) == set(sorted(ALL_SAMPLES.ids, key=id_hash)[:12])
    assert test.fingerprint() == synthetic_samples("test", 20).fingerprint()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_split_samples_keep_their_order_and_rows(split) -> None:
    samples = load(Data(synthetic=SMALL, validation=0.26), split)
    indices = [ALL_SAMPLES.ids.index(i) for i in samples.ids]
    assert indices == sorted(indices)
    np.testing.assert_array_equal(samples.joints_NK2, ALL_SAMPLES.joints_NK2[indices])
    np.testing.assert_array_equal(samples.image_N, ALL_SAMPLES.image_N[indices])


def test_the_same_samples_are_held_out_in_any_order(monkeypatch, tmp_path) -> None:
    held_out = []
    for seed in range(3):
        samples = ALL_SAMPLES.take(np.random.default_rng(seed).permutation(60))
        monkeypatch.setitem(FOLDER_READERS, "lsp", lambda root, split, samples=samples: samples)
        validation = load(Data(reader="lsp", root=tmp_path, validation=0.24), "validation")
        held_out.append(frozenset(validation.ids))
    assert len(set(held_out)) == 1 and len(held_out[0]) == 9


def test_a_smaller_validation_set_is_part_of_a_larger_one() -> None:
    few = load(Data(synthetic=SMALL, validation=0.1), "validation")
    many = load(Data(synthetic=SMALL, validation=0.5), "validation")
    assert len(few) == 2 and set(few.ids) < set(many.ids)


def test_the_share_is_met_approximately() -> None:
    held_out = len(load(Data(synthetic=Synthetic(train=1000), validation=0.1), "validation"))
    assert abs(held_out - 100) < 4 * np.sqrt(1000 * 0.1 * 0.9)  # four standard deviations


def test_added_samples_leave_the_others_in_their_splits() -> None:
    """So a store can be extended: its training samples remain the first ones."""
    before, after = (
        load(Data(synthetic=Synthetic(train=count, test=20), validation=0.26), "train")
        for count in (60, 90)
    )
    assert len(before) < len(after) and after.ids[: len(before)] == before.ids


def test_a_share_of_zero_holds_out_no_samples() -> None:
    data = Data(synthetic=SMALL, validation=0)
    assert len(load(data, "validation")) == 0
    assert load(data, "train").ids == ALL_SAMPLES.ids


def test_the_synthetic_settings_reach_the_reader() -> None:
    data = Data(synthetic=Synthetic(train=30, test=7, seed=3), validation=0)
    expected = {s: synthetic_samples(s, n, seed=3) for s, n in (("train", 30), ("test", 7))}
    for split, samples in expected.items():
        assert load(data, split).fingerprint() == samples.fingerprint()


def test_the_reader_is_chosen_by_name(monkeypatch, tmp_path) -> None:
    calls = []

    def recording_reader(name: str):
        def read(root: Path, split: str) -> SampleSet:
            calls.append((name, root, split))
            return synthetic_samples("train", 10)

        return read

    for name in FOLDER_READERS:
        monkeypatch.setitem(FOLDER_READERS, name, recording_reader(name))
    expected = []
    for name in FOLDER_READERS:
        for split, source in (("train", "train"), ("validation", "train"), ("test", "test")):
            load(Data(reader=name, root=tmp_path), split)
            expected.append((name, tmp_path, source))
    assert calls == expected


def test_readers_of_files_need_a_root() -> None:
    with pytest.raises(ValidationError) as error:
        Data(reader="lspet")
    assert "data.root is needed for lspet: --set data.root=FOLDER" in str(error.value)


def test_missing_labels_are_named(tmp_path) -> None:
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"lsp/joints\.mat is missing: expected ") as error:
            load(Data(reader="lsp", root=tmp_path), split)
        assert str(tmp_path) in str(error.value)


def test_empty_splits_are_refused(monkeypatch, tmp_path) -> None:
    data = Data(synthetic=Synthetic(train=4), validation=0.9)
    assert len(load(data, "validation")) == 4
    with pytest.raises(
        ValueError, match=r"^data set 'synthetic' has no samples in its train split"
    ):
        load(data, "train")
    monkeypatch.setitem(
        FOLDER_READERS, "lsp", lambda root, split: synthetic_samples("test", 2).take([])
    )
    with pytest.raises(ValueError, match=r"^data set 'lsp' has no samples in its test split$"):
        load(Data(reader="lsp", root=tmp_path), "test")


def test_samples_are_checked(monkeypatch, tmp_path) -> None:
    samples = synthetic_samples("train", 5)
    samples.joints_NK2[3, 7] = 1e6
    monkeypatch.setitem(FOLDER_READERS, "lsp", lambda root, split: samples)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=f"{samples.ids[3]}: right elbow at .* far outside"):
            load(Data(reader="lsp", root=tmp_path, validation=0), split)


@pytest.fixture
def unlabeled_root(tmp_path: Path) -> Path:
    """A folder with two images."""
    Image.new("RGB", (120, 90), (200, 200, 200)).save(tmp_path / "b.jpg")
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (40, 60)).save(tmp_path / "deep" / "a.png")
    return tmp_path


def synthetic_and_folder(root: Path) -> Data:
    """Synthetic samples, joined by the unlabeled images of a folder."""
    return Data(validation=0.3, synthetic={"train": 20, "test": 4}, unlabeled_root=root)


def test_unlabeled_images_join_the_training_samples(unlabeled_root) -> None:
    data = synthetic_and_folder(unlabeled_root)
    labeled = load(data.model_copy(update={"unlabeled_root": None}), "train")
    joined = load(data, "train")
    assert joined.name == f"{labeled.name}+unlabeled"
    assert joined.ids == (*labeled.ids, "folder/b.jpg/0", "folder/deep/a.png/0")
    assert load(data, "labeled").ids == labeled.ids
    assert load(data, "labeled").fingerprint() == labeled.fingerprint()


def test_only_training_with_a_teacher_uses_unlabeled_images(unlabeled_root) -> None:
    data = synthetic_and_folder(unlabeled_root)
    with_teacher = load_training(data, with_unlabeled=True)
    without = load_training(data, with_unlabeled=False)
    assert with_teacher["train"].ids == load(data, "train").ids
    assert without["train"].ids == load(data, "labeled").ids
    assert with_teacher["validation"].ids == without["validation"].ids
    assert not set(with_teacher["validation"].ids) & set(with_teacher["train"].ids)


def test_joined_samples_keep_their_images(unlabeled_root) -> None:
    joined = load(synthetic_and_folder(unlabeled_root), "train")
    assert joined.images.locate(joined[-2].image) == str(unlabeled_root / "b.jpg")
    pixels, _ = joined.images.read(joined[-2].image, 1.0)
    assert pixels.shape == (90, 120, 3) and abs(int(pixels.mean()) - 200) < 3
    assert joined.images.size(joined[-1].image) == (40, 60)
    labeled = load(synthetic_and_folder(unlabeled_root), "labeled")
    for index in (0, len(labeled) - 1):
        joined_image, image = joined[index].image, labeled[index].image
        assert joined.images.identity(joined_image) == labeled.images.identity(image)
        np.testing.assert_array_equal(
            joined.images.read(joined_image, 1.0)[0], labeled.images.read(image, 1.0)[0]
        )
    assert pickle.loads(pickle.dumps(joined)).fingerprint() == joined.fingerprint()


def test_the_folder_reader_takes_no_unlabeled_root(tmp_path) -> None:
    with pytest.raises(ValidationError, match=r"data\.unlabeled_root .*data\.reader=folder"):
        Data(
            reader="folder",
            root=tmp_path,
            folder={"skeleton": "lsp"},
            unlabeled_root=tmp_path,
        )


def test_paths_are_made_absolute_for_other_processes() -> None:
    data = Data(reader="lsp", root="labeled", unlabeled_root="unlabeled").absolute()
    assert data.root == Path.cwd() / "labeled"
    assert data.unlabeled_root == Path.cwd() / "unlabeled"
    assert Data().absolute() == Data()
