"""Charts: positions of the data, colors from the page, names as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from fpd.pipeline.evaluation.report import charts
from fpd.pipeline.evaluation.report.published import PUBLISHED, comparability, published_results
from fpd.pipeline.runtime.palette import LIGHT

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
CHARTS = ("curves", "bars", "cost", "loss", "rate")


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    names = list(ROWS)
    return {
        "curves": charts.pck_curves(ROWS),
        "bars": charts.joint_bars(ROWS),
        "cost": charts.cost_chart(ROWS, PUBLISHED),
        "loss": charts.training_curves(HISTORIES, names, "loss", "loss"),
        "rate": charts.training_curves(HISTORIES, names, "learning_rate", "learning rate"),
    }


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text or "" for element in root.iter("text")]


def points(svg: str, color: str) -> list[tuple[float, float]]:
    """The points of a model's line, in the SVG's units."""
    match = re.search(rf'<path d="([^"]*)"[^>]*stroke: var\(--{color}\); stroke-width: 1\.6', svg)
    assert match is not None
    pairs = re.findall(r"[ML] ([\d.]+) ([\d.]+)", match[1])
    return [(float(x), float(y)) for x, y in pairs]


@pytest.mark.parametrize("name", CHARTS)
def test_charts_use_the_pages_colors_and_no_name_is_markup(
    drawn: dict[str, str], name: str
) -> None:
    svg = drawn[name]
    ElementTree.fromstring(svg)  # well-formed
    assert not re.search(r"#[0-9a-f]{6}(?!\w)", re.sub(r'href="#\w+"|url\(#\w+\)', "", svg))
    assert {"var(--ink)", "var(--s0)"} <= set(re.findall(r"var\(--\w+\)", svg))
    for text in ("<b", "font-family", "http", "<style", "<metadata"):
        assert text not in svg


def test_ids_are_unique_over_all_charts(drawn: dict[str, str]) -> None:
    symbols = [charts.series_symbol(style, f"series-{n}") for n, style in enumerate(_styles(9))]
    ids = [re.findall(r' id="([^"]*)"', svg) for svg in (*drawn.values(), *symbols)]
    flat = [name for chart_ids in ids for name in chart_ids]
    assert len(set(flat)) == len(flat) > 10


def _styles(count: int) -> list[charts.SeriesStyle]:
    return list(charts.series_styles([str(n) for n in range(count)]).values())


def test_curves_end_at_the_last_share(drawn: dict[str, str]) -> None:
    """The y axis is 0 % to 100 %, so 80 % is at four fifths of its height."""
    high, low = points(drawn["curves"], "s0"), points(drawn["curves"], "s1")
    bottom = high[0][1]
    assert low[0][1] == bottom
    top = bottom - (bottom - high[-1][1]) / 0.8
    assert bottom - low[-1][1] == pytest.approx(0.4 * (bottom - top), abs=0.1)
    assert high[-1][0] == low[-1][0] > high[0][0]


def test_bars_show_joints_that_count(drawn: dict[str, str]) -> None:
    assert {"left ankle", "head top"} <= set(texts(drawn["bars"]))
    assert "pelvis" not in texts(drawn["bars"])


def test_names_of_joints_are_no_formulas_and_no_markup() -> None:
    names = [r"$\frac{$", "$x$", "<b>&", "\x1b[2J\x00"]
    rows = {"teacher": row(0.8) | {"per_joint": dict.fromkeys(names, 0.5)}}
    shown = texts(charts.joint_bars(rows))
    assert {r"$\frac{$", "$x$", "<b>&", r"\x1b[2J\x00"} <= set(shown)


def test_tick_labels_are_not_rounded(drawn: dict[str, str]) -> None:
    assert "0.00025" in texts(drawn["rate"])


def test_the_loss_curve_follows_its_values(drawn: dict[str, str]) -> None:
    (_, first), (_, second), (_, third) = points(drawn["loss"], "s0")
    # Loss 3, 1.5, 1: the first difference is three times the second.
    assert second - first == pytest.approx(3 * (third - second), abs=0.1)


def test_all_charts_have_one_width_and_one_type_size(drawn: dict[str, str]) -> None:
    """The page shows all at the same width, so that their letters have one size."""
    widths = {re.search(r'viewBox="0 0 ([\d.]+) ', svg)[1] for svg in drawn.values()}  # type: ignore[index]
    assert widths == {"259.2"}
    sizes = {size for svg in drawn.values() for size in re.findall(r"font-size: ([\d.]+)px", svg)}
    assert sizes == {"10"}


def test_models_without_a_cost_or_a_score_are_not_in_the_cost_chart() -> None:
    rows = {"a": row(0.5), "b": row(0.5) | {"gmacs": None}, "c": row(0.5) | {"mean": None}}
    assert charts.costs_and_scores(rows) == {"a": (0.51, 50.0)}
    assert charts.costs_and_scores({}) == {}


def test_many_models_have_markers_in_one_row_a_joint() -> None:
    def height(count: int) -> float:
        svg = charts.joint_bars({str(n): row(0.1 * n) for n in range(count)})
        return float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)', svg)[1])  # type: ignore[index]

    assert height(1) < height(4) and height(5) == height(12) < 1.5 * height(4)


def test_published_gmacs_are_half_the_gflops_and_mpii_has_more_results() -> None:
    assert [result.gmacs for result in published_results("lsp/test")] == [4.5, 4.5, 27.5]
    assert len(published_results("mpii/validation")) == 5


def test_comparability_depends_on_the_data_set() -> None:
    datasets = ("mpii/validation", "lsp/test", "synthetic/test")
    assert len({comparability(dataset) for dataset in datasets}) == 3
    assert "synthetic/test" in comparability("synthetic/test")


def test_styles_of_many_models_are_distinct() -> None:
    assert len(set(_styles(84))) == 84
    few = _styles(6)
    assert len({style.color for style in few}) == len({style.marker for style in few}) == 6


def test_curves_are_written_as_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "pck_curve.png"
    charts.draw_curves({"models": {r"_$\frac{$" + "\x1b": ROWS["teacher"], "<b>": row(0.4)}}, path)
    image = cv2.imread(str(path))
    assert image.shape == (600, 900, 3)
    for color in LIGHT.series[:2]:  # the page's, for the two models
        blue_green_red = [*bytes.fromhex(color[1:])][::-1]
        assert (image == np.array(blue_green_red, np.uint8)).all(-1).sum() > 100
    assert list(tmp_path.iterdir()) == [path]
