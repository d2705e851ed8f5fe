"""Views with their cached heatmaps, and the seeds of stored and new views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from fpd.data.samples import SampleSet
from fpd.data.views import Views
from fpd.pipeline.config.recipe import (
    FRESH_VIEWS_SEED,
    Recipe,
    apply_overrides,
    fresh_views,
    stored_views,
)
from fpd.pipeline.store import CachedHeatmaps, StoreReader, open_storage, stored_layout
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.workdir import WorkDir


@pytest.fixture(scope="module")
def dataset(toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet) -> DistillationViews:
    storage = open_storage(WorkDir(toy_work).store)
    reader = StoreReader(storage, stored_layout(storage))
    return DistillationViews(stored_views(toy_recipe, toy_samples), reader)


def test_a_cached_view_is_the_view_with_the_stored_heatmaps(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, dataset: DistillationViews
) -> None:
    group = zarr.open(WorkDir(toy_work).store, mode="r")
    cached = dataset[17, 1]
    view = Views(toy_samples, toy_recipe.geometry, toy_recipe.augmentation, seed=0)[17, 1]
    assert set(cached) == {*view, "coefficients", "steps", "peaks", "flipped"}
    for key in ("crop", "joints", "affine", "parameters"):
        np.testing.assert_array_equal(cached[key], view[key])
    assert cached["index"] == 17
    assert cached["flipped"] is False
    np.testing.assert_array_equal(cached["coefficients"], group["heatmaps"][1, 17])
    np.testing.assert_array_equal(cached["steps"], group["steps"][1, 17])
    np.testing.assert_array_equal(cached["peaks"], group["peaks"][1, 17])


def test_a_flipped_view_has_the_unflipped_heatmaps(dataset: DistillationViews) -> None:
    """The training device flips them."""
    plain, flipped = dataset[17, 1, False], dataset[17, 1, True]
    assert (plain["flipped"], flipped["flipped"]) == (False, True)
    for key in ("coefficients", "steps", "peaks"):
        np.testing.assert_array_equal(plain[key], flipped[key])
    expected = dataset.views.flipped(dataset.views[17, 1])
    for key in ("crop", "joints", "affine", "parameters"):
        np.testing.assert_array_equal(flipped[key], expected[key])
    assert not np.array_equal(flipped["crop"], plain["crop"])


class StoreWithParameters:
    """A store whose views all have the same augmentation parameters."""

    def __init__(self, parameters: np.ndarray) -> None:
        self.storage = open_storage("x/heatmaps.zarr")
        self.work = "some/where"
        self.parameters = parameters

    def read(self, view: int, index: int) -> CachedHeatmaps:
        coefficients, zeros = np.zeros((14, 2, 2, 64), np.int8), np.zeros(14, np.float16)
        return CachedHeatmaps(coefficients, zeros, zeros, self.parameters)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_view_cached_with_other_parameters_is_refused(
    toy_recipe: Recipe, toy_samples: SampleSet, which: int
) -> None:
    """However small the difference."""
    views = stored_views(toy_recipe, toy_samples)
    right = views.parameters(3, 1).copy()
    assert DistillationViews(views, StoreWithParameters(right))[3, 1]["index"] == 3
    wrong = right.copy()
    wrong[which] = 1 - right[2] if which == 2 else np.nextafter(right[which], 9)
    with pytest.raises(
        ValueError,
        match=rf"heatmaps\.zarr: view 1 of {toy_samples.ids[3]} was cached with parameters .*"
        "`fpd verify-cache -w some/where --deep --repair`",
    ):
        DistillationViews(views, StoreWithParameters(wrong))[3, 1]


# Seeds and flips of views


def test_new_views_never_have_a_stores_seed(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    recipe = apply_overrides({}, [f"store.seed={2**63 - 1}"])  # the largest allowed
    assert stored_views(recipe, toy_samples).seed == 2**63 - 1
    for seed in (0, 1, 2**32 - 1):
        fresh = fresh_views(recipe, toy_samples, seed).seed
        assert 2**63 <= fresh < 2**64
        assert fresh - FRESH_VIEWS_SEED == seed
    largest = fresh_views(toy_recipe, toy_samples, 2**32 - 1)[0, 0]  # fits the generator's key
    assert np.isfinite(largest["parameters"]).all()
    for too_large in (f"store.seed={2**63}", f"teacher.seed={2**32}"):
        with pytest.raises(ValueError, match="seed"):
            apply_overrides({}, [too_large])


def test_new_views_differ_from_stored_views_of_the_same_seed(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    fresh, stored = fresh_views(toy_recipe, toy_samples, 0), stored_views(toy_recipe, toy_samples)
    assert stored.seed == toy_recipe.store.seed == 0
    for index in range(3):
        assert not np.array_equal(fresh.parameters(index, 0)[:2], stored.parameters(index, 0)[:2])


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_stored_views_are_flipped_unless_the_student_flips_them(
    toy_samples: SampleSet, averaged: bool, flip: bool
) -> None:
    changes = [f"store.flip_averaged={averaged}".lower(), f"augmentation.flip={flip}".lower()]
    recipe = apply_overrides({}, changes)
    assert recipe.flip_averaged == (averaged and flip)
    stored = stored_views(recipe, toy_samples)
    flipped = [bool(stored.parameters(index, 0)[2]) for index in range(18)]
    assert any(flipped) == (flip and not averaged)
