"""Where a run's samples come from: its data set, or a portable store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.datasets import load, load_training
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.store import open_storage, read_manifest
from fpd.pipeline.store.dataset import (
    load_samples,
    load_stored_training,
    load_training_samples,
    portable_store,
    stored_recipe,
)
from fpd.pipeline.store.manifest import write_manifest
from fpd.pipeline.store.splits import StoredSamples
from fpd.pipeline.workdir import WorkDir


def of_store(recipe: Recipe) -> Recipe:
    return Recipe.parse(recipe.model_dump(mode="json") | {"data": {"reader": "store"}})


def edited(work: WorkDir, **entries: Any) -> None:
    storage = open_storage(work.store)
    write_manifest(storage, read_manifest(storage) | entries)


def test_samples_are_the_data_sets_where_there_is_one(
    portable_toy_work: Path, portable_recipe: Recipe
) -> None:
    samples = load_samples(WorkDir(portable_toy_work), portable_recipe, "test")
    assert not isinstance(samples, StoredSamples)
    assert samples.ids == load(portable_recipe.data, "test").ids


@pytest.mark.parametrize("split", ["train", "labeled", "validation", "test"])
def test_samples_are_the_stores_where_the_recipe_says_so(
    portable_toy_work: Path, portable_recipe: Recipe, split: Any
) -> None:
    samples = load_samples(WorkDir(portable_toy_work), of_store(portable_recipe), split)
    assert isinstance(samples, StoredSamples)
    expected = load(portable_recipe.data, split)
    np.testing.assert_array_equal(samples.id_hash_N, expected.id_hash_N)


@pytest.mark.parametrize("with_unlabeled", [False, True])
def test_training_samples_are_the_same_both_ways(
    portable_toy_work: Path, portable_recipe: Recipe, with_unlabeled: bool
) -> None:
    stored = load_training_samples(
        WorkDir(portable_toy_work), of_store(portable_recipe), with_unlabeled=with_unlabeled
    )
    loaded = load_training(portable_recipe.data, with_unlabeled=with_unlabeled)
    for name, samples in loaded.items():
        np.testing.assert_array_equal(stored[name].joints_NK2, samples.joints_NK2)


def test_validation_samples_may_be_missing(portable_work: WorkDir) -> None:
    storage = open_storage(portable_work.store)
    manifest = read_manifest(storage)
    del manifest["splits"]["validation"]
    stored = load_stored_training(storage, manifest, "w")
    assert (len(stored["train"]), len(stored["validation"])) == (18, 0)


def test_a_plain_store_is_refused(toy_work: Path, toy_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"holds heatmaps only, .*--portable"):
        portable_store(WorkDir(toy_work), of_store(toy_recipe))


def test_a_missing_store_is_refused(tmp_path: Path, portable_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"is missing: run `fpd cache-heatmaps"):
        load_samples(WorkDir(tmp_path), of_store(portable_recipe), "train")


def test_the_recipe_of_a_store_has_its_settings_without_its_places(
    portable_toy_work: Path, portable_recipe: Recipe
) -> None:
    tree = stored_recipe(str(portable_toy_work / "heatmaps.zarr"))
    assert tree is not None
    recipe = Recipe.parse(tree)
    assert recipe.data.reader == "store"
    for section in ("student", "geometry", "augmentation", "targets", "evaluation"):
        assert getattr(recipe, section) == getattr(portable_recipe, section), section
    assert recipe.store == portable_recipe.store
    assert not {"loader", "cluster"} & tree.keys()
    assert not {"location", "teachers", "license"} & tree["store"].keys()


def test_stores_without_a_recipe(toy_work: Path, tmp_path: Path) -> None:
    assert stored_recipe(str(toy_work / "heatmaps.zarr")) is None
    assert stored_recipe(str(tmp_path / "nothing.zarr")) is None


@pytest.mark.parametrize(
    "recipe",
    [
        {"store": {}, "unknown": 1},
        {"store": {"views": "x"}},
        {"store": {}, "students": {"../outside": {}}},
        {"store": {}, "data": 3},
        {"store": {}, "student": {"batch_size": 10**30}},
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    portable_work: WorkDir, recipe: dict[str, Any]
) -> None:
    edited(portable_work, recipe=recipe)
    if "batch_size" in str(recipe):
        assert stored_recipe(str(portable_work.store)) is not None  # checked by the training
        return
    with pytest.raises(ValueError, match="its settings cannot be used here"):
        stored_recipe(str(portable_work.store))


def test_places_in_a_recipe_are_left_out(portable_work: WorkDir) -> None:
    recipe = read_manifest(open_storage(portable_work.store))["recipe"]
    recipe["store"] |= {"teachers": ["os:system"], "location": "/somewhere", "license": "x"}
    recipe["student"]["init_from"] = "/etc/passwd"
    recipe["students"] = {"b": {"init_from": "/etc/passwd", "alpha": 0.1}}
    recipe["loader"] = {"cache_dir": "/somewhere"}
    recipe["sweeps"] = {
        "grid": {"grid": {"student.init_from": ["/etc/passwd"]}},
        "points": {"points": {"a": {"student.init_from": "/etc/passwd"}}},
        "kept": {"grid": {"student.alpha": [0, 1]}},
    }
    edited(portable_work, recipe=recipe)
    tree = stored_recipe(str(portable_work.store))
    assert tree is not None
    assert not {"/etc/passwd", "os:system", "/somewhere"} & set(str(tree).replace("'", " ").split())
    assert [*tree["sweeps"]] == ["kept"]
    assert tree["students"] == {"b": {"alpha": 0.1}}
