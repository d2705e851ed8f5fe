"""The report's tables and lists: models, provenance, charts, the store."""

from __future__ import annotations

from typing import Any

from fpd.pipeline.evaluation.report.tables import (
    MISSING,
    at,
    chart_tables,
    model_facts,
    models_table,
    oks_table,
    store_facts,
)


def test_the_models_table_has_scores_and_cost(report: dict[str, Any]) -> None:
    table = models_table(report["models"])
    student = dict(zip(table.header, table.rows[2], strict=True))
    row = report["models"]["student"]
    assert student["model"].text == "student"
    assert student["mean"].value == row["mean"]
    assert student["mean"].text == f"{100 * row['mean']:.1f}"
    assert student["params, M"].text == "0.18"
    assert student["GMACs"].text == "0.033"
    assert student["training"].text == "1 min 23 s" and student["training"].value == 83.4


def test_model_facts_have_supervision_data_and_digests(report: dict[str, Any]) -> None:
    facts = {name: dict(pairs) for name, pairs in model_facts(report["models"]).items()}
    assert facts["teacher"]["supervision"] == "labels"
    assert facts["labels-only"]["supervision"] == "labels only"
    assert facts["student"]["supervision"] == "teacher heatmaps (alpha = 0.5) and labels"
    assert facts["student"]["network"] == "name hourglass, stages 1"
    assert facts["student"]["SHA-256 of the teacher"] == "sha-of-teacher"
    assert facts["student"]["SHA-256 of the weights"] == "sha-of-student"
    assert facts["student"]["training data"] == "figures/train, 99 samples"
    assert facts["student"]["training settings"] == "seed 7, alpha 0.5"
    assert "SHA-256 of the initial weights" not in facts["student"]
    assert facts["student"]["versions"] == MISSING


def test_model_facts_have_the_initial_weights() -> None:
    record = {"identity": {"inputs": {"init_from": "5e1f"}}}
    facts = dict(model_facts({"student": {"record": record}})["student"])
    assert facts["SHA-256 of the initial weights"] == "5e1f"


def test_fields_that_a_record_lacks_are_not_recorded(report: dict[str, Any]) -> None:
    rows = {name: {**row, "record": {}} for name, row in report["models"].items()}
    for facts in model_facts(rows).values():
        assert dict(facts)["SHA-256 of the weights"] == MISSING
    assert models_table(rows).rows[0][-1].text == "-"
    assert models_table(rows).rows[0][-1].value is None
    tree = {"a": {"b": 0, "c": None}}
    assert at(tree, "a.b") == 0 and at(tree, "a.c") == at(tree, "a.b.c") == at(None, "a") == MISSING


def test_store_facts_have_size_and_teacher_passes(report: dict[str, Any]) -> None:
    facts = dict(store_facts(report["store"]))
    assert facts["views"] == "3 of each of 99 samples"
    assert facts["size"] == "30.0 kB, 101 bytes per view"
    assert facts["as raw float16"] == "300.0 kB, 10.0 x as much"
    assert facts["teacher passes to fill the store"] == "594"
    assert facts["teacher passes of online distillation"].startswith("891")
    assert facts["error bound"] == "10 % of a heatmap's peak"
    assert facts["samples"] == f"{MISSING}, {MISSING} samples"
    assert store_facts(None) == []


def test_charts_have_tables_of_their_numbers(report: dict[str, Any]) -> None:
    one_epoch = [{"epoch": 1, "loss": 2.0, "validation_pck": 0.5}]
    long = [{"epoch": n, "loss": 1.0 / n} for n in range(1, 131)]
    tables = chart_tables(report["models"], {"student": long, "teacher": one_epoch})
    assert [row[0].text for row in tables["curves"].rows][-1] == "0.20"
    assert len(tables["bars"].rows) == 14
    assert tables["loss"].header == ["epoch", "teacher", "student"]
    epochs = [row[0].text for row in tables["loss"].rows]
    assert epochs[:2] == ["1", "4"] and epochs[-1] == "130" and len(epochs) <= 61
    assert [cell.text for cell in tables["loss"].rows[-1]] == ["130", "-", "0.007692"]
    assert [cell.text for cell in tables["validation_pck"].rows[0]] == ["1", "50"]
    assert "learning_rate" not in tables


def test_a_student_of_heatmaps_only() -> None:
    record = {"identity": {"settings": {"training": {"alpha": 1.0}}}}
    facts = dict(model_facts({"student": {"record": record}})["student"])
    assert facts["supervision"] == "teacher heatmaps only"


def test_an_external_teachers_facts_are_those_of_its_manifest_entry() -> None:
    spec = {"input_px": [256, 192], "joints": ["nose"]}
    teachers = [{"kind": "vitpose", "sha256": "5e1f", "spec": spec}]
    entry = {"covered_joints": ["head", "knee"], "teachers": teachers}
    facts = dict(model_facts({"teacher": {"teacher": entry}})["teacher"])
    assert facts == {
        "covered joints": "head, knee",
        "kind": "vitpose",
        "SHA-256": "5e1f",
        "input and output": "input_px [256, 192]",
    }


def test_oks_has_a_table() -> None:
    scores = {"AP": 0.512, "AP50": 0.8, "AP75": 0.5, "AP(M)": None, "AP(L)": 0.6, "AR": 0.55}
    table = oks_table({"student": {"oks": scores}, "teacher": {"oks": None}})
    assert table is not None and table.header[3] == "AP75"
    (row,) = table.rows
    assert [cell.text for cell in row] == ["student", "51.2", "80.0", "50.0", "-", "60.0", "55.0"]
    assert oks_table({"student": {}}) is None
