"""`fpd evaluate -w`: its files agree with each other, and unwritable outputs are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fpd.cli import main
from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.evaluation.pck import pck
from fpd.pipeline.evaluation.predictions import read_predictions
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate

CPU = torch.device("cpu")
FILES = ["pck_curve.png", "predictions", "report.html", "report.json"]


def test_prediction_files_have_the_scores_of_the_report(work: WorkDir, toy_recipe: Recipe) -> None:
    report = evaluate.run(work, toy_recipe, CPU)
    assert sorted(path.name for path in work.evaluation.iterdir()) == FILES
    assert json.loads((work.evaluation / "report.json").read_text()) == report
    samples = load(toy_recipe.data, "test")
    path = work.evaluation / "predictions" / "teacher.json"
    file = read_predictions(path, {len(samples)}, samples.skeleton.joints)
    score = pck(file.joints_NK2, samples.joints_NK2, samples.normalizer_N, samples.skeleton)
    row = report["models"]["teacher"]
    assert score.mean == row["mean"] and score.auc == row["auc"]
    np.testing.assert_array_equal(score.curve_T, row["curve"]["pck"])
    content = json.loads(path.read_text())
    assert content["weights_sha256"] == work.teacher.record()["result"]["weights_sha256"]
    assert content["ids"] == list(samples.ids)
    page = (work.evaluation / "report.html").read_text("utf-8")
    assert content["weights_sha256"] in page
    assert samples.fingerprint()["labels"] in page
    assert f"{100 * row['mean']:.1f}" in page


@pytest.mark.parametrize("identity", [None, {}, {"settings": 3}, {"settings": {"training": []}}])
def test_a_record_without_identity_is_refused(
    work: WorkDir, toy_recipe: Recipe, identity: Any
) -> None:
    path = work.teacher.record_path
    record = json.loads(path.read_text("utf-8"))
    write_sealed_json(path, record | {"identity": identity})
    with pytest.raises(ValueError, match=r"teacher/record\.json is damaged.*identity"):
        evaluate.run(work, toy_recipe, CPU)


def test_the_store_summary_counts_teacher_passes(work: WorkDir, toy_recipe: Recipe) -> None:
    store = evaluate._store_summary(work, toy_recipe, work.models())
    assert store is not None
    assert (store["views"], store["samples"], store["teacher_passes"]) == (2, 18, 36)
    assert (store["distilled_students"], store["teacher_passes_online"]) == (0, 0)


def test_a_work_directory_without_models_is_refused(tmp_path: Path, toy_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="fpd run all -w"):
        evaluate.run(WorkDir(tmp_path), toy_recipe, CPU)


@pytest.mark.parametrize("place", ["evaluation", "evaluation/predictions"])
def test_an_unwritable_folder_is_refused_before_the_evaluation(
    work: WorkDir, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "load_samples", lambda *_: pytest.fail("the evaluation started"))
    blocked = work.root / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file instead of a folder")
    result = CliRunner().invoke(main, ["evaluate", "-w", str(work.root), "--device", "cpu"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert str(blocked) in result.output


def test_a_file_that_cannot_be_replaced_is_named(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "render", lambda *_: "")
    (work.evaluation / "report.html").mkdir(parents=True)
    result = CliRunner().invoke(main, ["evaluate", "-w", str(work.root), "--device", "cpu"])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1 and "report.html" in result.output
    leftovers = [path for path in Path(work.evaluation).iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_an_exported_file_is_scored_as_it_is_shipped(work: WorkDir, toy_onnx: Path) -> None:
    arguments = ["evaluate", "-w", str(work.root), "--device", "cpu", "--model", str(toy_onnx)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((work.evaluation / "report.json").read_text())
    trained, exported = (report["models"][name] for name in ("teacher", "student.onnx"))
    joints_NK2, expected_NK2 = (
        np.array(json.loads(path.read_text())["joints"], np.float64)
        for path in (
            work.evaluation / "predictions" / f"{name}.json" for name in ("student.onnx", "teacher")
        )
    )
    # Where a toy network's map has two peaks alike, runtimes may choose another: each such joint
    # changes the mean by its share, and all others are the same.
    moved_NK = np.linalg.norm(joints_NK2 - expected_NK2, axis=-1) > 0.05
    assert moved_NK.mean() < 0.2
    assert abs(exported["mean"] - trained["mean"]) <= moved_NK.sum() / moved_NK.size + 0.001
    assert exported["metric"] == trained["metric"] and exported["samples"] == trained["samples"]
    assert (exported["parameters"], exported["gmacs"]) == (trained["parameters"], trained["gmacs"])
    assert exported["exported"]["name"] == "teacher"
    digest = exported["exported"]["file_sha256"]
    assert digest in (work.evaluation / "report.html").read_text("utf-8")
    content = json.loads((work.evaluation / "predictions" / "student.onnx.json").read_text())
    assert content["weights_sha256"] == trained["record"]["result"]["weights_sha256"]


def test_an_exported_file_is_scored_without_models_and_with_one_pass(
    work: WorkDir, toy_recipe: Recipe, toy_onnx: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(work.teacher.path)
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), ["evaluation.flip_test=true"])
    report = evaluate.run(work, recipe, CPU, exported=[toy_onnx])
    row = report["models"]["student.onnx"]
    assert list(report["models"]) == ["student.onnx"]
    assert row["parameters"] is None and row["ms_per_image"] > 0
    assert "student.onnx is scored with one pass: no flip test, no scales" in caplog.text


def test_exported_files_that_cannot_be_scored(
    work: WorkDir, toy_recipe: Recipe, toy_onnx: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected exported files with different names"):
        evaluate.run(work, toy_recipe, CPU, exported=[toy_onnx, toy_onnx])
    (tmp_path / "other.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"other\.onnx cannot be read as an ONNX file"):
        evaluate.run(work, toy_recipe, CPU, exported=[tmp_path / "other.onnx"])
    onnx = pytest.importorskip("onnx")
    model = onnx.load(toy_onnx)
    [entry] = [entry for entry in model.metadata_props if entry.key == "fpd.json"]
    entry.value = entry.value.replace("right ankle", "tail")
    onnx.save(model, tmp_path / "animal.onnx")
    with pytest.raises(ValueError, match="tail"):
        evaluate.run(work, toy_recipe, CPU, exported=[tmp_path / "animal.onnx"])
    assert not (work.evaluation / "report.json").exists()
    result = CliRunner().invoke(
        main, ["evaluate", "--predictions", "a", "--ground-truth", "b", "--model", str(toy_onnx)]
    )
    assert result.exit_code == 1 and "--model, --flip-test and --scales run models" in result.output
