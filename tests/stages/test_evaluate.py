"""`fpd evaluate`: its files agree with each other, and what cannot be written is one sentence."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fpd.cli import main
from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.evaluation.pck import pck
from fpd.pipeline.evaluation.predictions import read_predictions
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate

CPU = torch.device("cpu")
FILES = ["pck_curve.png", "predictions", "report.html", "report.json"]


def test_predictions_score_as_the_report_says(work: WorkDir, toy_recipe: Recipe) -> None:
    report = evaluate.run(work, toy_recipe, CPU)
    assert sorted(path.name for path in work.evaluation.iterdir()) == FILES
    samples = load(toy_recipe.data, "test")
    path = work.evaluation / "predictions" / "teacher.json"
    found = read_predictions(path, {len(samples)}, samples.skeleton.num_joints)
    score = pck(found.joints_NK2, samples.joints_NK2, samples.normalizer_N, samples.skeleton)
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


def test_records_and_histories_of_older_versions_will_do(work: WorkDir, toy_recipe: Recipe) -> None:
    record = work.teacher.record()
    bare = {"identity": {"settings": record["identity"]["settings"]}}
    work.teacher.record_path.write_text(json.dumps(bare))
    work.teacher.metrics.unlink()
    evaluate.run(work, toy_recipe, CPU)
    page = (work.evaluation / "report.html").read_text("utf-8")
    assert "not recorded" in page and "no readable metrics.jsonl" in page


def test_an_environment_without_jinja_gets_the_numbers(
    work: WorkDir,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with caplog.at_level(logging.WARNING, "fpd"):
        evaluate.run(work, toy_recipe, CPU)
    assert sorted(path.name for path in work.evaluation.iterdir()) == [
        name for name in FILES if name != "report.html"
    ]
    assert "report.html is left out" in caplog.text and "pip install" in caplog.text


@pytest.mark.parametrize("place", ["evaluation", "evaluation/predictions"])
def test_what_cannot_be_written_is_refused_in_a_sentence_before_the_work(
    work: WorkDir, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "load", lambda *_: pytest.fail("it began to work"))
    blocked = work.root / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where a folder should be")
    result = CliRunner().invoke(main, ["evaluate", "-w", str(work.root), "--device", "cpu"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert str(blocked) in result.output and "cannot be written to" in result.output


def test_a_page_that_cannot_be_replaced_is_a_sentence(work: WorkDir) -> None:
    (work.evaluation / "report.html").mkdir(parents=True)
    result = CliRunner().invoke(main, ["evaluate", "-w", str(work.root), "--device", "cpu"])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1 and "report.html" in result.output
    leftovers = [path for path in Path(work.evaluation).iterdir() if path.name.startswith(".")]
    assert leftovers == []
