"""Prediction files are written and read back; damaged histories are read in part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.samples import SampleSet
from fpd.pipeline.evaluation.inference import PredictedJoints
from fpd.pipeline.evaluation.predictions import read_predictions
from fpd.pipeline.evaluation.report.files import read_history, write_predictions
from fpd.pipeline.runtime.files import sha256, write_sealed_json
from fpd.pipeline.workdir import WorkDir


def test_predictions_read_back_equal(
    tmp_path: Path,
    report: dict[str, Any],
    samples: SampleSet,
    predicted: dict[str, PredictedJoints],
) -> None:
    joints = predicted["student"].joints_NK2.copy()
    joints[1, 3] = [np.inf, 4.0]
    changed = {**predicted, "student": replace(predicted["student"], joints_NK2=joints)}
    paths = {name: tmp_path / f"{name}.json" for name in predicted}
    write_predictions(paths, report, samples, changed)
    file = read_predictions(tmp_path / "student.json", {len(samples)}, samples.skeleton.joints)
    joints[1, 3, 0] = np.nan
    np.testing.assert_array_equal(file.joints_NK2, joints)
    content = json.loads((tmp_path / "student.json").read_text())
    assert content["ids"] == list(samples.ids)
    assert content["weights_sha256"] == "sha-of-student"
    np.testing.assert_array_equal(content["peaks"], predicted["student"].peaks_NK)


def test_a_history_is_the_one_that_the_record_describes(
    work: WorkDir, caplog: pytest.LogCaptureFixture
) -> None:
    model, record = work.teacher, work.teacher.record()
    model.metrics.write_bytes(b'{"epoch": 1}\n{"epoch": 2, "loss": 1.5}\n')
    record["result"]["metrics_sha256"] = sha256(model.metrics)
    write_sealed_json(model.record_path, record)
    assert read_history(model) == [{"epoch": 1}, {"epoch": 2, "loss": 1.5}]
    assert not caplog.text
    model.metrics.write_bytes(b'{"epoch": 1}\n{"epoch": 2, "loss": 1.4}\n')
    assert read_history(model) == []
    assert "metrics.jsonl is not the file that record.json describes" in caplog.text
    model.metrics.unlink()
    assert read_history(model) == []
    assert "metrics.jsonl cannot be read as a history (No such file" in caplog.text
