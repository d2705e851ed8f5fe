"""The charts: the numbers where they belong, colors from the page, the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from fpd.pipeline.evaluation.report import charts

JOINTS = ("left ankle", "head top", "pelvis")


def row(mean: float) -> dict[str, Any]:
    thresholds = [0.01 * i for i in range(21)]
    return {
        "metric": "PCK@0.2",
        "mean": mean,
        "gmacs": 0.01 + mean,
        "per_joint": {"left ankle": mean, "head top": mean / 2, "pelvis": None},
        "curve": {"thresholds": thresholds, "pck": [mean * t / 0.2 for t in thresholds]},
    }


ROWS = {"teacher": row(0.8), "<b>$x_1$": row(0.4)}
HISTORIES = {
    "teacher": [
        {"epoch": n, "loss": 3.0 / n, "learning_rate": 0.0005 * n, "validation_pck": 0.1 * n}
        for n in (1, 2, 3)
    ]
}
DRAWINGS: dict[str, Callable[[], str]] = {
    "curves": lambda: charts.curves(ROWS),
    "bars": lambda: charts.bars(ROWS),
    "plane": lambda: charts.plane(ROWS, charts.PUBLISHED),
    "loss": lambda: charts.training(HISTORIES, list(ROWS), "loss", "loss"),
    "rate": lambda: charts.training(HISTORIES, list(ROWS), "learning_rate", "learning rate"),
}


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return {name: draw() for name, draw in DRAWINGS.items()}


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("text")]


def points(svg: str, color: str) -> list[tuple[float, float]]:
    """Where a model's line goes, in the SVG's units."""
    found = re.search(rf'<path d="([^"]*)"[^>]*stroke: var\(--{color}\); stroke-width: 1\.6', svg)
    assert found is not None
    pairs = re.findall(r"[ML] ([\d.]+) ([\d.]+)", found[1])
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_chart_is_made_of_the_pages_colors_and_holds_no_name(
    drawn: dict[str, str], name: str
) -> None:
    svg = drawn[name]
    ElementTree.fromstring(svg)  # well-formed
    assert not re.search(r"#[0-9a-f]{6}(?!\w)", re.sub(r'href="#\w+"|url\(#\w+\)', "", svg))
    assert {"var(--ink)", "var(--s0)"} <= set(re.findall(r"var\(--\w+\)", svg))
    for word in ("<b", "$x_1$", "teacher", "font-family", "http", "<style", "<metadata"):
        assert word not in svg


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_chart_is_the_same_each_time(drawn: dict[str, str], name: str) -> None:
    assert DRAWINGS[name]() == drawn[name]


def test_no_id_is_in_two_charts(drawn: dict[str, str]) -> None:
    symbols = [charts.swatch(look, f"look-{n}") for n, look in enumerate(_looks(9))]
    ids = [re.findall(r' id="([^"]*)"', svg) for svg in (*drawn.values(), *symbols)]
    together = [name for found in ids for name in found]
    assert len(set(together)) == len(together) > 10


def _looks(number: int) -> list[charts.Look]:
    return list(charts.looks([str(n) for n in range(number)]).values())


def test_the_curve_ends_at_the_last_share(drawn: dict[str, str]) -> None:
    """100 % is the top of the axes and 0 % the bottom: 80 % lies at four fifths."""
    high, low = points(drawn["curves"], "s0"), points(drawn["curves"], "s1")
    bottom = high[0][1]
    assert low[0][1] == bottom
    top = bottom - (bottom - high[-1][1]) / 0.8
    assert bottom - low[-1][1] == pytest.approx(0.4 * (bottom - top), abs=0.1)
    assert high[-1][0] == low[-1][0] > high[0][0]


def test_bars_are_of_joints_that_count(drawn: dict[str, str]) -> None:
    assert {"left ankle", "head top"} <= set(texts(drawn["bars"]))
    assert "pelvis" not in texts(drawn["bars"])


def test_labels_of_axes_are_not_rounded(drawn: dict[str, str]) -> None:
    assert "0.00025" in texts(drawn["rate"])


def test_training_starts_where_it_should_and_falls(drawn: dict[str, str]) -> None:
    (_, first), (_, second), (_, third) = points(drawn["loss"], "s0")
    # Loss 3, 1.5, 1: the fall from the first to the second is three times the next.
    assert second - first == pytest.approx(3 * (third - second), abs=0.1)


def test_markers_of_the_plane_are_an_order_of_magnitude_apart(drawn: dict[str, str]) -> None:
    """Ours at 0.81 and 0.41 GMACs, the paper's at 4.5 and 27.5, on a logarithmic axis."""
    uses = re.findall(r'<use href="#\w+" x="([\d.]+)" y="([\d.]+)" style="([^"]*)"', drawn["plane"])
    ours = [(float(x), float(y)) for x, y, style in uses if "var(--s" in style]
    theirs = [(float(x), float(y)) for x, y, style in uses if "fill-opacity: 0" in style]
    assert len(ours) == 2 and len(theirs) == 3
    by_log = (ours[0][0] - ours[1][0]) / np.log10(0.81 / 0.41)
    assert (theirs[2][0] - theirs[0][0]) / np.log10(27.5 / 4.5) == pytest.approx(by_log, rel=0.01)
    by_percent = (ours[1][1] - ours[0][1]) / 40
    assert (theirs[1][1] - theirs[0][1]) / (91.1 - 90.8) == pytest.approx(by_percent, rel=0.05)


def test_published_costs_are_halved_and_mpii_has_more() -> None:
    assert [other.gmacs for other in charts.published("lsp/test")] == [4.5, 4.5, 27.5]
    assert len(charts.published("mpii/validation")) == 5


def test_no_two_of_many_models_look_alike() -> None:
    assert len(set(_looks(84))) == 84
    first = _looks(6)
    assert len({look.color for look in first}) == 6
    assert len({look.marker for look in first}) == 6


def report(**means: float) -> dict[str, Any]:
    return {"models": {name: row(mean) for name, mean in means.items()}}


def test_curves_are_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "pck_curve.png"
    charts.draw_curves(report(teacher=0.8, student=0.5), path)
    image = cv2.imread(str(path))
    assert image.shape == (600, 900, 3)
    # Matplotlib's first two line colors, for the two models (BGR).
    for color in ([0xB4, 0x77, 0x1F], [0x0E, 0x7F, 0xFF]):
        assert (image == np.array(color, np.uint8)).all(-1).sum() > 100
    assert list(tmp_path.iterdir()) == [path]


def test_curves_replace_an_older_picture_and_follow_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    charts.draw_curves(report(teacher=0.8), path)
    before = path.read_bytes()
    charts.draw_curves(report(teacher=0.8), path)
    assert path.read_bytes() == before
    charts.draw_curves(report(teacher=0.1), path)
    assert path.read_bytes() != before
