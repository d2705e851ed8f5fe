"""The report's charts: SVG from matplotlib, for inclusion in the HTML page.

The only texts in them that are not ours are names of joints and models, which are shown as they
are: a "$" does not start a formula. Models differ in color, line style and marker, which the page's
legends explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.palette import LIGHT, Theme, chart_style
from ...runtime.text import shorten
from .cost import Point, draw_cost
from .published import Published
from .svg import PLACEHOLDERS, render_svg, render_symbol

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

BAR_INCHES = 0.065
"""Height of a bar."""

JOINT_GAP = 1.0
"""Between the bars of two joints, in heights of a bar."""

MIN_JOINT_INCHES = 0.22
"""Smallest height of a joint's bars together, so that the names of joints do not overlap."""

MAX_BARS = 4
"""With more models, a joint has a row of markers instead of bars, which would fill a screen."""

ROW_INCHES = 0.3
"""Height of such a row."""

MAX_LETTERS = 24
"""Of a name in a chart; longer ones are cut, or would leave no space for the data."""

COST_INCHES = 2.9
"""Height of the cost chart."""

Rows = Mapping[str, Mapping[str, Any]]
History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SeriesStyle:
    """How a model is drawn, in all charts.

    Attributes:
        color: an index into `Theme.series`.
        line: matplotlib's line style.
        marker: matplotlib's marker.
    """

    color: int
    line: str
    marker: str


def series_styles(names: Sequence[str]) -> dict[str, SeriesStyle]:
    """A style for each model; the styles of up to 84 models are distinct."""
    return {
        name: SeriesStyle(
            number % len(LIGHT.series),
            _LINES[number % len(_LINES)],
            _MARKERS[number % len(_MARKERS)],
        )
        for number, name in enumerate(names)
    }


def pck_curves(rows: Rows) -> str:
    """PCK by threshold, one line per model."""
    return render_svg(lambda axes: _draw_curves(axes, rows, PLACEHOLDERS), "curves")


def _draw_curves(axes: Any, rows: Rows, theme: Theme) -> None:
    for name, style in series_styles(list(rows)).items():
        if rows[name]["mean"] is None:
            continue
        curve = rows[name]["curve"]
        _line(axes, style, theme, curve["thresholds"], [100 * share for share in curve["pck"]])
    axes.set(xlabel="threshold, units of length", ylabel="correct joints, %", ylim=(0, 100))
    axes.set_xlim(left=0)


def joint_bars(rows: Rows) -> str:
    """PCK of each joint that counts: one bar or marker per model, the first model on top."""
    per_joint = next(iter(rows.values()))["per_joint"]
    joints = [joint for joint, share in per_joint.items() if share is not None]
    step, has_bars = len(rows) + JOINT_GAP, len(rows) <= MAX_BARS

    def draw(axes: Any) -> None:
        for position, (name, style) in enumerate(series_styles(list(rows)).items()):
            shares = [rows[name]["per_joint"][joint] for joint in joints]
            percents = [math.nan if share is None else 100 * share for share in shares]
            y = [number * step + position for number in range(len(joints))]
            color = PLACEHOLDERS.series[style.color]
            if has_bars:
                axes.barh(y, percents, height=0.9, color=color, alpha=0.75)
            axes.plot(percents, y, style.marker, color=color, markersize=3.5 if has_bars else 5)
        middles = [number * step + (len(rows) - 1) / 2 for number in range(len(joints))]
        names = [shorten(joint, MAX_LETTERS) for joint in joints]
        axes.set_yticks(middles, names, parse_math=False)
        axes.set(xlabel="correct joints, %", xlim=(0, 102), ylim=(len(joints) * step - 0.5, -1))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    row_inches = max(MIN_JOINT_INCHES, BAR_INCHES * step) if has_bars else ROW_INCHES
    return render_svg(draw, "bars", height=0.7 + row_inches * len(joints))


