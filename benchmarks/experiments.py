"""Draw finished sweeps of several work directories in one picture (docs/experiments.png).

    python benchmarks/experiments.py work/all/sweeps/loss work/tenth/sweeps/tenth -o experiments.png

A panel a sweep: every run a dot, a point's mean a line.
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
"""By what a point's name says that its maps are compared by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", type=Path, help="folders with sweep.json")
    parser.add_argument("--titles", nargs="*", default=[])
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    found = [json.loads((folder / "sweep.json").read_text("utf-8")) for folder in given.sweeps]
    points = [[point for point in sweep["points"] if point["pck"]] for sweep in found]
    figure = Figure(
        figsize=(8, 1.2 + 0.3 * sum(len(some) + 2 for some in points)),
        dpi=150,
        layout="constrained",
    )
    panels = figure.subplots(
        *(len(points), 1),
        squeeze=False,
        sharex=True,
        height_ratios=[len(some) + 1 for some in points],
    )[:, 0]
    titles = given.titles or [sweep["name"] for sweep in found]
    for axes, title, some in zip(panels, titles, points, strict=True):
        draw(axes, title, some)
    panels[-1].set_xlabel("PCK@0.2 of the test people, %")
    figure.savefig(given.output)


def draw(axes: Axes, title: str, points: list[dict[str, Any]]) -> None:
    for place, point in enumerate(points):
        shares = [100 * share for share in point["pck"]]
        color = next((c for word, c in COLORS.items() if word in point["point"]), "black")
        axes.plot(shares, [place] * len(shares), "o", color=color, alpha=0.7, markersize=5)
        axes.plot(statistics.fmean(shares), place, "|", color="black", markersize=14)
    axes.set_yticks(range(len(points)), [point["point"] for point in points])
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    main()
