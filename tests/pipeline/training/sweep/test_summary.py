"""Summaries of sweeps: means, standard deviations, and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from fpd.pipeline.training.sweep.summary import best, draw, markdown, spread, summarize, table


def run(point: str, seed: int, mean: float, **changes: Any) -> dict[str, Any]:
    return {
        "point": point,
        "seed": seed,
        "fold": None,
        "mean": mean,
        "auc": mean / 2,
        "validation_pck": 0.3,
        "parameters": 60_000,
        "gmacs": 0.0266,
        "epochs": 10,
        "seconds": 100.0 + seed,
    } | changes


RUNS = [
    run("alpha=0", 0, 0.40),
    run("alpha=0", 1, 0.42),
    run("alpha=0.5", 0, 0.50),
    {"point": "alpha=0.5", "seed": 1, "fold": None, "error": "the loss became nan"},
    {"point": "alpha=2", "seed": 0, "fold": None, "error": "student.alpha: too large"},
]
SWEEP = {"runs": RUNS, "points": summarize(RUNS)}


def test_spreads_are_means_and_sample_deviations() -> None:
    # 40 and 42: a mean of 41, and a deviation of sqrt(2) with n - 1 = 1.
    assert spread([0.40, 0.42]) == "41.0 ± 1.4"
    assert spread([0.5]) == "50.0"
    assert spread([]) == "-"


def test_each_point_has_its_runs_and_its_failures() -> None:
    plain, half, wrong = SWEEP["points"]
    assert (plain["pck"], plain["runs"], plain["failed"]) == ([0.40, 0.42], 2, 0)
    assert plain["seconds"] == 100.5
    assert (half["pck"], half["runs"], half["failed"]) == ([0.50], 1, 1)
    assert (wrong["pck"], wrong["runs"], wrong["parameters"]) == ([], 0, None)


def test_the_table_has_a_line_for_each_point_and_each_failure() -> None:
    header, plain, half, wrong, *failures = table(SWEEP).splitlines()
    assert header.split()[:3] == ["student", "runs", "PCK"]
    assert plain.split()[:5] == ["alpha=0", "2", "41.0", "±", "1.4"]
    assert "0.06 M" in plain
    assert plain.endswith("100")
    assert half.startswith("alpha=0.5  1 (1 failed)")
    assert wrong.split()[-1] == "-"
    assert failures == [
        "failed: alpha=0.5, seed 1: the loss became nan",
        "failed: alpha=2, seed 0: student.alpha: too large",
    ]


def test_the_markdown_table_has_a_row_for_each_point() -> None:
    lines = markdown({"points": summarize([run("a|b", 0, 0.4)])}).splitlines()
    assert lines[2].startswith("| a/b | 1 | 40.0 | 20.0 |")
    assert len({line.count("|") for line in lines}) == 1


def test_names_are_neither_markup_nor_html_nor_new_lines() -> None:
    point = "<img src=x> `a` *b*\n\x1b[2J"
    (*_, row) = markdown({"points": summarize([run(point, 0, 0.4)])}).splitlines()
    # The escape's own backslash is a character of the text, too, so Markdown needs two.
    assert row.startswith(r"| \<img src=x\> \`a\` \*b\*\\n\\x1b\[2J | 1 | 40.0 |")


def test_the_best_point_has_the_highest_mean() -> None:
    assert best(SWEEP) == "alpha=0.5"
    assert best({"points": summarize(RUNS[-1:])}) is None


ODD_NAMES = {
    "points": summarize(
        [run("costs $5 or $", 0, 0.4), run(r"$\frac$", 0, 0.4), run("\x1b[2J\ud800", 0, 0.4)]
    )
}


@pytest.mark.parametrize("sweep", [SWEEP, {"points": summarize(RUNS[-1:])}, ODD_NAMES])
def test_the_plot_is_a_png(tmp_path: Path, sweep: dict[str, Any]) -> None:
    draw(sweep, tmp_path / "sweep.png")
    image = cv2.imread(str(tmp_path / "sweep.png"))
    assert image.std() > 10