def training_curves(
    histories: Mapping[str, History], names: Sequence[str], key: str, label: str
) -> str:
    """One metric by epoch, one line per model; models without the metric are left out.

    Args:
        histories: by model, the rows of its `metrics.jsonl`.
        names: of all models of the report, which determine their styles.
        key: of the metric, in the rows.
        label: of the y axis.
    """

    def draw(axes: Any) -> None:
        for name, style in series_styles(names).items():
            points = [
                (row["epoch"], row[key]) for row in histories.get(name, ()) if _has_metric(row, key)
            ]
            if points:
                epochs, values = zip(*points, strict=True)
                scale = 100 if key == "validation_pck" else 1
                _line(axes, style, PLACEHOLDERS, epochs, [scale * value for value in values])
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return render_svg(draw, f"training-{key}")


def cost_chart(rows: Rows, published_results: Sequence[Published]) -> str:
    """PCK against multiply-accumulates per crop (`draw_cost`), of the models with both.

    Args:
        rows: at least one model has both (`costs_and_scores`).
    """
    styles, costs = series_styles(list(rows)), costs_and_scores(rows)
    points = [
        Point(name, *cost, PLACEHOLDERS.series[styles[name].color], styles[name].marker)
        for name, cost in costs.items()
    ]
    return render_svg(
        lambda axes: draw_cost(axes, points, published_results, PLACEHOLDERS),
        "cost",
        height=COST_INCHES,
    )


def costs_and_scores(rows: Rows) -> dict[str, tuple[float, float]]:
    """GMACs and PCK in percent, by model; models without either are left out."""
    return {
        name: (row["gmacs"], 100 * row["mean"])
        for name, row in rows.items()
        if row["mean"] is not None and row["gmacs"]
    }


def series_symbol(style: SeriesStyle, symbol_id: str) -> str:
    """A model's line and marker as an SVG symbol, for legends."""

    def draw(axes: Any) -> None:
        _line(axes, style, PLACEHOLDERS, [0, 1, 2], [0, 0, 0], marker_positions=[1], marker_size=7)
        axes.set(xlim=(0, 2), ylim=(-1, 1))

    return render_symbol(draw, symbol_id)


def published_symbol(marker: str, symbol_id: str) -> str:
    """A published result's marker as an SVG symbol, for the table."""

    def draw(axes: Any) -> None:
        axes.plot(0, 0, marker, color=PLACEHOLDERS.soft, markersize=7, fillstyle="none")

    return render_symbol(draw, symbol_id)


def draw_curves(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of PCK by threshold, one line per model, as on the page.

    Args:
        report: the content of `report.json`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = report["models"]
    scored = {name: row for name, row in rows.items() if row["mean"] is not None}
    with matplotlib.rc_context(chart_style(LIGHT)):
        figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
        axes = figure.subplots()
        _draw_curves(axes, rows, LIGHT)
        if scored:
            metric = next(iter(scored.values()))["metric"]
            legend = axes.legend(
                axes.lines, [PLACEHOLDER_NAME] * len(scored), title=metric, **_LEGEND
            )
            for entry, (name, row) in zip(legend.get_texts(), scored.items(), strict=True):
                # Set here, because matplotlib leaves out labels that start with "_".
                entry.set_text(f"{shorten(name, MAX_LETTERS)}: {100 * row['mean']:.1f}")
                entry.set_parse_math(False)  # a "$" in a model's name does not start a formula
        figure.savefig(path, format="png")


PLACEHOLDER_NAME = "set below"
_LEGEND: dict[str, Any] = {
    "frameon": False,
    "loc": "upper left",
    "bbox_to_anchor": (1, 1),
    "alignment": "left",
    "handlelength": 3,
}


def _has_metric(row: Mapping[str, Any], key: str) -> bool:
    return all(isinstance(row.get(name), int | float) for name in ("epoch", key))


def _line(
    axes: Any,
    style: SeriesStyle,
    theme: Theme,
    x: Sequence[float],
    y: Sequence[float],
    marker_positions: Any = None,
    marker_size: float = 5,
) -> None:
    """Plot a model's line with about six markers, which are at different x for each color."""
    step = max(1, len(x) // 6)
    axes.plot(
        x,
        y,
        color=theme.series[style.color],
        linestyle=style.line,
        linewidth=1.6,
        marker=style.marker,
        markersize=marker_size,
        markevery=marker_positions or (style.color % step, step),
    )
