"""Draw the results of finished sweeps, one panel per sweep (docs/experiments.png).

    python benchmarks/experiments.py work/all/sweeps/loss work/tenth/sweeps/tenth -o experiments.png

Each run is a dot, and the mean of a point's runs is a vertical line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {"squared error": "tab:gray", "divergence": "tab:blue"}
"""By the loss that a point's name contains; other points are black."""


def main() -> None:
    arguments = parse_arguments()
    sweeps = [json.loads((folder / "sweep.json").read_text("utf-8")) for folder in arguments.sweeps]
    points = [[point for point in sweep["points"] if point["pck"]] for sweep in sweeps]
    titles = arguments.titles or [sweep["name"] for sweep in sweeps]
    figure = Figure(
        figsize=(8, 1.2 + 0.3 * sum(len(some) + 2 for some in points)),
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
    figure.savefig(arguments.output)


def draw_panel(axes: Axes, title: str, points: list[dict[str, Any]]) -> None:
    for row, point in enumerate(points):
        scores = [100 * share for share in point["pck"]]
        color = next((c for loss, c in COLORS.items() if loss in point["point"]), "black")
        axes.plot(scores, [row] * len(scores), "o", color=color, alpha=0.7, markersize=5)
        axes.plot(statistics.fmean(scores), row, "|", color="black", markersize=14)
    axes.set_yticks(range(len(points)), [point["point"] for point in points])
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)


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
