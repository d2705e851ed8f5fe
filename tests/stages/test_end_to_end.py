"""The four stages in a row at toy size, through their `run` functions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from fpd.data.datasets import load
from fpd.data.heatmap_codec import flip_heatmaps
from fpd.pipeline.config.recipe import Recipe, apply_overrides, stored_views
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.store import read_heatmaps
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student, teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(toy_recipe: Recipe) -> Recipe:
    # Trains a teacher until its heatmaps have peaks: after two epochs they are noise.
    teacher_settings = ["teacher.epochs=15", "teacher.learning_rate=0.02", "targets.sigma_px=2"]
    changes = ["student.epochs=3", "store.shard_samples=16", "students={labels-only={alpha=0}}"]
    changes += teacher_settings
    return apply_overrides(toy_recipe.model_dump(mode="json"), changes)


@pytest.fixture(scope="module")
def work(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> WorkDir:
    work = WorkDir(tmp_path_factory.mktemp("work"))
    teacher.run(work, recipe, CPU)
    heatmaps.run(work, recipe, CPU)
    for name in ("student", "labels-only"):
        student.run(work, recipe, CPU, name=name)
    evaluate.run(work, recipe, CPU)
    return work


def test_the_report_has_every_score_of_every_model(work: WorkDir, recipe: Recipe) -> None:
    report = json.loads((work.evaluation / "report.json").read_text())
    assert list(report["models"]) == ["labels-only", "student", "teacher"]  # keys are sorted
    for row in report["models"].values():
        assert row["metric"] == "PCK@0.2"
        assert 0 <= row["mean"] <= 1
        assert 0 <= row["mean_unweighted"] <= 1
        assert 0 <= row["auc"] <= row["mean"]
        assert set(row["per_joint"]) == set(load(recipe.data, "test").skeleton.joints)
        assert row["parameters"] > 0
        assert row["gmacs"] > 0
        assert row["ms_per_image"] > 0
    assert report["models"]["student"]["samples"] == 8


def test_the_report_counts_teacher_passes(work: WorkDir, recipe: Recipe) -> None:
    store = json.loads((work.evaluation / "report.json").read_text())["store"]
    samples = len(load(recipe.data, "train"))
    assert store["teacher_passes"] == 2 * samples
    # One distilled student of three epochs; the labels-only one needs no teacher.
    assert store["teacher_passes_online"] == 3 * samples
    assert store["float16_bytes"] == 2 * 2 * samples * 14 * 16 * 16
    assert 0 < store["bytes"] < store["float16_bytes"]


def test_records_have_settings_and_inputs(work: WorkDir) -> None:
    record = work.student("student").record()
    assert record["identity"]["settings"]["training"]["alpha"] == 0.5
    assert (
        record["identity"]["inputs"]["teacher"]["sha256"]
        == (work.teacher.record()["result"]["weights_sha256"])
    )
    assert "teacher" not in work.student("labels-only").record()["identity"]["inputs"]
    rows = work.student("student").metrics.read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]


def test_the_store_holds_the_teachers_output_of_each_view(work: WorkDir, recipe: Recipe) -> None:
    """Against the live teacher, view by view, within the store's bound."""
    samples = load(recipe.data, "train")
    views = stored_views(recipe, samples)
    network = load_model(work.teacher, CPU).network
    parameters = xarray.open_zarr(work.store, consolidated=False).parameters
    for index, view in [(0, 0), (3, 1), (len(samples) - 1, 1)]:
        crop = torch.from_numpy(views[index, view]["crop"])[None]
        with torch.inference_mode():
            live_BKHW = network(normalize(crop, CPU))[-1].numpy()
        assert_within_bound(read_heatmaps(work.store, view, [index]), live_BKHW, recipe)
        np.testing.assert_array_equal(parameters[view, index], views[index, view]["parameters"])


def assert_within_bound(
    stored: NDArray[np.floating], live: NDArray[np.floating], recipe: Recipe
) -> None:
    peaks = live.max((-2, -1), keepdims=True)
    assert peaks.max() > 0.1  # not noise
    bound = recipe.store.max_error * np.maximum(peaks, 0.1)
    assert (np.abs(stored - live.clip(min=0)) <= bound + 1e-5).all()


