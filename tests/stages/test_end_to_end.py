"""The four stages in a row at toy size, through their `run`s, as a library's user calls them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray

from fpd.data.readers import load
from fpd.pipeline.recipe import Recipe, apply_overrides
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student, teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(toy_recipe: Recipe) -> Recipe:
    changes = ["student.epochs=3", "store.shard_samples=16", "students={labels-only={alpha=0}}"]
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


def test_the_report_has_every_figure_for_every_model(work: WorkDir, recipe: Recipe) -> None:
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
    assert report["models"]["student"]["people"] == 8


def test_the_bill_counts_teacher_passes(work: WorkDir, recipe: Recipe) -> None:
    store = json.loads((work.evaluation / "report.json").read_text())["store"]
    people = len(load(recipe.data, "train"))
    assert store["teacher_passes"] == 2 * people
    # One distilled student of three epochs; the labels-only one asks the teacher nothing.
    assert store["teacher_passes_online"] == 3 * people
    assert store["float16_bytes"] == 2 * 2 * people * 14 * 16 * 16
    assert 0 < store["bytes"] < store["float16_bytes"]


def test_records_say_what_was_done_to_what(work: WorkDir) -> None:
    record = work.student("student").record()
    assert record["identity"]["settings"]["training"]["alpha"] == 0.5
    assert (
        record["identity"]["inputs"]["teacher"]["sha256"]
        == (work.teacher.record()["result"]["weights_sha256"])
    )
    assert "teacher" not in work.student("labels-only").record()["identity"]["inputs"]
    rows = work.student("student").metrics.read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]


def test_the_store_holds_what_the_teacher_says_of_each_view(work: WorkDir, recipe: Recipe) -> None:
    """Against the live teacher, view by view, through plain xarray."""
    from fpd.pipeline.inputs import normalise
    from fpd.pipeline.training.feed import stored_views
    from fpd.pipeline.training.train import load_model

    store = xarray.open_zarr(work.store, consolidated=False)
    samples = load(recipe.data, "train")
    views = stored_views(recipe, samples)
    network = load_model(work.teacher, samples.skeleton.num_joints, CPU)
    for index, view in [(0, 0), (3, 1), (len(samples) - 1, 1)]:
        crop = torch.from_numpy(views[(index, view)]["crop"])[None]
        with torch.inference_mode():
            said = network(normalise(crop, CPU))[-1][0].numpy()
        peaks = store.peaks[view, index].to_numpy().astype(np.float32)
        stored = store.heatmaps[view, index].to_numpy() * peaks[:, None, None]
        bound = recipe.store.max_error * peaks[:, None, None]
        assert (np.abs(stored - said.clip(min=0)) <= bound + 1e-5).all()
        np.testing.assert_array_equal(
            store.parameters[view, index], views[(index, view)]["parameters"]
        )


def test_a_student_learns_from_the_teacher_alone(work: WorkDir, recipe: Recipe) -> None:
    """With alpha = 1 only the cached maps teach, and the student comes nearer to them."""
    alone = {"alpha": 1.0, "epochs": 20, "learning_rate": 0.01}
    settings = recipe.student.model_copy(update=alone)
    record = student.run(work, recipe.model_copy(update={"student": settings}), CPU, name="alone")
    assert record["identity"]["settings"]["training"]["alpha"] == 1.0
    rows = [json.loads(row) for row in work.student("alone").metrics.read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[-1]["zero_loss"]
