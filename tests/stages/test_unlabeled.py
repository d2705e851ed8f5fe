"""Distillation on unlabeled samples: alone, and beside labeled ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpd.commands.summaries.evaluate import describe
from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student, teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory, toy_samples: SampleSet) -> Path:
    """The images of ten samples as files."""
    root = tmp_path_factory.mktemp("images")
    for index in range(10):
        pixels, _ = toy_samples.images.read(index, 1.0)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


def unlabeled_recipe(recipe: Recipe, image_folder: Path, *overrides: str) -> Recipe:
    settings = ["data.reader=folder", "data.folder.skeleton=lsp", f"data.root={image_folder}"]
    tree = recipe.model_dump(mode="json")
    return apply_overrides(tree, [*settings, "student.epochs=1", *overrides])


@pytest.fixture
def teacher_work(tmp_path: Path, toy_work: Path) -> WorkDir:
    """A work directory with only a teacher, copied from another one."""
    work = WorkDir(tmp_path / "work")
    work.create()
    shutil.copytree(toy_work / "teacher", work.root / "teacher")
    return work


def test_a_student_is_trained_and_evaluated_without_labels(
    teacher_work: WorkDir,
    toy_recipe: Recipe,
    image_folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = unlabeled_recipe(toy_recipe, image_folder, "student.alpha=1")
    heatmaps.run(teacher_work, recipe, CPU)
    with caplog.at_level("INFO"):
        record = student.run(teacher_work, recipe, CPU)
    assert record["result"]["validation_pck"] is None and record["result"]["epochs"] == 1
    assert "no validation" in caplog.text
    report = evaluate.run(teacher_work, recipe, CPU)
    row = report["models"]["student"]
    assert row["mean"] is None and row["joints"] == 0 and row["samples"] == 10
    assert row["gmacs"] > 0
    written = json.loads((teacher_work.evaluation / "report.json").read_text())
    assert written["models"].keys() == {"teacher", "student"}
    assert "-" in describe(report).splitlines()[2].split()
    assert (teacher_work.evaluation / "pck_curve.png").is_file()


@pytest.mark.parametrize(
    ("alpha", "command"), [(0.0, "Train a teacher"), (0.5, "--set student.alpha=1")]
)
def test_training_with_labels_is_refused_without_any(
    teacher_work: WorkDir, toy_recipe: Recipe, image_folder: Path, alpha: float, command: str
) -> None:
    recipe = unlabeled_recipe(toy_recipe, image_folder, f"student.alpha={alpha}")
    if alpha:
        heatmaps.run(teacher_work, recipe, CPU)
    with pytest.raises(ValueError, match="none of 10 training") as error:
        student.run(teacher_work, recipe, CPU)
    assert command in str(error.value)
    assert not teacher_work.student("student").path.exists()


def test_a_teacher_needs_labels(tmp_path: Path, toy_recipe: Recipe, image_folder: Path) -> None:
    work = WorkDir(tmp_path / "none")
    work.create()
    with pytest.raises(ValueError, match=f"copy its folder to {work.root}/teacher"):
        teacher.run(work, unlabeled_recipe(toy_recipe, image_folder), CPU)


def test_unlabeled_samples_are_added_to_labeled_ones(
    teacher_work: WorkDir, toy_recipe: Recipe, image_folder: Path
) -> None:
    """They are in the store and train the student, but not the teacher or the baseline."""
    overrides = [f"data.unlabeled_root={image_folder}", "student.epochs=1"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), overrides)
    labeled = len(load(toy_recipe.data, "train"))
    assert heatmaps.run(teacher_work, recipe, CPU)["samples"] == labeled + 10
    record = student.run(teacher_work, recipe, CPU)
    assert record["identity"]["inputs"]["dataset"]["samples"] == labeled + 10
    assert np.isfinite(record["result"]["validation_pck"])
    baseline = apply_overrides(recipe.model_dump(mode="json"), ["student.alpha=0"])
    record = student.run(teacher_work, baseline, CPU, name="labels-only")
    assert record["identity"]["inputs"]["dataset"]["samples"] == labeled
    # The teacher trained without unlabeled samples is also this recipe's teacher.
    record = teacher.run(teacher_work, recipe, CPU)
    assert record["result"]["epochs"] == toy_recipe.teacher.epochs
