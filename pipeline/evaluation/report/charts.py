"""The charts: matplotlib's SVG, made to sit in the page and to take its colors from it.

A drawn color of `INK`, `GRID`, `PAPER` or `SERIES` becomes a CSS variable, so that a chart is
legible in light, in dark and in print. No chart holds text of the user's: models are told apart by
color, line style and marker, which the page's legends explain.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INK, GRID, PAPER = "#fe0101", "#fe0102", "#fe0103"
SERIES = tuple(f"#fe02{number:02x}" for number in range(6))
"""What is drawn in these is shown in the page's --ink, --grid, --paper and --s0 to --s5."""

_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

WIDTH_INCHES = 3.6
"""Small, so that a phone's screen shows text of 10 points in full size."""

BAR_INCHES = 0.065
JOINT_GAP = 1.0  # bars' widths
JOINT_INCHES = 0.22
"""At least, so that joints' names do not touch."""

Rows = Mapping[str, Mapping[str, Any]]
History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Look:
    """How a model is drawn, in every chart.

    Attributes:
        color: an index into `SERIES`.
        line: matplotlib's line style.
        marker: matplotlib's marker.
    """

    color: int
    line: str
    marker: str


@dataclass(frozen=True)
class Published:
    """A result of others', for the cost-accuracy plane.

    Attributes:
        name: of the model.
        gflops: as published; 2 floating-point operations a multiply-grad_accum_steps.
        million_parameters: as published.
        score: percent.
        measured_on: data set and metric.
        marker: matplotlib's.
    """

    name: str
    gflops: float
    million_parameters: float
    score: float
    measured_on: str
    marker: str

    @property
    def gmacs(self) -> float:
        return self.gflops / 2


_VALIDATION = "MPII validation, PCKh@0.5"
PUBLISHED = (
    Published("FPD, 4 x 128", 9, 3, 91.1, "MPII test, PCKh@0.5", "o"),
    Published("FPD, 4 x 128", 9, 3, 90.8, "LSP test, PCK@0.2", "s"),
    Published("hourglass, 8 x 256", 55, 26, 90.5, _VALIDATION, "^"),
)
"""Costs and the scores of test sets: the paper, Zhang, Zhu & Ye, CVPR 2019. Scores of MPII
validation: its authors' code, github.com/ilovepose/fast-human-pose-estimation.pytorch."""

PUBLISHED_ON_MPII = (
    Published("hourglass, 4 x 128, labels only", 9, 3, 87.9, _VALIDATION, "v"),
    Published("FPD, 4 x 128, from the trained student", 9, 3, 89.0, _VALIDATION, "D"),
)
"""The same code's, of interest beside MPII alone."""


def published(dataset: str) -> tuple[Published, ...]:
    """What others published, for a chart of scores on `dataset`."""
    return PUBLISHED + (PUBLISHED_ON_MPII if dataset.startswith("mpii") else ())


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each model: 84 before two have the same."""
    return {
        name: Look(
            number % len(SERIES), _LINES[number % len(_LINES)], _MARKERS[number % len(_MARKERS)]
        )
        for number, name in enumerate(names)
    }


def curves(rows: Rows) -> str:
    """PCK over its threshold, a line a model."""

    def draw(axes: Any) -> None:
        for name, look in looks(list(rows)).items():
            if rows[name]["mean"] is None:
                continue
            curve = rows[name]["curve"]
            _line(axes, look, curve["thresholds"], [100 * share for share in curve["pck"]])
        axes.set(xlabel="threshold, units", ylabel="joints found, %", ylim=(0, 100))
        axes.set_xlim(left=0)

    return _svg(draw, "curves")


def bars(rows: Rows) -> str:
    """PCK of each joint that counts, a bar a model, the first model on top."""
    scored = next(iter(rows.values()))["per_joint"]
    joints = [joint for joint, share in scored.items() if share is not None]
    step = len(rows) + JOINT_GAP

    def draw(axes: Any) -> None:
        for place, (name, look) in enumerate(looks(list(rows)).items()):
            found = [rows[name]["per_joint"][joint] for joint in joints]
            shares = [math.nan if share is None else 100 * share for share in found]
            y = [number * step + place for number in range(len(joints))]
            color = SERIES[look.color]
            axes.barh(y, shares, height=0.9, color=color, alpha=0.75)
            axes.plot(shares, y, look.marker, color=color, markersize=3.5)
        middles = [number * step + (len(rows) - 1) / 2 for number in range(len(joints))]
        axes.set_yticks(middles, joints)
        axes.set(xlabel="joints found, %", xlim=(0, 102), ylim=(len(joints) * step - 0.5, -1))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    return _svg(draw, "bars", height=0.7 + max(JOINT_INCHES, BAR_INCHES * step) * len(joints))


def training(histories: Mapping[str, History], names: Sequence[str], key: str, label: str) -> str:
    """One figure of each epoch, a line a model; models without it are left out."""

    def draw(axes: Any) -> None:
        for name, look in looks(names).items():
            points = [(row["epoch"], row[key]) for row in histories.get(name, ()) if _has(row, key)]
            if points:
                epochs, values = zip(*points, strict=True)
                scale = 100 if key == "validation_pck" else 1
                _line(axes, look, epochs, [scale * value for value in values])
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(draw, f"training-{key}")


def plane(rows: Rows, others: Sequence[Published]) -> str:
    """Multiply-accumulates of a crop against PCK; others' results are hollow."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def draw(axes: Any) -> None:
        for name, look in looks(list(rows)).items():
            row, color = rows[name], SERIES[look.color]
            if row["mean"] is None or row["gmacs"] is None:
                continue
            point = {"color": color, "markersize": 9, "markeredgecolor": PAPER}
            axes.plot(row["gmacs"], 100 * row["mean"], look.marker, **point)
        for other in others:
            axes.plot(
                other.gmacs, other.score, other.marker, color=INK, markersize=8, fillstyle="none"
            )
        axes.set(xlabel="GMACs a crop", ylabel="PCK, %", xscale="log", ylim=(0, 100))
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(LogLocator(numticks=7))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())

    return _svg(draw, "plane")


