"""Splits: validation people held out by their ids, in every format alike."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from fpd.data.datasets import FOLDER_READERS, Data, Synthetic, load
from fpd.data.readers.synthetic.people import synthetic_people
from fpd.data.samples import SampleSet, id_hash

SMALL = Synthetic(train=60, test=20)


def test_validation_people_are_held_out_of_training() -> None:
    data = Data(synthetic=SMALL, validation=0.26)
    train, validation, test = (load(data, split) for split in ("train", "validation", "test"))
    everyone = synthetic_people("train", 60)
    assert len(validation) == 12 and len(train) == 48 and len(test) == 20
    assert set(train.ids) | set(validation.ids) == set(everyone.ids)
    assert not set(train.ids) & set(validation.ids)
    assert test.fingerprint() == synthetic_people("test", 20).fingerprint()


def test_the_smallest_id_hashes_are_held_out() -> None:
    everyone = synthetic_people("train", 60)
    by_hash = sorted(everyone.ids, key=id_hash)
    validation = load(Data(synthetic=SMALL, validation=0.26), "validation")
    assert set(validation.ids) == set(by_hash[:12])


def test_held_out_people_keep_their_order_and_their_rows() -> None:
    everyone = synthetic_people("train", 60)
    for split in ("train", "validation"):
        people = load(Data(synthetic=SMALL, validation=0.26), split)
        places = [everyone.ids.index(i) for i in people.ids]
        assert places == sorted(places)
        np.testing.assert_array_equal(people.joints_NK2, everyone.joints_NK2[places])
        np.testing.assert_array_equal(people.image_N, everyone.image_N[places])


def test_the_same_people_are_held_out_whatever_their_order(monkeypatch, tmp_path) -> None:
    held_out = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(60)
        people = synthetic_people("train", 60).take(order)
        monkeypatch.setitem(FOLDER_READERS, "lsp", lambda root, split, people=people: people)
        validation = load(Data(reader="lsp", root=tmp_path, validation=0.24), "validation")
        held_out.append(frozenset(validation.ids))
    assert len(set(held_out)) == 1 and len(held_out[0]) == 9


def test_a_larger_share_holds_out_more_people_of_the_same_kind() -> None:
    """A smaller validation set is part of a larger one: no one moves to and fro."""
    few = load(Data(synthetic=SMALL, validation=0.1), "validation")
    many = load(Data(synthetic=SMALL, validation=0.5), "validation")
    assert len(few) == 2 and set(few.ids) < set(many.ids)


def test_a_share_is_met_roughly_among_many() -> None:
    held_out = len(load(Data(synthetic=Synthetic(train=2000), validation=0.05), "validation"))
    assert abs(held_out - 100) < 4 * np.sqrt(2000 * 0.05 * 0.95)  # four standard deviations


def test_added_people_move_no_one_to_and_fro() -> None:
    """What lets a store be extended: the training people of before come first, all of them."""
    before, after = (
        load(Data(synthetic=Synthetic(train=count, test=20), validation=0.26), "train")
        for count in (60, 90)
    )
    assert len(before) < len(after) and after.ids[: len(before)] == before.ids


def test_no_share_holds_out_nobody() -> None:
    data = Data(synthetic=SMALL, validation=0)
    assert len(load(data, "validation")) == 0
    assert load(data, "train").ids == synthetic_people("train", 60).ids


def test_settings_of_figures_are_passed_on() -> None:
    dials = Synthetic(train=30, test=7, seed=3)
    data = Data(synthetic=dials, validation=0)
    train = synthetic_people("train", 30, seed=3)
    assert load(data, "train").fingerprint() == train.fingerprint()
    assert load(data, "test").fingerprint() == synthetic_people("test", 7, seed=3).fingerprint()


def test_the_reader_is_chosen_by_name(monkeypatch, tmp_path) -> None:
    asked = []

    def reader(name: str):
        def read(root, split) -> SampleSet:
            asked.append((name, root, split))
            return synthetic_people("train", 10)

        return read

    for name in FOLDER_READERS:
        monkeypatch.setitem(FOLDER_READERS, name, reader(name))
    for name in ("lsp", "lspet", "lsp+lspet", "mpii"):
        for split in ("train", "validation", "test"):
            load(Data(reader=name, root=tmp_path), split)
    assert asked == [
        (name, tmp_path, split)
        for name in ("lsp", "lspet", "lsp+lspet", "mpii")
        for split in ("train", "train", "test")
    ]


@pytest.mark.parametrize("reader", ["lsp", "lspet", "lsp+lspet", "mpii"])
def test_a_folder_is_asked_for(reader) -> None:
    with pytest.raises(ValidationError) as error:
        Data(reader=reader)
    assert f"data.root is needed for {reader}: --set data.root=FOLDER" in str(error.value)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_folder_without_labels_is_named(tmp_path, split) -> None:
    data = Data(reader="lsp", root=tmp_path)
    with pytest.raises(ValueError, match=r"lsp/joints\.mat is missing: expected ") as error:
        load(data, split)
    assert str(tmp_path) in str(error.value)


def test_an_empty_training_set_is_refused() -> None:
    data = Data(synthetic=Synthetic(train=4), validation=0.9)
    assert len(load(data, "validation")) == 4
    with pytest.raises(ValueError, match=r"^data set 'figures' has no people in its train split$"):
        load(data, "train")


def test_an_empty_test_set_is_refused(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(
        FOLDER_READERS, "lsp", lambda root, split: synthetic_people("test", 2).take([])
    )
    with pytest.raises(ValueError, match=r"^data set 'lsp' has no people in its test split$"):
        load(Data(reader="lsp", root=tmp_path), "test")


def test_people_are_checked(monkeypatch, tmp_path) -> None:
    people = synthetic_people("train", 5)
    people.joints_NK2[3, 7] = 1e6
    monkeypatch.setitem(FOLDER_READERS, "lsp", lambda root, split: people)
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=f"{people.ids[3]}: right elbow at .* far outside"):
            load(Data(reader="lsp", root=tmp_path, validation=0), split)


@pytest.mark.parametrize(
    "bad",
    [
        {"reader": "mpi"},
        {"validation": 1.0},
        {"validation": -0.1},
        {"synthetic": {"train": 1}},
        {"synthetic": {"test": 0}},
        {"synthetic": {"seed": -1}},
        {"label_corruption": {"noise": -0.1}},
        {"label_corruption": {"missing": 1.0}},
        {"synthetic": {"people": 3}},
        {"folder": "here"},
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad) -> None:
    key = next(iter(bad))
    inner = next(iter(bad[key])) if isinstance(bad[key], dict) else key
    with pytest.raises(ValidationError, match=inner):
        Data(**bad)
