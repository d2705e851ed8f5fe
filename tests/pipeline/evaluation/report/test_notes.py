"""The report's notes on what is missing, and on what limits comparisons."""

from __future__ import annotations

from typing import Any

from fpd.pipeline.evaluation.report.gallery import Gallery
from fpd.pipeline.evaluation.report.notes import notes


def make_gallery(scored_count: int = 40) -> Gallery:
    return Gallery(
        cards=[], medians=[], sample_count=40, scored_count=scored_count, omitted_count=0
    )


def history(**changes: Any) -> list[dict[str, Any]]:
    return [{"epoch": 1, "loss": 2.0, "validation_pck": 0.5} | changes]


def test_a_complete_report_has_no_notes(report: dict[str, Any]) -> None:
    assert notes(report, dict.fromkeys(report["models"], history()), make_gallery()) == []


def test_missing_parts_are_noted(report: dict[str, Any]) -> None:
    changes = {"not_finite": 3, "oks": None, "oks_left_out": "no sigmas"}
    partial = {
        **report,
        "models": {"student": report["models"]["student"] | changes},
        "store": None,
    }
    without_validation = {"student": history(validation_pck=None)}
    text = "\n".join(notes(partial, without_validation, make_gallery(38)))
    for part in (
        "no finished teacher",
        "no heatmap store",
        "without validation",
        "3 predicted joints",
        "no sigmas",
        "2 of 40 test samples",
    ):
        assert part in text
    assert any("metrics.jsonl" in note for note in notes(report, {}, make_gallery()))
    assert any("No test sample" in note for note in notes(report, {}, make_gallery(0)))


def test_a_student_of_another_teacher_is_noted(report: dict[str, Any]) -> None:
    teacher = report["models"]["teacher"] | {"record": {"result": {"weights_sha256": "another"}}}
    rows = {**report["models"], "teacher": teacher}
    (note,) = notes({**report, "models": rows}, dict.fromkeys(rows, history()), make_gallery())
    assert note.startswith("student was distilled from another teacher")


def test_joints_that_an_external_teacher_does_not_predict_are_noted(report: dict[str, Any]) -> None:
    row = {"teacher": {}, "uncovered_joints": ["head top"]}
    rows = {**report["models"], "teacher": row}
    (note,) = notes({**report, "models": rows}, dict.fromkeys(rows, history()), make_gallery())
    assert "head top" in note
