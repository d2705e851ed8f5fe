"""What `fpd evaluate` prints of a work directory's models."""

from __future__ import annotations

from typing import Any

from ...pipeline.evaluation.oks import STATISTICS
from ...pipeline.evaluation.report.scores import number_or_dash, percent
from ...pipeline.evaluation.report.tables import agreement_table
from ...pipeline.runtime.text import align, format_bytes, pluralize, printable

Rows = dict[str, dict[str, Any]]


def describe(report: dict[str, Any]) -> str:
    """The models side by side, in percent, in the columns of published tables."""
    models: Rows = report["models"]
    first = next(iter(models.values()))
    scores = [*first["groups"], "mean", "unweighted", "AUC"]
    header = ["model", *scores, "params", "GMACs", "ms/image"]
    samples = pluralize(first["samples"], "sample")
    return "\n".join(
        [
            f"{first['metric']} in percent, {samples}{_passes(report['evaluation'])}",
            align([header, *([name, *_cells(row)] for name, row in models.items())]),
            *_agreement(models),
            *_uncovered_joints(models),
            *_store(report["store"]),
            *_oks(models),
        ]
    )


def _cells(row: dict[str, Any]) -> list[str]:
    shares = [*row["groups"].values(), row["mean"], row["mean_unweighted"], row["auc"]]
    millions = None if row["parameters"] is None else row["parameters"] / 1e6
    return [
        *map(percent, shares),
        number_or_dash(millions, "{:.2f} M"),
        number_or_dash(row["gmacs"], "{:.3f}"),
        number_or_dash(row["ms_per_image"], "{:.1f}"),
    ]


def _passes(evaluation: dict[str, Any]) -> str:
    """The test-time augmentation; nothing for one pass per sample."""
    flip_test = ", flip test" if evaluation["flip_test"] else ""
    scales = ", ".join(f"{scale:g}" for scale in evaluation["scales"])
    return flip_test + (f", scales {scales}" if len(evaluation["scales"]) > 1 else "")


def _uncovered_joints(models: Rows) -> list[str]:
    """Models whose scores are over fewer joints than the others'."""
    return [
        printable(
            f"{name} does not predict {', '.join(row['uncovered_joints'])}: its scores leave them "
            "out"
        )
        for name, row in models.items()
        if row.get("uncovered_joints")
    ]


def _agreement(models: Rows) -> list[str]:
    """The models' distances from the teacher, where there are no labels; otherwise nothing."""
    table = agreement_table(models)
    if table is None:
        return []
    return [
        table.caption,
        align([table.header, *([cell.text for cell in row] for row in table.rows)]),
    ]


def _store(store: dict[str, Any] | None) -> list[str]:
    """The store's size, and the teacher passes that it saves."""
    if not store or not store["bytes"]:
        return []
    ratio = store["float16_bytes"] / store["bytes"]
    return [
        f"store: {pluralize(store['views'], 'view')} of {pluralize(store['samples'], 'sample')} in "
        f"{format_bytes(store['bytes'])}; raw float16 would take "
        f"{format_bytes(store['float16_bytes'])}, {ratio:.1f} times as much",
        f"teacher passes: {store['teacher_passes']} to fill the store; online distillation of "
        f"{pluralize(store['distilled_students'], 'student')} would have taken "
        f"{store['teacher_passes_online']}",
    ]


def _oks(models: Rows) -> list[str]:
    """The models' OKS, and why it is left out; nothing if the data is not in COCO's format."""
    rows = {name: row for name, row in models.items() if "oks" in row}
    scored = {name: row["oks"] for name, row in rows.items() if row["oks"]}
    reasons = sorted({row["oks_left_out"] for row in rows.values() if not row["oks"]})
    lines = [f"OKS left out: {reason}" for reason in reasons]
    if not scored:
        return lines
    cells = [[name, *(percent(oks[key]) for key in STATISTICS)] for name, oks in scored.items()]
    return [
        "OKS in percent, with the labels' boxes",
        align([["model", *STATISTICS], *cells]),
        *lines,
    ]
