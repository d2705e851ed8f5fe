"""The table of an evaluation: the right numbers in straight columns."""

from __future__ import annotations

import math
from typing import Any

from fpd.pipeline.evaluation.report.scores import table
from fpd.pipeline.runtime.text import align


def row(mean: float, **changes: Any) -> dict[str, Any]:
    thresholds = [0.01 * i for i in range(21)]
    return {
        "metric": "PCK@0.2",
        "mean": mean,
        "mean_unweighted": mean - 0.01,
        "auc": mean / 2,
        "groups": {"head": 0.9, "ankle": 0.1234},
        "parameters": 25_434_112,
        "gmacs": 27.4321,
        "ms_per_image": 12.345,
        "people": 500,
        "curve": {"thresholds": thresholds, "pck": [mean * t / 0.2 for t in thresholds]},
    } | changes


ONE_PASS = {"flip": False, "scales": [1.0]}

REPORT: dict[str, Any] = {
    "store": None,
    "evaluation": ONE_PASS,
    "models": {
        "teacher": row(0.8126),
        "labels-only": row(0.5, parameters=123_456, gmacs=0.0123, groups={"head": 1, "ankle": 0}),
    },
}


def test_the_table_has_the_numbers_in_percent_millions_and_gmacs() -> None:
    title, header, teacher, student = table(REPORT).splitlines()
    assert title == "PCK@0.2 in percent, 500 people"
    assert header.split() == [
        *["model", "head", "ankle", "mean", "unweighted", "AUC", "params", "GMACs", "ms/image"]
    ]
    assert teacher.split() == [
        *["teacher", "90.0", "12.3", "81.3", "80.3", "40.6", "25.43", "M", "27.432", "12.3"]
    ]
    assert student.split() == [
        *["labels-only", "100.0", "0.0", "50.0", "49.0", "25.0", "0.12", "M", "0.012", "12.3"]
    ]


def test_the_table_says_how_often_the_models_were_asked() -> None:
    asked = {"flip": True, "scales": [0.8, 1.0]}
    assert table(REPORT | {"evaluation": asked}).startswith(
        "PCK@0.2 in percent, 500 people, flip test, scales 0.8, 1\n"
    )


def test_columns_are_straight() -> None:
    _, header, *rows = table(REPORT).splitlines()
    for word in ("head", "mean", "AUC", "GMACs"):
        end = header.index(word) + len(word)
        for line in rows:
            assert line[end - 1].isdigit()
            assert line[end : end + 1] in ("", " ")
    assert all(line.startswith(name) for line, name in zip(rows, REPORT["models"], strict=True))


def test_the_stores_bill_stands_under_the_table() -> None:
    store = {
        "views": 4,
        "samples": 1900,
        "bytes": 12_345_678,
        "float16_bytes": 111_111_102,
        "teacher_passes": 7600,
        "distilled_students": 2,
        "teacher_passes_online": 30_400,
    }
    lines = table(REPORT | {"store": store}).splitlines()
    assert lines[:4] == table(REPORT).splitlines()
    assert len(lines) == 6
    for fact in ("4 views of 1,900 people", "12.3 MB", "111.1 MB", "9.0 x"):
        assert fact in lines[4]
    for fact in ("7600 to fill it", "2 distilled", "30400"):
        assert fact in lines[5]


def test_align_pads_to_the_widest_and_leaves_no_blanks_behind() -> None:
    assert align([["a", "bb", "c"], ["aaa", "b", ""]]) == "a    bb  c\naaa   b"


def test_a_share_of_nothing_is_shown_as_such() -> None:
    models = {"student": row(0.5, groups={"head": math.nan, "ankle": 0.5})}
    report = {"store": None, "evaluation": ONE_PASS, "models": models}
    assert table(report).splitlines()[2].split()[1:3] == ["nan", "50.0"]
