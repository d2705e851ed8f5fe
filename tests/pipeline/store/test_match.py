"""A store is opened only if it holds what the run needs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import StoreReader, match, read_manifest
from fpd.pipeline.teachers import expected_entry
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, teacher

CPU = torch.device("cpu")

MISMATCHES = [
    ("data.synthetic.seed=1", "datasets.images"),
    ("data.synthetic.train=30", "datasets.samples"),
    ("data.limit=10", "datasets.samples"),
    ("data.label_corruption.noise=0.3", "datasets.labels"),
    ("augmentation.rotation_deg=10", "augmentation.rotation_deg"),
    ("augmentation.flip=false", "augmentation.flip"),
    ("store.seed=1", "seed"),
    ("geometry.crop_px=128", "geometry.crop_px"),
    ("store.max_error=0.02", "max_error"),
    ("store.flip_averaged=true", "flip_averaged"),
    ("store.shard_samples=9", "shard_samples"),
    ("teacher.model.channels=16", "teacher.model.channels"),
]


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet
) -> tuple[StoreReader, dict[str, Any]]:
    """Open the store as `fpd run student` does."""
    manifest = read_manifest(match.existing_store(work, recipe))
    return match.open_store(work, recipe, samples, expected_entry(work.teacher, recipe, manifest))


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


@pytest.mark.parametrize(("override", "key"), MISMATCHES)
def test_a_store_made_for_another_run_is_refused(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, override: str, key: str
) -> None:
    work, recipe = WorkDir(toy_work), changed(toy_recipe, override)
    samples = load(recipe.data, "train") if override.startswith("data.") else toy_samples
    with pytest.raises(ValueError, match="does not fit this run") as caught:
        open_store(work, recipe, samples)
    message = str(caught.value)
    assert f"{key}: expected " in message
    command = re.search(r"`fpd cache-heatmaps -w (.*) --overwrite`", message)
    assert command is not None
    _, *options = shlex.split(command.group(1))
    if not override.startswith("teacher."):  # another teacher has another recipe, too
        rebuilt = changed(toy_recipe, *options[1::2])
        assert options[0] == "--set" and rebuilt == recipe


def test_a_store_made_for_another_run_is_not_written_to(
    small: Any, work: WorkDir, toy_recipe: Recipe
) -> None:
    before = small.content(work.store)
    recipe = changed(toy_recipe, "store.max_error=0.02", "store.views=3")
    with pytest.raises(ValueError, match=r"does not fit this run.*max_error: .*--overwrite"):
        heatmaps.run(work, recipe, CPU)
    assert small.content(work.store) == before


def test_a_store_of_a_part_serves_that_part(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "data.limit=0.5", "teacher.epochs=1", "store.views=1")
    work = WorkDir(tmp_path)
    work.create()
    teacher.run(work, recipe, CPU)
    heatmaps.run(work, recipe, CPU)
    samples = load(recipe.data, "train")
    reader, _ = open_store(work, recipe, samples)
    assert reader.layout.samples == len(samples) < len(load(toy_recipe.data, "train"))


def test_other_settings_do_not_matter(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    overrides = ["student.alpha=0.9", "targets.sigma_px=2", "store.batch_size=3", "store.views=1"]
    recipe = changed(toy_recipe, *overrides, "teacher.epochs=9", "loader.workers=1")
    reader, manifest = open_store(WorkDir(toy_work), recipe, toy_samples)
    assert manifest["schema"] == 3
    assert reader.layout.views == 1
    assert reader.read(0, 17).peaks.shape == (14,)


def test_the_store_is_sufficient_without_the_teacher_but_not_without_its_manifest(
    small: Any, work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    shutil.rmtree(work.teacher.path)
    open_store(work, toy_recipe, toy_samples)
    small.edit_manifest(work.store, {"schema": 3})
    with pytest.raises(ValueError, match=r"does not fit this run.*--overwrite"):
        open_store(work, toy_recipe, toy_samples)


def test_a_missing_store_is_refused_with_the_command_that_makes_it(
    tmp_path: Path, toy_recipe: Recipe
) -> None:
    with pytest.raises(ValueError, match=rf"is missing: run `fpd cache-heatmaps -w {tmp_path}`"):
        match.existing_store(WorkDir(tmp_path), toy_recipe)
