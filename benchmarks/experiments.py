"""Draw the results of finished sweeps, one panel per sweep (docs/experiments.png).

    python benchmarks/experiments.py work/all/sweeps/loss work/tenth/sweeps/tenth -o experiments.png

Each run is a dot, and the mean of a point's runs is a vertical line. The color tells what students
were trained on, by the point's name: "labels", "both", "teacher", or its alpha. Dots of runs with
squared error ("MSE" in the name) are hollow.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fpd.pipeline.runtime.palette import LIGHT

OTHER = "other"
COLORS = {
    "labels": LIGHT.series[1],
    "both": LIGHT.series[2],
    "teacher": LIGHT.series[0],
    OTHER: LIGHT.ink,
}
"""By what students were trained on."""


def main() -> None:
    arguments = parse_arguments()
    sweeps = [json.loads((folder / "sweep.json").read_text("utf-8")) for folder in arguments.sweeps]
    points = [[point for point in sweep["points"] if point["pck"]] for sweep in sweeps]
    titles = arguments.titles or [sweep["name"] for sweep in sweeps]
    figure = Figure(
        figsize=(9, 1.2 + 0.22 * sum(len(some) + 2 for some in points)),
        dpi=150,
        layout="constrained",
    )
    panels = figure.subplots(
        len(points),
        1,
        squeeze=False,
        sharex=True,
        height_ratios=[len(some) + 1 for some in points],
    )[:, 0]
    for axes, title, some in zip(panels, titles, points, strict=True):
        draw_panel(axes, title, some)
    panels[-1].set_xlabel("PCK@0.2 of the test samples, %")
    add_legend(figure, {trained_on(point["point"]) for some in points for point in some})
    figure.savefig(arguments.output)


def draw_panel(axes: Axes, title: str, points: list[dict[str, Any]]) -> None:
    for row, point in enumerate(points):
        scores = [100 * share for share in point["pck"]]
        color = COLORS[trained_on(point["point"])]
        axes.plot(
            scores,
            [row] * len(scores),
            "o",
            color=color,
            markerfacecolor=LIGHT.paper if "MSE" in point["point"] else color,
            markersize=5,
        )
        axes.plot(statistics.fmean(scores), row, "|", color=LIGHT.ink, markersize=12)
    axes.set_yticks(range(len(points)), [point["point"] for point in points], fontsize=8)
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(axis="x", color=LIGHT.grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def trained_on(point: str) -> str:
    """The key in `COLORS` of a point's name."""
    alpha = re.search(r"\balpha=([\d.]+)", point)
    if alpha:
        return {0.0: "labels", 1.0: "teacher"}.get(float(alpha.group(1)), "both")
    return next((signal for signal in COLORS if signal in point), OTHER)


def add_legend(figure: Figure, signals: set[str]) -> None:
    """Name the colors in use, if they tell anything apart."""
    shown = [signal for signal in COLORS if signal in signals]
    if shown in ([], [OTHER]):
        return
    handles = [
        Line2D([], [], color=COLORS[signal], marker="o", linestyle="", label=signal)
        for signal in shown
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders that contain sweep.json")
    parser.add_argument("--titles", nargs="*", help="of the panels; none: the sweeps' names")
    parser.add_argument("-o", "--output", type=Path, required=True, help="image file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
