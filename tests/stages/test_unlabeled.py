"""Students of a teacher alone: nobody is labeled, or some are and others are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.evaluation.report.scores import table
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student, teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, toy_samples) -> Path:
    """Ten drawn people as files."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(10):
        pixels, _ = toy_samples.images.read(index, 1.0)
        Image.fromarray(pixels).save(root / f"{index}.png")
    return root


def nobody_labeled(recipe: Recipe, pictures: Path, *more: str) -> Recipe:
    settings = ["data.reader=folder", "data.folder.skeleton=lsp", f"data.root={pictures}"]
    tree = recipe.model_dump(mode="json")
    return apply_overrides(tree, [*settings, "student.epochs=1", *more])


@pytest.fixture
def taught(tmp_path, toy_work) -> WorkDir:
    """A work directory with a teacher from elsewhere, and nothing else."""
    work = WorkDir(tmp_path / "covered_joints")
    work.create()
    shutil.copytree(toy_work / "teacher", work.root / "teacher")
    return work


def test_a_teacher_alone_teaches(taught, toy_recipe, pictures, caplog) -> None:
    recipe = nobody_labeled(toy_recipe, pictures, "student.alpha=1")
    heatmaps.run(taught, recipe, CPU)
    with caplog.at_level("INFO"):
        record = student.run(taught, recipe, CPU)
    assert record["result"]["validation_pck"] is None and record["result"]["epochs"] == 1
    assert "no validation people: no PCK, and the weights of the last epoch" in caplog.text
    report = evaluate.run(taught, recipe, CPU)
    row = report["models"]["student"]
    assert row["mean"] is None and row["joints"] == 0 and row["people"] == 10
    assert row["gmacs"] > 0
    assert json.loads((taught.evaluation / "report.json").read_text())["models"].keys() == {
        "teacher",
        "student",
    }
    assert "-" in table(report).splitlines()[2].split()
    assert (taught.evaluation / "pck_curve.png").is_file()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99])
def test_labels_that_are_not_there_are_not_trained_on(taught, toy_recipe, pictures, alpha) -> None:
    recipe = nobody_labeled(toy_recipe, pictures, f"student.alpha={alpha}")
    if alpha:
        heatmaps.run(taught, recipe, CPU)
    message = r"folder: none of 10 training people has a labeled joint: "
    mend = r"--set student\.alpha=1$" if alpha else r"Train a teacher on labeled people, copy"
    with pytest.raises(ValueError, match=message + ".*" + mend):
        student.run(taught, recipe, CPU)
    assert not taught.student("student").path.exists()


def test_a_teacher_needs_labels(tmp_path, toy_recipe, pictures) -> None:
    work = WorkDir(tmp_path / "none")
    work.create()
    with pytest.raises(ValueError, match=rf"copy its folder to {work.root}/teacher, and run `fpd "):
        teacher.run(work, nobody_labeled(toy_recipe, pictures), CPU)


def test_unlabeled_people_beside_labeled_ones(taught, toy_recipe, toy_work, pictures) -> None:
    """They are in the store and in the student's epochs; teacher and baseline are as without."""
    more = [f"data.unlabeled_root={pictures}", "student.epochs=1"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), more)
    labeled = len(load(toy_recipe.data, "train"))
    assert heatmaps.run(taught, recipe, CPU)["samples"] == labeled + 10
    record = student.run(taught, recipe, CPU)
    assert record["identity"]["inputs"]["dataset"]["samples"] == labeled + 10
    assert np.isfinite(record["result"]["validation_pck"])
    alone = apply_overrides(recipe.model_dump(mode="json"), ["student.alpha=0"])
    record = student.run(taught, alone, CPU, name="labels-only")
    assert record["identity"]["inputs"]["dataset"]["samples"] == labeled
    # The teacher that was trained without them is this recipe's, too.
    assert teacher.run(taught, recipe, CPU)["result"]["epochs"] == toy_recipe.teacher.epochs
