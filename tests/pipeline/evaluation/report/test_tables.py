"""What the page says in words: what there is, and what there is not."""

from __future__ import annotations

from typing import Any

import pytest

from fpd.pipeline.evaluation.report.gallery import Gallery
from fpd.pipeline.evaluation.report.tables import (
    MISSING,
    at,
    chart_tables,
    duration,
    megabytes,
    model_facts,
    models_table,
    remarks,
    store_facts,
)

PEOPLE = Gallery([], [], 40, 40, 0)


def history(**changes: Any) -> list[dict[str, Any]]:
    return [{"epoch": 1, "loss": 2.0, "validation_pck": 0.5} | changes]


def test_the_table_has_what_each_model_costs_and_brings(report: dict[str, Any]) -> None:
    table = models_table(report["models"])
    student = dict(zip(table.header, table.rows[2], strict=True))
    row = report["models"]["student"]
    assert student["model"].text == "student"
    assert student["mean"].value == row["mean"]
    assert student["mean"].text == f"{100 * row['mean']:.1f}"
    assert student["params, M"].text == "0.18"
    assert student["GMACs"].text == "0.033"
    assert student["training"].text == "1 min 23 s" and student["training"].value == 83.4


def test_origin_is_told_down_to_digests(report: dict[str, Any]) -> None:
    facts = {name: dict(known) for name, known in model_facts(report["models"]).items()}
    assert facts["teacher"]["learned from"] == "labels"
    assert facts["labels-only"]["learned from"] == "labels alone"
    assert facts["student"]["learned from"] == "teacher's heatmaps (alpha = 0.5) and labels"
    assert facts["student"]["SHA-256 of their teacher"] == "sha-of-teacher"
    assert facts["student"]["SHA-256 of the weights"] == "sha-of-student"
    assert facts["student"]["trained on"] == "figures/train, 99 people"
    assert facts["student"]["training"] == "seed 7, alpha 0.5"
    assert "SHA-256 of the weights it started from" not in facts["student"]
    assert facts["student"]["versions"] == MISSING


def test_weights_that_it_started_from_are_told(report: dict[str, Any]) -> None:
    record = {"identity": {"inputs": {"init_from": "5e1f"}}}
    facts = dict(model_facts({"student": {"record": record}})["student"])
    assert facts["SHA-256 of the weights it started from"] == "5e1f"


def test_a_record_may_lack_anything(report: dict[str, Any]) -> None:
    rows = {name: {**row, "record": {}} for name, row in report["models"].items()}
    for facts in model_facts(rows).values():
        assert dict(facts)["SHA-256 of the weights"] == MISSING
    assert models_table(rows).rows[0][-1].text == "-"
    assert models_table(rows).rows[0][-1].value is None
    assert remarks({**report, "models": rows}, dict.fromkeys(rows, history()), PEOPLE) == []


def test_the_store_is_billed(report: dict[str, Any]) -> None:
    facts = dict(store_facts(report["store"]))
    assert facts["views"] == "3 of each of 99 people"
    assert facts["size"] == "0.0 MB, 101 bytes a view"
    assert facts["as raw float16"] == "0.3 MB, 10.0 x as much"
    assert facts["teacher passes to fill it"] == "594"
    assert facts["teacher passes online"].startswith("891")
    assert facts["bound"] == "10 % of a heatmap's peak"
    assert facts["made of"] == f"{MISSING}, {MISSING} people"
    assert store_facts(None) == []


def test_nothing_missing_nothing_remarked(report: dict[str, Any]) -> None:
    histories = {name: history() for name in report["models"]}
    assert remarks(report, histories, PEOPLE) == []


def test_what_is_missing_is_remarked(report: dict[str, Any]) -> None:
    rows = {"student": report["models"]["student"] | {"not_finite": 3}}
    bare = {**report, "models": rows, "store": None}
    found = remarks(bare, {"student": history(validation_pck=None)}, Gallery([], [], 40, 38, 0))
    for words in ("no finished teacher", "no heatmap store", "without validation", "3 predicted j"):
        assert any(words in remark for remark in found)
    assert any("2 of 40 test people" in remark for remark in found)
    assert any("metrics.jsonl" in remark for remark in remarks(report, {}, PEOPLE))


def test_a_student_of_another_teacher_is_remarked(report: dict[str, Any]) -> None:
    other = {**report["models"]["teacher"]}
    other["record"] = {"result": {"weights_sha256": "another"}}
    rows = {**report["models"], "teacher": other}
    found = remarks({**report, "models": rows}, dict.fromkeys(rows, history()), PEOPLE)
    assert found == ["student learned from another teacher than this directory's."]


def test_charts_have_tables_of_their_numbers(report: dict[str, Any]) -> None:
    long = [{"epoch": n, "loss": 1.0 / n} for n in range(1, 131)]
    tables = chart_tables(report["models"], {"student": long, "teacher": history()})
    assert [row[0].text for row in tables["curves"].rows][-1] == "0.20"
    assert len(tables["bars"].rows) == 14
    assert tables["loss"].header == ["epoch", "teacher", "student"]
    epochs = [row[0].text for row in tables["loss"].rows]
    assert epochs[:2] == ["1", "4"] and epochs[-1] == "130" and len(epochs) <= 61
    assert [cell.text for cell in tables["loss"].rows[-1]] == ["130", "-", "0.007692"]
    assert [cell.text for cell in tables["validation_pck"].rows[0]] == ["1", "50"]
    assert "learning_rate" not in tables


def test_numbers_are_for_reading() -> None:
    assert duration(3.14) == "3.1 s"
    assert duration(59.7) == "1 min 00 s"
    assert duration(7325) == "2 h 02 min"
    assert megabytes(2_500_000_000) == "2.50 GB"
    assert at({"a": {"b": 0}}, "a.b") == 0
    assert at({"a": [1]}, "a.b") == at(None, "a") == at({"a": None}, "a") == MISSING


@pytest.mark.parametrize("alpha", [1, 1.0])
def test_a_student_of_heatmaps_alone(report: dict[str, Any], alpha: float) -> None:
    record = {"identity": {"settings": {"training": {"alpha": alpha}}}}
    facts = dict(model_facts({"student": {"record": record}})["student"])
    assert facts["learned from"] == "heatmaps alone"
