"""Students: what they train on, which stores they refuse, and which weights they start from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fpd.data.datasets import load
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import Student
from fpd.pipeline.models.checkpoint import save_weights
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.training import distill
from fpd.pipeline.training.dataset import TrainingData
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student, teacher

CPU = torch.device("cpu")


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def rows(folder: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


@pytest.fixture(scope="module")
def students(
    toy_work: Path, toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> WorkDir:
    """A work directory with three students. Not to be written to."""
    work = WorkDir(Path(shutil.copytree(toy_work, tmp_path_factory.mktemp("students") / "work")))
    recipe = changed(toy_recipe, 'students={labels={alpha=0, epochs=1}, raw={teacher_scale="raw"}}')
    for name in ("student", "labels", "raw"):
        student.run(work, recipe, CPU, name=name)
    return work


# What a student trains on


def test_the_two_terms_of_the_loss_are_recorded(students: WorkDir, toy_recipe: Recipe) -> None:
    alpha = toy_recipe.student.alpha
    metrics = rows(students.student("student"))
    assert len(metrics) == 2
    for row in metrics:
        mixed = alpha * row["kd_pose_loss"] + (1 - alpha) * row["pose_loss"]
        assert row["loss"] == pytest.approx(mixed, rel=1e-5)
        assert row["kd_pose_loss"] != pytest.approx(row["pose_loss"], rel=1e-3)
    assert "pose_loss" not in rows(students.student("labels"))[0]


def test_the_store_and_its_teacher_are_part_of_the_run(students: WorkDir) -> None:
    inputs = students.student("student").record()["identity"]["inputs"]
    assert inputs["teacher"]["sha256"] == sha256(students.teacher.weights)
    assert inputs["store"] == {"views": 2, "seed": 0, "max_error": 0.1, "flip_averaged": False}


def test_students_are_side_by_side_under_their_names(students: WorkDir) -> None:
    assert list(students.models()) == ["teacher", "labels", "raw", "student"]
    digests = {sha256(folder.weights) for folder in students.models().values()}
    assert len(digests) == 4


def test_a_student_needs_the_store_but_not_the_teachers_folder(
    students: WorkDir, tmp_path: Path, toy_recipe: Recipe
) -> None:
    alone = WorkDir(tmp_path / "alone")
    shutil.copytree(students.store, alone.store)
    student.run(alone, toy_recipe, CPU)
    expected = sha256(students.student("student").weights)
    assert sha256(alone.student("student").weights) == expected


def test_labels_alone_need_no_store(students: WorkDir, tmp_path: Path, toy_recipe: Recipe) -> None:
    work = WorkDir(tmp_path / "empty")
    work.create()
    record = student.run(work, changed(toy_recipe, "student.alpha=0", "student.epochs=1"), CPU)
    assert set(record["identity"]["inputs"]) == {"dataset"}
    # Nor do they use one that exists.
    assert record["result"]["weights_sha256"] == sha256(students.student("labels").weights)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of `train_model`, which trains nothing."""
    calls: list[dict[str, Any]] = []

    def spy(**arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return {}

    monkeypatch.setattr(distill, "train_model", spy)
    return calls


def test_a_fold_is_left_out_and_validated_on(
    toy_work: Path, toy_recipe: Recipe, trained_on: list[dict[str, Any]]
) -> None:
    parts = []
    for fold in range(3):
        recipe = changed(toy_recipe, f"student.fold=[{fold}, 3]")
        student.run(WorkDir(toy_work), recipe, CPU)
        data: TrainingData = trained_on[-1]["data"]
        validated = set(data.validation.ids)
        kept = {name for name, keep in zip(data.samples.ids, data.keep_N, strict=True) if keep}
        assert kept == set(data.samples.ids) - validated
        parts.append(validated)
    everyone = load(toy_recipe.data, "train").ids
    assert sorted(name for part in parts for name in part) == sorted(everyone)


def test_a_student_of_a_flip_averaged_store_flips_views_itself(
    work: WorkDir, toy_recipe: Recipe, trained_on: list[dict[str, Any]]
) -> None:
    student.run(work, toy_recipe, CPU)
    recipe = changed(toy_recipe, "store.flip_averaged=true", "student.epochs=1")
    shutil.rmtree(work.store)
    heatmaps.run(work, recipe, CPU)
    student.run(work, recipe, CPU)
    assert [call["data"].flip for call in trained_on] == [False, True]
    indices = [call["objective"].flip_indices for call in trained_on]
    assert indices == [None, LSP.flip_indices]


@pytest.mark.parametrize(("alpha", "warned"), [(1.0, True), (0.5, False)])
def test_joints_without_labels_and_teacher_are_warned_of(
    caplog: pytest.LogCaptureFixture, alpha: float, warned: bool
) -> None:
    covered_K = (True,) * 12 + (False, False)
    distill._warn_if_not_covered(covered_K, LSP.joints, Student(alpha=alpha), "student")
    distill._warn_if_not_covered(None, LSP.joints, Student(alpha=1), "student")
    assert len(caplog.messages) == warned
    assert ("does not predict neck, head top" in caplog.text) == warned


# Stores that do not serve


def refusal(work: WorkDir, recipe: Recipe) -> str:
    with pytest.raises(ValueError, match="fpd cache-heatmaps") as caught:
        student.run(work, recipe, CPU)
    assert not work.student("student").state.exists()
    return str(caught.value)


def test_a_missing_store_is_refused_with_the_command(work: WorkDir, toy_recipe: Recipe) -> None:
    shutil.rmtree(work.store)
    message = refusal(work, toy_recipe)
    assert message.startswith(f"{work.store} is missing")
    assert f"`fpd cache-heatmaps -w {work.root}`" in message


def test_an_incomplete_store_is_refused_with_the_command(work: WorkDir, toy_recipe: Recipe) -> None:
    assert "6 of 9 shards" in refusal(work, changed(toy_recipe, "store.views=3"))
    (work.store / "heatmaps/receipts/1/0.json").unlink()
    message = refusal(work, toy_recipe)
    assert "5 of 6 shards" in message
    assert f"`fpd cache-heatmaps -w {work.root}`" in message
    # As advised.
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == 1
    student.run(work, changed(toy_recipe, "student.epochs=1"), CPU)


def test_a_store_of_another_teacher_is_refused_with_the_command(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    shutil.rmtree(work.teacher.path)
    recipe = changed(toy_recipe, "teacher.seed=5", "teacher.epochs=1")
    teacher.run(work, recipe, CPU)
    message = refusal(work, recipe)
    assert "teacher.sha256: expected " in message
    assert f"`fpd cache-heatmaps -w {work.root} --overwrite`" in message


def test_a_name_that_is_reserved_is_refused(work: WorkDir, toy_recipe: Recipe) -> None:
    before = sorted(work.root.rglob("*"))
    with pytest.raises(ValueError, match="expected a student's name"):
        student.run(work, toy_recipe, CPU, name="teacher")
    assert sorted(work.root.rglob("*")) == before


# Initial weights

STILL = ("student.alpha=0", "student.learning_rate=1e-30", "student.epochs=1")
"""Training that leaves the weights as they are, except for running statistics."""


def test_a_student_starts_from_the_weights_it_is_given(work: WorkDir, toy_recipe: Recipe) -> None:
    """By file, by folder, and by the name of a folder below the work directory."""
    recipe = changed(toy_recipe, *STILL)
    shutil.copytree(work.teacher.path, work.root / "kept" / "best")
    records = {
        "file": student.run(work, recipe, CPU, name="file", init_from=work.teacher.weights),
        "folder": student.run(work, recipe, CPU, name="folder", init_from=work.teacher.path),
        "name": student.run(work, changed(recipe, "student.init_from=kept/best"), CPU, name="name"),
    }
    given, trained = load_file(work.teacher.weights), load_file(work.student("file").weights)
    learned = [key for key in given if "running" not in key and "num_batches" not in key]
    assert all(torch.equal(trained[key], given[key]) for key in learned)
    assert len({record["result"]["weights_sha256"] for record in records.values()}) == 1
    for record in records.values():
        assert record["identity"] == records["file"]["identity"]
        assert record["identity"]["inputs"]["init_from"] == sha256(work.teacher.weights)


def test_the_initial_weights_are_part_of_the_run(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, *STILL)
    student.run(work, recipe, CPU, init_from=work.teacher.path)
    student.run(work, recipe, CPU, init_from=work.teacher.weights)  # the same bytes
    with pytest.raises(ValueError, match=r"inputs\.init_from: expected none, found "):
        student.run(work, recipe, CPU)
    other = ModelDir(work.root.parent / "other")
    other.path.mkdir()
    torch.manual_seed(3)
    save_weights(recipe.student.model.build(14), other)
    with pytest.raises(ValueError, match=r"inputs\.init_from: expected "):
        student.run(work, recipe, CPU, init_from=other.path)


def test_weights_that_do_not_fit_are_refused(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "student.model.channels=16", "student.alpha=0")
    with pytest.raises(ValueError, match=r"weights\.safetensors holds weights of another network"):
        student.run(work, recipe, CPU, init_from=work.teacher.path)
    with pytest.raises(ValueError, match=r"--init-from .*: expected a weights file"):
        student.run(work, recipe, CPU, init_from=work.root)
