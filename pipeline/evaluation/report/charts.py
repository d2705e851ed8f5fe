"""The report's charts: SVG from matplotlib, for inclusion in the HTML page.

The only text in them that is not ours are the names of joints, which are shown as they are: a "$"
does not start a formula. Models differ in color, line style and marker, which the page's legends
explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.text import shorten
from .published import Published
from .svg import INK, PAPER, SERIES, render_svg, render_symbol

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

BAR_INCHES = 0.065
"""Height of a bar."""

JOINT_GAP = 1.0
"""Between the bars of two joints, in heights of a bar."""

MIN_JOINT_INCHES = 0.22
"""Smallest height of a joint's bars together, so that the names of joints do not overlap."""

MAX_LETTERS = 24
"""Of a name in a chart; longer ones are cut, or would leave no space for the data."""

Rows = Mapping[str, Mapping[str, Any]]
History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SeriesStyle:
    """How a model is drawn, in all charts.

    Attributes:
        color: an index into `SERIES`.
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
            number % len(SERIES), _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
        )
        for number, name in enumerate(names)
    }


def pck_curves(rows: Rows) -> str:
    """PCK by threshold, one line per model."""

    def draw(axes: Any) -> None:
        for name, style in series_styles(list(rows)).items():
            if rows[name]["mean"] is None:
                continue
            curve = rows[name]["curve"]
            _line(axes, style, curve["thresholds"], [100 * share for share in curve["pck"]])
        axes.set(xlabel="threshold, units of length", ylabel="correct joints, %", ylim=(0, 100))
        axes.set_xlim(left=0)

    return render_svg(draw, "curves")


def joint_bars(rows: Rows) -> str:
    """PCK of each joint that counts, one bar per model, the first model on top."""
    per_joint = next(iter(rows.values()))["per_joint"]
    joints = [joint for joint, share in per_joint.items() if share is not None]
    step = len(rows) + JOINT_GAP

    def draw(axes: Any) -> None:
        for position, (name, style) in enumerate(series_styles(list(rows)).items()):
            shares = [rows[name]["per_joint"][joint] for joint in joints]
            percents = [math.nan if share is None else 100 * share for share in shares]
            y = [number * step + position for number in range(len(joints))]
            color = SERIES[style.color]
            axes.barh(y, percents, height=0.9, color=color, alpha=0.75)
            axes.plot(percents, y, style.marker, color=color, markersize=3.5)
        middles = [number * step + (len(rows) - 1) / 2 for number in range(len(joints))]
        names = [shorten(joint, MAX_LETTERS) for joint in joints]
        axes.set_yticks(middles, names, parse_math=False)
        axes.set(xlabel="correct joints, %", xlim=(0, 102), ylim=(len(joints) * step - 0.5, -1))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    return render_svg(
        draw, "bars", height=0.7 + max(MIN_JOINT_INCHES, BAR_INCHES * step) * len(joints)
    )


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
                _line(axes, style, epochs, [scale * value for value in values])
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return render_svg(draw, f"training-{key}")


def cost_chart(rows: Rows, published_results: Sequence[Published]) -> str:
    """PCK against multiply-accumulates per crop; published results have hollow markers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def draw(axes: Any) -> None:
        for name, style in series_styles(list(rows)).items():
            row, color = rows[name], SERIES[style.color]
            if row["mean"] is None or row["gmacs"] is None:
                continue
            point = {"color": color, "markersize": 9, "markeredgecolor": PAPER}
            axes.plot(row["gmacs"], 100 * row["mean"], style.marker, **point)
        for result in published_results:
            hollow = {"color": INK, "markersize": 8, "fillstyle": "none"}
            axes.plot(result.gmacs, result.score, result.marker, **hollow)
        axes.set(xlabel="GMACs per crop", ylabel="PCK, %", xscale="log", ylim=(0, 100))
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(LogLocator(numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())

    return render_svg(draw, "cost")


def series_symbol(style: SeriesStyle, symbol_id: str) -> str:
    """A model's line and marker as an SVG symbol, for legends."""

    def draw(axes: Any) -> None:
        _line(axes, style, [0, 1, 2], [0, 0, 0], marker_positions=[1], marker_size=7)
        axes.set(xlim=(0, 2), ylim=(-1, 1))

    return render_symbol(draw, symbol_id)


def published_symbol(marker: str, symbol_id: str) -> str:
    """A published result's marker as an SVG symbol, for the legend."""

    def draw(axes: Any) -> None:
        axes.plot(0, 0, marker, color=INK, markersize=8, fillstyle="none")

    return render_symbol(draw, symbol_id)


def draw_curves(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of PCK by threshold, one line per model.

    Args:
        report: the content of `report.json`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    scored = {name: row for name, row in report["models"].items() if row["mean"] is not None}
    for row in scored.values():
        shares = [100 * share for share in row["curve"]["pck"]]
        axes.plot(row["curve"]["thresholds"], shares, label="set below")
    axes.set_xlabel("threshold, units of length")
    axes.set_ylabel("correct joints, %")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if scored:
        metric = next(iter(scored.values()))["metric"]
        entries = axes.legend(title=metric).get_texts()
        for entry, (name, row) in zip(entries, scored.items(), strict=True):
            # Set here, because matplotlib leaves out labels that start with "_".
            entry.set_text(f"{shorten(name, MAX_LETTERS)}: {100 * row['mean']:.1f}")
            entry.set_parse_math(False)  # a "$" in a model's name does not start a formula
    figure.savefig(path, format="png")


def _has_metric(row: Mapping[str, Any], key: str) -> bool:
    return all(isinstance(row.get(name), int | float) for name in ("epoch", key))


def _line(
    axes: Any,
    style: SeriesStyle,
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
        color=SERIES[style.color],
        linestyle=style.line,
        linewidth=1.6,
        marker=style.marker,
        markersize=marker_size,
        markevery=marker_positions or (style.color % step, step),
    )
