"""What a network is fed: every sample once an epoch, in views that two formulas decide."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.data.readers.synthetic.people import synthetic_people
from fpd.data.samples import SampleSet
from fpd.data.views import Views
from fpd.pipeline.config.recipe import (
    FRESH_VIEWS,
    Recipe,
    apply_overrides,
    fresh_views,
    stored_views,
)
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store import CachedHeatmaps, StoreReader, files_at, stored_layout
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")
PEOPLE = synthetic_people("train", 23)
MASK = 2**64 - 1


def philox_words(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 by its paper (Salmon et al., SC 2011), counters from 1 on as NumPy has it."""
    words: list[int] = []
    for counter in range(1, -(-count // 4) + 1):
        x = [counter, 0, 0, 0]
        k0, k1 = key
        for _ in range(10):
            high0, low0 = divmod(x[0] * 0xD2E7470EE14C6C93, 2**64)
            high1, low1 = divmod(x[2] * 0xCA5A826395121157, 2**64)
            x = [high1 ^ x[1] ^ k0, low1, high0 ^ x[3] ^ k1, low0]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        words += x
    return words[:count]


def batches_of(
    batch: int = 4, seed: int = 0, views: int | None = 3, epoch: int = 0, start: int = 0
) -> list[list[tuple[int, int]]]:
    batches = EpochSampler(PEOPLE, batch, seed, views)
    batches.set_epoch(epoch, start)
    return list(batches)


def order(**choices: Any) -> list[int]:
    return [index for batch in batches_of(**choices) for index, _ in batch]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(1, 9),
    st.integers(0, 10**6),
)
def test_every_sample_comes_once_an_epoch(
    batch: int, seed: int, views: int | None, epoch: int
) -> None:
    batches = batches_of(batch, seed, views, epoch)
    assert sorted(index for b in batches for index, _ in b) == list(range(23))
    sizes = [len(b) for b in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch
    assert len(sizes) == -(-23 // batch)  # no more steps than it takes


def test_the_order_is_that_of_philox_words_on_every_machine() -> None:
    for seed, epoch in ((0, 0), (7, 0), (0, 7), (2**32 - 1, 129)):
        words = philox_words((seed, epoch), 23)
        expected = sorted(range(23), key=words.__getitem__)
        assert order(seed=seed, epoch=epoch) == expected


def test_seed_and_epoch_alone_decide_the_order() -> None:
    assert order(seed=3, epoch=5) == order(seed=3, epoch=5, views=None) == order(seed=3, epoch=5)
    assert order(seed=3, epoch=5) == order(seed=3, epoch=5, batch=7)
    orders = [order(seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(o) for o in orders}) == 9


def test_an_epoch_does_not_depend_on_those_before() -> None:
    batches = EpochSampler(PEOPLE, 4, 0, 3)
    for epoch in (0, 1, 2):
        batches.set_epoch(epoch, 0)
        list(batches)
    batches.set_epoch(1, 0)
    assert list(batches) == list(batches) == batches_of(epoch=1)


@pytest.mark.parametrize("start", range(7))
def test_resuming_gives_the_rest_of_the_epoch(start: int) -> None:
    whole = batches_of(epoch=2)
    assert len(whole) == 6
    assert batches_of(epoch=2, start=start) == whole[start:]
    batches = EpochSampler(PEOPLE, 4, 0, 3)
    batches.set_epoch(2, start)
    assert (batches.steps, len(batches)) == (6, 6 - start)


def hash_of(index: int) -> int:
    digest = hashlib.blake2b(f"figures/train/{index:06d}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@pytest.mark.parametrize("views", [1, 2, 3, 7])
def test_views_by_hand(views: int) -> None:
    for epoch in (0, 1, 5, 100):
        for batch in batches_of(views=views, epoch=epoch):
            for index, view in batch:
                assert view == (epoch + hash_of(index)) % views


def test_views_are_seen_in_turn_all_of_them() -> None:
    seen = [dict(key for b in batches_of(views=5, epoch=e) for key in b) for e in range(5)]
    for index in range(23):
        assert {views[index] for views in seen} == set(range(5))
    # And they mix within an epoch: these 23 people's hashes leave one of the five out.
    assert all(len(set(views.values())) == 4 for views in seen)


def test_without_a_store_every_epoch_is_a_fresh_view() -> None:
    for epoch in (0, 4):
        assert {view for b in batches_of(views=None, epoch=epoch) for _, view in b} == {epoch}


# Mirrored by the student


def mirror_flags(seed: int, epoch: int, batch: int = 4) -> dict[int, bool]:
    """Whether each sample of an epoch is mirrored."""
    batches = EpochSampler(PEOPLE, batch, seed, 3, flip=True)
    batches.set_epoch(epoch, 0)
    keys = [key for b in batches for key in b]
    assert [key[:2] for key in keys] == [
        key for b in batches_of(batch, seed, 3, epoch) for key in b
    ]
    assert all(type(key[2]) is bool for key in keys)
    return {key[0]: key[2] for key in keys}


def test_about_half_of_the_samples_are_mirrored_each_in_its_turn() -> None:
    epochs = [mirror_flags(0, epoch) for epoch in range(200)]
    counts = [sum(flags.values()) for flags in epochs]
    # Binomial: 23 people, 200 epochs; five standard deviations either way.
    assert abs(np.mean(counts) - 11.5) < 5 * np.sqrt(23 / 4 / 200)
    for index in range(23):
        assert 100 - 36 < sum(flags[index] for flags in epochs) < 100 + 36
    # An epoch's order does not tell who is mirrored in it.
    first_half = sum(list(flags.values())[:11].count(True) for flags in epochs)
    assert abs(first_half - 1100) < 5 * np.sqrt(2200 / 4)


def test_seed_and_epoch_alone_decide_who_is_mirrored() -> None:
    assert mirror_flags(3, 5) == mirror_flags(3, 5) == mirror_flags(3, 5, batch=7)
    flags = [
        tuple(sorted(mirror_flags(seed, epoch).items())) for seed in range(3) for epoch in range(3)
    ]
    assert len(set(flags)) == 9


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_students_mirror_where_the_store_allows_and_the_recipe_wants_it(
    averaged: bool, wanted: bool
) -> None:
    changes = [f"store.flip_averaged={averaged}".lower(), f"augmentation.flip={wanted}".lower()]
    recipe = apply_overrides({}, changes)
    assert recipe.flip_averaged == (averaged and wanted)
    stored = stored_views(recipe, PEOPLE)
    mirrored = [bool(stored.parameters(index, 0)[2]) for index in range(23)]
    assert any(mirrored) == (wanted and not averaged)


def test_batches_are_all_in_order() -> None:
    batches = in_batches(range(23), 10)
    assert [len(b) for b in batches] == [10, 10, 3]
    assert [index for b in batches for index in b] == list(range(23))


# Seeds


def test_fresh_views_never_have_a_stores_seed() -> None:
    recipe = apply_overrides({}, [f"store.seed={2**63 - 1}"])  # the largest allowed
    assert stored_views(recipe, PEOPLE).seed == 2**63 - 1
    for seed in (0, 1, 2**32 - 1):
        fresh = fresh_views(recipe, PEOPLE, seed).seed
        assert 2**63 <= fresh < 2**64
        assert fresh - FRESH_VIEWS == seed
    for too_large in (f"store.seed={2**63}", f"teacher.seed={2**32}"):
        with pytest.raises(ValueError, match="seed"):
            apply_overrides({}, [too_large])


def test_the_same_seed_gives_other_views_to_teachers_than_to_stores(toy_recipe: Recipe) -> None:
    fresh, stored = fresh_views(toy_recipe, PEOPLE, 0), stored_views(toy_recipe, PEOPLE)
    assert stored.seed == toy_recipe.store.seed == 0
    for index in range(3):
        assert not np.array_equal(fresh.parameters(index, 0)[:2], stored.parameters(index, 0)[:2])
    largest = fresh_views(toy_recipe, PEOPLE, 2**32 - 1)[0, 0]  # fits the generator's key
    assert np.isfinite(largest["parameters"]).all()


# Stored views


def distillation_views(work: Path, recipe: Recipe, samples: SampleSet) -> DistillationViews:
    files = files_at(WorkDir(work).store)
    store = StoreReader(files, stored_layout(files))
    return DistillationViews(stored_views(recipe, samples), store)


def test_a_cached_view_is_the_view_with_what_the_store_has(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    import zarr

    group = zarr.open(WorkDir(toy_work).store, mode="r")
    found = distillation_views(toy_work, toy_recipe, toy_samples)[17, 1]
    view = Views(toy_samples, toy_recipe.geometry, toy_recipe.augmentation, seed=0)[17, 1]
    assert set(found) == {*view, "coefficients", "steps", "peaks", "mirrored"}
    for key in ("crop", "joints", "affine", "parameters"):
        np.testing.assert_array_equal(found[key], view[key])
    assert found["index"] == 17
    assert found["mirrored"] is False
    np.testing.assert_array_equal(found["coefficients"], group["heatmaps"][1, 17])
    np.testing.assert_array_equal(found["steps"], group["steps"][1, 17])
    np.testing.assert_array_equal(found["peaks"], group["peaks"][1, 17])


def test_a_cached_view_to_be_mirrored_brings_the_maps_as_they_are_stored(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    """The mirroring of maps is the training device's."""
    dataset = distillation_views(toy_work, toy_recipe, toy_samples)
    upright, turned = dataset[17, 1, False], dataset[17, 1, True]
    assert (upright["mirrored"], turned["mirrored"]) == (False, True)
    for key in ("coefficients", "steps", "peaks"):
        np.testing.assert_array_equal(upright[key], turned[key])
    expected = dataset.views.mirrored(dataset.views[17, 1])
    for key in ("crop", "joints", "affine", "parameters"):
        np.testing.assert_array_equal(turned[key], expected[key])
    assert not np.array_equal(turned["crop"], upright["crop"])


class OtherParameters:
    """A store whose parameters are a hair off."""

    def __init__(self, parameters: np.ndarray) -> None:
        self.files = files_at("x/heatmaps.zarr")
        self.parameters = parameters

    def read(self, view: int, index: int) -> CachedHeatmaps:
        coefficients, zeros = np.zeros((14, 2, 2, 64), np.int8), np.zeros(14, np.float16)
        return CachedHeatmaps(coefficients, zeros, zeros, self.parameters)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_view_cached_with_other_parameters_is_refused(
    toy_recipe: Recipe, toy_samples: SampleSet, which: int
) -> None:
    views = stored_views(toy_recipe, toy_samples)
    right = views.parameters(3, 1).copy()
    assert DistillationViews(views, OtherParameters(right))[3, 1]["index"] == 3
    wrong = right.copy()
    wrong[which] = 1 - right[2] if which == 2 else np.nextafter(right[which], 9)
    with pytest.raises(
        ValueError,
        match=rf"heatmaps\.zarr: view 1 of {toy_samples.ids[3]} was cached with parameters .*"
        "`fpd cache-heatmaps --overwrite`",
    ):
        DistillationViews(views, OtherParameters(wrong))[3, 1]


# Loaders


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_bring_the_batches_in_order(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, workers: int
) -> None:
    dataset = distillation_views(toy_work, toy_recipe, toy_samples)
    batches = EpochSampler(toy_samples, 8, 0, 2)
    loader = make_loader(dataset, batches, CPU, workers=workers, prefetch=4)
    for epoch, start in ((0, 0), (1, 1), (1, 0)):
        batches.set_epoch(epoch, start)
        found = list(loader)
        assert [b["index"].tolist() for b in found] == [[i for i, _ in b] for b in batches]
        for batch, keys in zip(found, batches, strict=True):
            expected = np.stack([dataset[key]["coefficients"] for key in keys])
            np.testing.assert_array_equal(batch["coefficients"].numpy(), expected)
            crops = np.stack([dataset[key]["crop"] for key in keys])
            np.testing.assert_array_equal(batch["crop"].numpy(), crops)
    dtypes = {key: tensor.dtype for key, tensor in found[0].items()}
    assert dtypes == {
        "crop": torch.uint8,
        "joints": torch.float32,
        "affine": torch.float64,
        "parameters": torch.float64,
        "index": torch.int64,
        "coefficients": torch.int8,
        "steps": torch.float16,
        "peaks": torch.float16,
        "mirrored": torch.bool,
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_readers_error_reaches_the_training_process(
    work: WorkDir,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # PyTorch waits this long for a worker that has failed.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    (work.store / "heatmaps/c/0/2/0/0/0/0").unlink()
    dataset = distillation_views(work.root, toy_recipe, toy_samples)
    loader = make_loader(dataset, [[(16, 0)]], CPU, workers=workers, prefetch=4)
    with pytest.raises(ValueError, match=r"view 0 of sample 16 \(shard 2\) cannot be read"):
        next(iter(loader))
    del loader
    gc.collect()


BROKEN = """
import torch
from fpd.pipeline.config.sections import Loader
from fpd.pipeline.training.sampler import make_loader

class Broken:
    def __getitem__(self, key):
        raise ValueError("an image that breaks late")

loader = make_loader(
    Broken(), [[(0, 0)], [(1, 0)]], torch.device("cpu"), workers=2, prefetch=4
)
batches = iter(loader)
try:
    next(batches)
except ValueError as error:
    kept = error  # as a traceback keeps the loader
    print("told")
"""


def test_a_command_that_an_image_ends_does_end() -> None:
    """Its readers let a first SIGTERM pass, which is all that Python sends before it waits."""
    run = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout == "told\n"
