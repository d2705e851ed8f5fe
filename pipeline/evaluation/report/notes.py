"""The report's notes: what is missing from it, and what makes its numbers hard to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...runtime.text import pluralize
from .gallery import Gallery
from .scores import TEACHER
from .tables import MISSING, Histories, Rows, at


def notes(report: Mapping[str, Any], histories: Histories, gallery: Gallery) -> list[str]:
    """Sentences for the top of the report; empty if there is nothing to note."""
    rows: Rows = report["models"]
    sentences = []
    if TEACHER not in rows:
        sentences.append(
            "The work directory has no finished teacher: its predictions, and its disagreement "
            "with the labels, are not shown."
        )
    if not report["store"]:
        sentences.append("There is no heatmap store.")
    for name, row in rows.items():
        sentences += _model_notes(name, row, histories.get(name, ()))
        if _has_other_teacher(row, report):
            sentences.append(f"{name} was distilled from another teacher than the one shown here.")
    if gallery.scored_count == 0:
        sentences.append(
            "No test sample has a label that counts: there are no scores, and samples are shown in "
            "the order of the data set."
        )
    elif gallery.scored_count < gallery.sample_count:
        sentences.append(
            f"{gallery.sample_count - gallery.scored_count} of {gallery.sample_count} test samples "
            "have no joint that counts and are not shown."
        )
    return sentences


def _model_notes(name: str, row: Mapping[str, Any], history: Sequence[Any]) -> list[str]:
    sentences = []
    if "teacher" in row:
        if row["uncovered_joints"]:
            uncovered = ", ".join(row["uncovered_joints"])
            sentences.append(f"{name} does not predict {uncovered}: its scores leave them out.")
    elif not history:
        sentences.append(f"{name} has no readable metrics.jsonl: its training curves are missing.")
    elif all(epoch.get("validation_pck") is None for epoch in history):
        sentences.append(
            f"{name} was trained without validation samples: it has the weights of its last epoch."
        )
    if row.get("oks_left_out"):
        sentences.append(f"OKS of {name} is left out: {row['oks_left_out']}")
    if row.get("not_finite"):
        joints = pluralize(row["not_finite"], "predicted joint")
        sentences.append(f"{name}: {joints} NaN or infinite, counted as wrong.")
    return sentences


def _has_other_teacher(row: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether a student's teacher is recorded and is not the report's teacher."""
    distilled_from = at(row, "record.identity.inputs.teacher.sha256")
    teacher = at(report, f"models.{TEACHER}.record.result.weights_sha256")
    return MISSING not in (distilled_from, teacher) and distilled_from != teacher