def test_a_student_learns_from_the_teacher_alone(work: WorkDir, recipe: Recipe) -> None:
    """With alpha = 1, without labels: it approaches the cached heatmaps."""
    changes = {"alpha": 1.0, "epochs": 20, "learning_rate": 0.01}
    settings = recipe.student.model_copy(update=changes)
    record = student.run(work, recipe.model_copy(update={"student": settings}), CPU, name="alone")
    assert record["identity"]["settings"]["training"]["alpha"] == 1.0
    rows = [json.loads(row) for row in work.student("alone").metrics.read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[-1]["collapsed_loss"]


# One flip-averaged view serves the student both ways


@pytest.fixture(scope="module")
def averaged(recipe: Recipe) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), ["store.flip_averaged=true"])


@pytest.fixture(scope="module")
def averaged_work(
    work: WorkDir, averaged: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> WorkDir:
    """The same teacher's output, averaged with that on the flipped views."""
    other = WorkDir(tmp_path_factory.mktemp("averaged"))
    shutil.copytree(work.teacher.path, other.teacher.path)
    heatmaps.run(other, averaged, CPU)
    return other


KEYS = [(0, 0), (3, 1), (7, 0), (9, 1)]


def crops(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The stored views of `KEYS`, and the same flipped, uint8 (B, S, S, 3) each."""
    views = stored_views(recipe, load(recipe.data, "train"))
    pairs = [(views[key], views.flipped(views[key])) for key in KEYS]
    upright, flipped = (
        np.stack([view["crop"] for view in side]) for side in zip(*pairs, strict=True)
    )
    assert not np.array_equal(upright, flipped)
    return torch.from_numpy(upright), torch.from_numpy(flipped)


def test_flipped_heatmaps_are_the_teachers_output_of_the_flipped_view(
    averaged_work: WorkDir, averaged: Recipe
) -> None:
    skeleton = load(averaged.data, "train").skeleton
    network = load_model(averaged_work.teacher, CPU).network
    predictor = make_predictor(network, CPU, skeleton.flip_indices)
    upright, flipped = crops(averaged)
    stored = np.concatenate([read_heatmaps(averaged_work.store, v, [i]) for i, v in KEYS])
    with torch.inference_mode():
        live, live_flipped = predictor(upright), predictor(flipped)
    torch.testing.assert_close(
        flip_heatmaps(live, skeleton.flip_indices), live_flipped, atol=1e-6, rtol=0
    )
    assert_within_bound(stored, live.numpy(), averaged)
    stored_flipped = flip_heatmaps(torch.from_numpy(stored), skeleton.flip_indices)
    assert_within_bound(stored_flipped.numpy(), live_flipped.numpy(), averaged)


def test_without_averaging_flipped_heatmaps_are_not_the_teachers_output(
    work: WorkDir, averaged: Recipe
) -> None:
    """Flipping them would add far more than the store's own error."""
    skeleton = load(averaged.data, "train").skeleton
    predictor = make_predictor(load_model(work.teacher, CPU).network, CPU, None)
    upright, flipped = crops(averaged)
    with torch.inference_mode():
        naive = flip_heatmaps(predictor(upright), skeleton.flip_indices)
        live = predictor(flipped)
    off = (naive - live).abs().amax((-2, -1))
    bound = averaged.store.max_error * live.amax((-2, -1)).clamp_min(0.1)
    assert (off > bound).float().mean() > 0.5
    assert (naive - live).norm() > 0.1 * live.norm()


def test_a_student_of_averaged_heatmaps_flips_views_itself(
    averaged_work: WorkDir, averaged: Recipe
) -> None:
    views = stored_views(averaged, load(averaged.data, "train"))
    assert not any(views.parameters(index, view)[2] for index in range(18) for view in range(2))
    record = student.run(averaged_work, averaged, CPU)
    assert record["identity"]["inputs"]["store"]["flip_averaged"] is True
    never = averaged.model_copy(
        update={"augmentation": averaged.augmentation.model_copy(update={"flip": False})}
    )
    with pytest.raises(ValueError, match="flip_averaged: expected False, found True"):
        student.run(averaged_work, never, CPU, name="upright")
