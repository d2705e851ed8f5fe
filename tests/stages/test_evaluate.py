"""`fpd evaluate -w`: its files agree with each other, and unwritable outputs are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fpd.cli import main
from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe
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
