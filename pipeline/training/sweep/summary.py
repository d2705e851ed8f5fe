"""The results of a sweep, point by point: means and standard deviations as tables and a plot."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...runtime.palette import LIGHT, chart_style
from ...runtime.text import align, printable, shorten

MAX_LETTERS = 48
"""Of a point's name in the plot; longer ones are cut, or would leave no space for the data."""

HEADER = ["student", "runs", "PCK", "AUC", "validation", "params", "GMACs", "epochs", "s"]


def summarize(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results by point, in the order of the runs.

    Args:
        runs: rows of `variants.train_and_score`.

    Returns:
        For each point: "point" (its name), "runs" (how many succeeded), "failed" (how many did
        not), and of those that succeeded "pck", "auc" and "validation" (lists of shares in 0..1,
        empty if there are no such scores), "parameters", "gmacs", "epochs" (the most of any run)
        and "seconds" (the mean); the last four are None if no run succeeded.
    """
    by_point: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_point.setdefault(run["point"], []).append(run)
    return [_summary(point, rows) for point, rows in by_point.items()]


def _summary(point: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    succeeded = [row for row in rows if "error" not in row]
    columns = {"pck": "mean", "auc": "auc", "validation": "validation_pck"}
    scores = {
        name: [row[key] for row in succeeded if row.get(key) is not None]
        for name, key in columns.items()
    }
    cost = succeeded[0] if succeeded else {"parameters": None, "gmacs": None}
    return {
        "point": point,
        "runs": len(succeeded),
        "failed": len(rows) - len(succeeded),
        "parameters": cost["parameters"],
        "gmacs": cost["gmacs"],
        "epochs": max((row["epochs"] for row in succeeded), default=None),
        "seconds": statistics.fmean(row["seconds"] for row in succeeded) if succeeded else None,
    } | scores


def spread(shares: list[float]) -> str:
    """Mean and sample standard deviation, in percent; of a single run, the mean only."""
    if not shares:
        return "-"
    mean = f"{100 * statistics.fmean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * statistics.stdev(shares):.1f}"


def table(sweep: dict[str, Any]) -> str:
    """The summary for a terminal, followed by a line for each failed run.

    Args:
        sweep: the content of `sweep.json`.
    """
    lines = [align([HEADER, *_rows(sweep)])]
    lines += [
        printable(f"failed: {run['point']}, {_run_name(run)}: {run['error']}")
        for run in sweep["runs"]
        if "error" in run
    ]
    return "\n".join(lines)


def markdown(sweep: dict[str, Any]) -> str:
    """The summary as a Markdown table; names are text in it, neither markup nor HTML."""
    rows = [
        HEADER,
        ["---"] * len(HEADER),
        *(list(map(_markdown_text, row)) for row in _rows(sweep)),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _markdown_text(cell: str) -> str:
    return re.sub(r"([\\`*\[\]<>&])", r"\\\1", printable(cell).replace("|", "/"))


def best(sweep: dict[str, Any]) -> str | None:
    """The name of the point with the highest mean PCK; None if no run succeeded."""
    scored = [point for point in sweep["points"] if point["pck"]]
    if not scored:
        return None
    name: str = max(scored, key=lambda point: statistics.fmean(point["pck"]))["point"]
    return name


def _rows(sweep: dict[str, Any]) -> list[list[str]]:
    return [
        [
            point["point"],
            str(point["runs"]) + (f" ({point['failed']} failed)" if point["failed"] else ""),
            *(spread(point[key]) for key in ("pck", "auc", "validation")),
            *(["-"] * 4 if not point["runs"] else _cost(point)),
        ]
        for point in sweep["points"]
    ]


def _cost(point: dict[str, Any]) -> list[str]:
    return [
        f"{point['parameters'] / 1e6:.2f} M",
        f"{point['gmacs']:.3f}",
        str(point["epochs"]),
        f"{point['seconds']:.0f}",
    ]


def _run_name(run: dict[str, Any]) -> str:
    fold = "" if run["fold"] is None else f"fold {run['fold']}, "
    return f"{fold}seed {run['seed']}"


def draw(sweep: dict[str, Any], path: Path) -> None:
    """Plot every run as a dot, with each point's mean and standard deviation, as a PNG file."""
    import matplotlib
    from matplotlib.figure import Figure

    points = [point for point in sweep["points"] if point["pck"]]
    with matplotlib.rc_context(chart_style(LIGHT)):
        height = 1.2 + 0.4 * max(1, len(points))
        figure = Figure(figsize=(7, height), dpi=150, layout="constrained")
        axes = figure.subplots()
        runs: dict[str, Any] = {"color": LIGHT.series[0], "alpha": 0.6, "markersize": 5}
        means: dict[str, Any] = {"color": LIGHT.ink, "capsize": 3, "markersize": 12}
        for y, point in enumerate(points):
            percents = [100 * share for share in point["pck"]]
            mean = statistics.fmean(percents)
            deviation = statistics.stdev(percents) if len(percents) > 1 else 0.0
            axes.errorbar(mean, y, xerr=deviation, fmt="|", **means)
            axes.plot(percents, [y] * len(percents), "o", **runs)
        names = [shorten(point["point"], MAX_LETTERS) for point in points]
        axes.set_yticks(range(len(points)), names, parse_math=False)
        axes.invert_yaxis()
        axes.set_xlabel("PCK, %: runs, mean, standard deviation")
        axes.grid(visible=False, axis="y")
        figure.savefig(path, format="png")
