"""Stores that a GPU writes, read on a CPU, and the other way round."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from fpd.data.samples import SampleSet
from fpd.pipeline.caching.compare import ROUNDING
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.store import open_storage, read_heatmaps, read_manifest
from fpd.pipeline.store.compression import FAINT_PEAK
from fpd.pipeline.store.manifest import AUDIT, NOT_COMPARED
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student, verify

from .comparing import CPU, changed

pytestmark = pytest.mark.gpu

FLOAT32_ERROR = 1e-3
"""Between a teacher's maps on two devices in float32, as a share of their peak."""


def new_work(root: Path, toy_work: Path, recipe: Recipe) -> WorkDir:
    """A work directory with the toy teacher alone."""
    work = WorkDir(root)
    shutil.copytree(toy_work / "teacher", work.teacher.path)
    write_sealed_json(work.kept_recipe, recipe.model_dump(mode="json"))
    return work


@pytest.fixture(scope="module")
def device_work(
    toy_work: Path,
    toy_recipe: Recipe,
    device: torch.device,
    tmp_path_factory: pytest.TempPathFactory,
) -> WorkDir:
    """The toy work directory, with a store that was written on the device."""
    work = new_work(tmp_path_factory.mktemp("device") / "work", toy_work, toy_recipe)
    heatmaps.run(work, toy_recipe, device)
    return work


@pytest.fixture(scope="module")
def portable_recipe_flipped(toy_recipe: Recipe) -> Recipe:
    return changed(toy_recipe, "store.portable=true", "store.flip_averaged=true")


@pytest.fixture(scope="module")
def portable_device_work(
    toy_work: Path,
    portable_recipe_flipped: Recipe,
    device: torch.device,
    tmp_path_factory: pytest.TempPathFactory,
) -> WorkDir:
    work = new_work(tmp_path_factory.mktemp("portable") / "work", toy_work, portable_recipe_flipped)
    heatmaps.run(work, portable_recipe_flipped, device)
    return work


@contextmanager
def tf32() -> Iterator[None]:
    """PyTorch's default for convolutions."""
    cudnn = torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, cudnn.allow_tf32 = cudnn.allow_tf32, True
        try:
            yield
        finally:
            cudnn.allow_tf32 = before


def test_the_manifest_is_that_of_a_cpu(toy_work: Path, device_work: WorkDir) -> None:
    expected, found = (
        read_manifest(open_storage(work.store)) for work in (WorkDir(toy_work), device_work)
    )
    assert found.keys() == expected.keys()
    for key in expected.keys() - set(NOT_COMPARED):
        assert found[key] == expected[key], key
    assert found["versions"] == expected["versions"]
    assert found[AUDIT].keys() == expected[AUDIT].keys()
    for name in ("max_error", "mean_squared_error", "mean_peak"):
        error = expected["encoding_error"][name]
        assert found["encoding_error"][name] == pytest.approx(error, rel=0.05, abs=1e-3), name


@torch.inference_mode()
def test_every_map_is_the_cpus_within_the_bound(
    device_work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    predictor = make_predictor(load_model(device_work.teacher, CPU).network, CPU, None)
    views, samples = stored_views(toy_recipe, toy_samples), range(len(toy_samples))
    bound = toy_recipe.store.max_error + FLOAT32_ERROR
    for view in range(toy_recipe.store.views):
        crops = default_collate([views[index, view]["crop"] for index in samples])
        live = predictor(crops).clamp_min(0).numpy()
        stored = read_heatmaps(device_work.store, view, samples)
        peaks = live.max((-2, -1)).clip(FAINT_PEAK)
        assert (np.abs(stored - live).max((-2, -1)) / peaks).max() <= bound


def test_the_cpu_verifies_it(device_work: WorkDir, toy_recipe: Recipe) -> None:
    verification = verify.run(device_work, toy_recipe, CPU, sample_count=36, deep=True)
    assert verification.problem is None
    assert verification.compared_views is not None and len(verification.compared_views) > 20
    largest = max(view.error for view in verification.compared_views)
    assert largest <= toy_recipe.store.max_error + FLOAT32_ERROR


def test_the_device_verifies_a_cpus_store_in_tf32(
    work: WorkDir, toy_recipe: Recipe, device: torch.device
) -> None:
    """TF32 is how teachers run on a GPU by default; the allowance for it is `ROUNDING`."""
    with tf32():
        verification = verify.run(work, toy_recipe, device, sample_count=36)
    assert verification.problem is None
    assert verification.compared_views is not None
    largest = max(view.error for view in verification.compared_views)
    assert largest <= toy_recipe.store.max_error + ROUNDING


def test_a_stopped_store_is_completed_by_the_other_device(
    work: WorkDir, toy_recipe: Recipe, device: torch.device
) -> None:
    """Two of the shards of a CPU's store are made again on the device."""
    heatmaps.run(work, toy_recipe, CPU)
    for view in (0, 1):
        (work.store / f"heatmaps/c/{view}/1/0/0/0/0").unlink()
    verification = verify.run(work, toy_recipe, device, sample_count=36, deep=True, repair=True)
    assert verification.repaired and verification.problem is None
    assert verify.run(work, toy_recipe, CPU, sample_count=36, deep=True).problem is None


def test_a_student_trains_from_it_on_the_device(
    device_work: WorkDir, toy_recipe: Recipe, device: torch.device
) -> None:
    """With loader processes that start after CUDA does."""
    recipe = changed(toy_recipe, "loader.workers=2")
    record = student.run(device_work, recipe, device)
    assert record["result"]["epochs"] == toy_recipe.student.epochs
    assert record["device"] == str(device)


def test_a_portable_store_is_verified_on_the_cpu(
    portable_device_work: WorkDir, portable_recipe_flipped: Recipe
) -> None:
    verification = verify.run(
        portable_device_work, portable_recipe_flipped, CPU, sample_count=36, deep=True
    )
    assert verification.problem is None
    assert verification.compared_views is not None
    largest = max(view.error for view in verification.compared_views)
    assert largest <= portable_recipe_flipped.store.max_error + FLOAT32_ERROR


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_student_trains_from_a_portable_store_alone_on_the_device(
    portable_device_work: WorkDir,
    portable_recipe_flipped: Recipe,
    device: torch.device,
    tmp_path: Path,
    alpha: float,
) -> None:
    work = WorkDir(tmp_path / "alone")
    work.create()
    shutil.copytree(portable_device_work.store, work.store)
    settings = portable_recipe_flipped.model_dump(mode="json") | {"data": {"reader": "store"}}
    recipe = changed(Recipe.parse(settings), f"student.alpha={alpha}")
    record = student.run(work, recipe, device)
    assert record["result"]["epochs"] == recipe.student.epochs