def swatch(look: Look, name: str) -> str:
    """A model's line and marker, as an SVG symbol called `name`, for legends."""

    def draw(axes: Any) -> None:
        _line(axes, look, [0, 1, 2], [0, 0, 0], every=[1], size=7)
        axes.set(xlim=(0, 2), ylim=(-1, 1))

    return _symbol(draw, name)


def hollow(marker: str, name: str) -> str:
    """A published result's marker, as an SVG symbol called `name`, for a legend."""

    def draw(axes: Any) -> None:
        axes.plot(0, 0, marker, color=INK, markersize=8, fillstyle="none")

    return _symbol(draw, name)


def draw_curves(report: Mapping[str, Any], path: Path) -> None:
    """PCK over its threshold, one line a model, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    scored = {name: row for name, row in report["models"].items() if row["mean"] is not None}
    for name, row in scored.items():
        shares = [100 * share for share in row["curve"]["pck"]]
        axes.plot(row["curve"]["thresholds"], shares, label=f"{name}: {100 * row['mean']:.1f}")
    axes.set_xlabel("threshold, in the person's unit of length")
    axes.set_ylabel("joints found, %")
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    if scored:
        for entry in axes.legend(title=row["metric"]).get_texts():
            entry.set_parse_math(False)  # "$" in a folder's name begins no formula
    figure.savefig(path, format="png")


def _has(row: Mapping[str, Any], key: str) -> bool:
    return all(isinstance(row.get(name), int | float) for name in ("epoch", key))


def _line(
    axes: Any,
    look: Look,
    x: Sequence[float],
    y: Sequence[float],
    every: Any = None,
    size: float = 5,
) -> None:
    """A model's line, with about six markers, not all in the same place for all models."""
    step = max(1, len(x) // 6)
    axes.plot(
        x,
        y,
        color=SERIES[look.color],
        linestyle=look.line,
        linewidth=1.6,
        marker=look.marker,
        markersize=size,
        markevery=every if every is not None else (look.color % step, step),
    )


def _symbol(draw: Callable[[Any], None], name: str) -> str:
    svg = _svg(draw, name, width=0.5, height=0.18, bare=True)
    return svg.replace("<svg", f'<symbol id="{name}"').replace("</svg>", "</symbol>")


def _svg(
    draw: Callable[[Any], None],
    salt: str,
    width: float = WIDTH_INCHES,
    height: float = 2.7,
    *,
    bare: bool = False,
) -> str:
    """What `draw` puts on a pair of axes, as markup for the page: the same bytes each time.

    Args:
        salt: of the ids, another one for each chart of a page.
        width, height: inches.
        bare: without axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height), layout=None if bare else "constrained")
        axes = figure.add_axes((0, 0, 1, 1)) if bare else figure.subplots()
        draw(axes)
        if bare:
            axes.set_axis_off()
            for line in axes.lines:
                line.set_clip_on(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(file.getvalue())


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.unicode_minus": True,
}

_VARIABLES = {INK: "var(--ink)", GRID: "var(--grid)", PAPER: "var(--paper)"} | {
    color: f"var(--s{number})" for number, color in enumerate(SERIES)
}


def _for_page(svg: str) -> str:
    """Matplotlib's file without its head, its style sheet, its ids and its own font and size."""
    svg = svg[svg.index("<svg") :].strip()
    box = re.search(r'viewBox="[-\d. ]+"', svg)
    assert box is not None, "matplotlib gives each SVG a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg {box[0]} aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(
        r"font: ([\d.]+px) [^;\"]*|font-size: ([\d.]+px); font-family: [^;\"]*",
        lambda found: f"font-size: {found[1] or found[2]}",
        svg,
    )
    svg = re.sub(r"<[^>]*>", lambda tag: _rounded(tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg.replace("xlink:href", "href"))
    return re.sub("|".join(_VARIABLES), lambda found: _VARIABLES[found[0]], svg)


def _rounded(tag: str) -> str:
    """A tag with its coordinates to a hundredth: text between tags stays as it is."""
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)
