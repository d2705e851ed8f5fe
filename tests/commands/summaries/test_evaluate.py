"""What `fpd evaluate` prints: the numbers of the report in aligned columns."""

from __future__ import annotations

from typing import Any

from fpd.commands.summaries.evaluate import describe


def row(mean: float, **changes: Any) -> dict[str, Any]:
    return {
        "metric": "PCK@0.2",
        "mean": mean,
        "mean_unweighted": mean - 0.01,
        "auc": mean / 2,
        "groups": {"head": 0.9, "ankle": 0.1234},
        "parameters": 25_434_112,
        "gmacs": 27.4321,
        "ms_per_image": 12.345,
        "samples": 500,
    } | changes


ONE_PASS = {"flip_test": False, "scales": [1.0]}

REPORT: dict[str, Any] = {
    "store": None,
    "evaluation": ONE_PASS,
    "models": {
        "teacher": row(0.8126),
        "labels-only": row(0.5, parameters=123_456, gmacs=None, groups={"head": 1, "ankle": 0}),
    },
}


def test_the_table_has_scores_and_cost() -> None:
    title, header, teacher, student = describe(REPORT).splitlines()
    assert title == "PCK@0.2 in percent, 500 samples"
    columns = "model head ankle mean unweighted AUC params GMACs ms/image"
    assert " ".join(header.split()) == columns
    assert " ".join(teacher.split()) == "teacher 90.0 12.3 81.3 80.3 40.6 25.43 M 27.432 12.3"
    assert " ".join(student.split()) == "labels-only 100.0 0.0 50.0 49.0 25.0 0.12 M - 12.3"


def test_columns_are_aligned() -> None:
    _, header, *rows = describe(REPORT).splitlines()
    for name in ("head", "mean", "AUC"):
        end = header.index(name) + len(name)
        for line in rows:
            assert line[end - 1].isdigit() and line[end] == " "
    assert all(line.startswith(name) for line, name in zip(rows, REPORT["models"], strict=True))


def test_test_time_augmentation_is_in_the_title() -> None:
    evaluation = {"flip_test": True, "scales": [0.8, 1.0]}
    title = describe(REPORT | {"evaluation": evaluation}).splitlines()[0]
    assert title == "PCK@0.2 in percent, 500 samples, flip test, scales 0.8, 1"


def test_the_store_is_below_the_table() -> None:
    store = {
        "views": 4,
        "samples": 1900,
        "bytes": 12_345_678,
        "float16_bytes": 111_111_102,
        "teacher_passes": 7600,
        "distilled_students": 2,
        "teacher_passes_online": 30_400,
    }
    *table, size, passes = describe(REPORT | {"store": store}).splitlines()
    assert table == describe(REPORT).splitlines()
    for text in ("4 views of 1,900 samples", "12.3 MB", "111.1 MB", "9.0 times"):
        assert text in size
    for text in ("7600 to fill", "2 students", "30400"):
        assert text in passes


def test_joints_that_a_model_does_not_predict_are_listed() -> None:
    models = {"teacher@store": row(0.5, uncovered_joints=["head top"])}
    assert "head top" in describe(REPORT | {"models": models}).splitlines()[-1]


def test_oks_has_a_table_or_a_reason() -> None:
    oks = {"AP": 0.5, "AP50": 0.8, "AP75": 0.5, "AP(M)": None, "AP(L)": 0.6, "AR": 0.55}
    models = {"a": row(0.5, oks=oks), "b": row(0.5, oks=None, oks_left_out="no sigmas")}
    *_, header, scores, reason = describe(REPORT | {"models": models}).splitlines()
    assert header.split()[3] == "AP75"
    assert scores.split() == ["a", "50.0", "80.0", "50.0", "-", "60.0", "55.0"]
    assert reason.endswith("no sigmas")
