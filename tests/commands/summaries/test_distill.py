"""The closing lines of `fpd distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fpd.commands.summaries.distill import describe
from fpd.commands.train import StageReports
from fpd.pipeline.config.recipe import Recipe

EXPORTED = {"path": "out.onnx", "bytes": 1_000_000}


def reports(recipe: Recipe, **row: Any) -> StageReports:
    return StageReports(
        recipe,
        photographs=300,
        heatmaps={"samples": 285, "views": 2, "bytes": 750_000},
        evaluation={"models": {"student": {"samples": 15, "joints": 0} | row}},
        seconds={"preparation": 0.5, "heatmaps": 65.0},
    )


def test_everything_that_was_made_is_named(toy_recipe: Recipe) -> None:
    values = {"mean_distance": 0.108, "within": {"0.05": 0.262, "0.1": 0.5}}
    text = describe(reports(toy_recipe, agreement=values), Path("work/out"), EXPORTED)
    for part in (
        "of 300 photographs: distilled on 285 people, 2 views of each (750.0 kB of heatmaps)",
        "time: preparation 0.5 s, heatmaps 1 min 5 s; in all 1 min 6 s",
        "student against teacher, not labels, on 15 people of held-out photographs: joints 10.8 % ",
        "26.2 % within 5 %",
        "out.onnx.json",
        "work/out/evaluation/report.html",
        "  fpd predict PHOTO -w work/out",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"joints": 9, "metric": "PCK@0.2", "mean": 0.471},
            "student: PCK@0.2 47.1 on 15 people with labels",
        ),
        (
            {"agreement": None},
            "student: nothing to compare on 15 people: the teacher sees none of their joints",
        ),
    ],
)
def test_the_score_depends_on_what_there_is(
    toy_recipe: Recipe, row: dict[str, Any], line: str
) -> None:
    text = describe(reports(toy_recipe, **row), Path("work/out"), EXPORTED)
    assert line in text.splitlines()
