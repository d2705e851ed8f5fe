"""The pilot: which views it encodes, and how near its estimate is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor, nn

from fpd.data.samples import SampleSet
from fpd.pipeline.caching.inputs import StoreInputs
from fpd.pipeline.caching.pilot import TIMED_VIEWS, pilot_keys, run_pilot
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.store import Layout
from fpd.pipeline.workdir import WorkDir
from fpd.stages import plan as plan_stage

from .answering import AnsweringTeacher

CPU = torch.device("cpu")


# 10 samples in shards of 4: two full ones, and one of 2 with 2 rows of padding.
LAYOUT = Layout(views=1, segments=(10,), joints=14, heatmap_px=16, shard_samples=4)


def without_store(work: WorkDir) -> WorkDir:
    shutil.rmtree(work.store)
    work.store.with_name(".heatmaps.zarr.lock").unlink(missing_ok=True)
    return work


@pytest.mark.parametrize(("samples", "batch"), [(5, 8), (1000, 32), (1000, 1), (100, 512)])
def test_the_pilot_is_spread_over_the_samples(samples: int, batch: int) -> None:
    batches = pilot_keys(samples, batch)
    assert {len(keys) for keys in batches} == {batch}
    assert TIMED_VIEWS <= (len(batches) - 1) * batch < TIMED_VIEWS + batch
    keys = [key for keys in batches for key in keys]
    assert len(set(keys)) == len(keys)
    for keys in batches:
        indices = [index for index, _ in keys]
        assert all(0 <= index < samples for index in indices)
        if 8 <= batch <= samples:
            assert max(indices) - min(indices) > 0.9 * samples


class Counting(nn.Module):
    """A teacher that counts the views it is run on."""

    def __init__(self) -> None:
        super().__init__()
        self.views = 0

    def forward(self, inputs: Tensor) -> list[Tensor]:
        self.views += len(inputs)
        return [torch.rand(len(inputs), 14, 16, 16)]


@pytest.mark.parametrize(("averaged", "passes"), [("false", 1), ("true", 2)])
def test_the_pilot_runs_the_teacher_as_the_cache_will(
    toy_recipe: Recipe, toy_samples: SampleSet, averaged: str, passes: int
) -> None:
    recipe = changed(toy_recipe, f"store.flip_averaged={averaged}")
    teacher = Counting()
    mirror = toy_samples.skeleton.flip_indices if recipe.flip_averaged else None
    source = AnsweringTeacher(make_predictor(teacher, CPU, mirror))
    inputs = StoreInputs(source, recipe, toy_samples, CPU)
    pilot = run_pilot(inputs, replace(LAYOUT, shard_samples=8))
    assert pilot.views == 48
    assert teacher.views == passes * (48 + 8)  # and a batch of 8 to warm up
    assert pilot.sizes.view > 1000  # noise is hard to compress
    assert min(pilot.read_s, pilot.teacher_s, pilot.encode_s, pilot.compress_s) > 0


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), changes)


def test_the_estimate_is_near_the_finished_store(
    toy_work: Path, work: WorkDir, toy_recipe: Recipe
) -> None:
    plan = plan_stage.run(without_store(work), toy_recipe, CPU)
    assert plan.row(2).bytes == pytest.approx(bytes_of(WorkDir(toy_work)), rel=0.05)
    assert plan.row(2).heatmaps_bytes == plan.row(2).bytes


def bytes_of(work: WorkDir) -> int:
    return sum(path.stat().st_size for path in work.store.rglob("*") if path.is_file())


@pytest.mark.parametrize("portable", [False, True])
def test_the_estimate_of_a_portable_store_is_near_the_finished_one(
    portable_toy_work: Path, work: WorkDir, toy_recipe: Recipe, portable: bool
) -> None:
    """Whether or not the recipe asks for one."""
    recipe = changed(toy_recipe, f"store.portable={str(portable).lower()}")
    plan = plan_stage.run(without_store(work), recipe, CPU)
    real = bytes_of(WorkDir(portable_toy_work))
    assert plan.row(2).portable_bytes == pytest.approx(real, rel=0.06)
    assert plan.row(2).heatmaps_bytes < plan.row(2).portable_bytes
    assert (plan.row(2).bytes == plan.row(2).portable_bytes) == portable


def test_nothing_of_a_finished_portable_store_is_counted_again(
    portable_work: WorkDir, portable_recipe: Recipe
) -> None:
    plan = plan_stage.run(portable_work, portable_recipe, CPU)
    assert plan.row(2).added_bytes == 0
    assert plan.row(2).portable_bytes == plan.row(2).bytes == bytes_of(portable_work)


def test_the_pilot_loads_views_both_ways_and_leaves_nothing_in_memory(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    source = AnsweringTeacher(make_predictor(Counting(), CPU, None))
    inputs = StoreInputs(source, toy_recipe, toy_samples, CPU)
    pilot = run_pilot(inputs, replace(LAYOUT, shard_samples=8))
    assert min(pilot.loading) > 0
    assert not [path for path in MemoryFileSystem.store if "fpd-pilot" in path]
