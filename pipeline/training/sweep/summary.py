"""A sweep's students side by side: means and spreads, as a table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...runtime.text import align

HEADER = ["student", "runs", "PCK", "AUC", "validation", "params", "GMACs", "epochs", "s"]


def summarize(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What became of each point, in the runs' order.

    Args:
        runs: rows of `sweeping.train_and_score`.

    Returns:
        A row a point: "point", "runs" that ended well, "failed" runs, and of the former the lists
        "pck", "auc", "validation", shares in 0..1 (empty where there is no such score), and
        "parameters", "gmacs", the most "epochs", the mean "seconds" (None where no run ended well).
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        grouped.setdefault(run["point"], []).append(run)
    return [_summary(point, rows) for point, rows in grouped.items()]


def _summary(point: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    well = [row for row in rows if "error" not in row]
    columns = {"pck": "mean", "auc": "auc", "validation": "validation_pck"}
    scores = {
        name: [row[key] for row in well if row.get(key) is not None]
        for name, key in columns.items()
    }
    first = well[0] if well else {"parameters": None, "gmacs": None}
    return {
        "point": point,
        "runs": len(well),
        "failed": len(rows) - len(well),
        "parameters": first["parameters"],
        "gmacs": first["gmacs"],
        "epochs": max((row["epochs"] for row in well), default=None),
        "seconds": statistics.fmean(row["seconds"] for row in well) if well else None,
    } | scores


def spread(shares: list[float]) -> str:
    """Mean and sample standard deviation, in percent; of a single run no deviation is known."""
    if not shares:
        return "-"
    mean = f"{100 * statistics.fmean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * statistics.stdev(shares):.1f}"


def table(sweep: dict[str, Any]) -> str:
    """The comparison for a terminal: mean and standard deviation over the runs, in percent."""
    lines = [align([HEADER, *_rows(sweep)])]
    lines += [
        f"failed: {run['point']}, {_run(run)}: {run['error']}"
        for run in sweep["runs"]
        if "error" in run
    ]
    return "\n".join(lines)


def markdown(sweep: dict[str, Any]) -> str:
    """The same as a page's table."""
    rows = [HEADER, ["---"] * len(HEADER), *_rows(sweep)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in rows)


def best(sweep: dict[str, Any]) -> str | None:
    """The point with the highest mean; None where no run ended well."""
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


def _run(run: dict[str, Any]) -> str:
    fold = "" if run["fold"] is None else f"fold {run['fold']}, "
    return f"{fold}seed {run['seed']}"


def draw(sweep: dict[str, Any], path: Path) -> None:
    """Every run as a dot, every point's mean as a bar, its standard deviation beside it, as PNG."""
    from matplotlib.figure import Figure

    points = [point for point in sweep["points"] if point["pck"]]
    figure = Figure(figsize=(7, 1.2 + 0.4 * max(1, len(points))), dpi=150, layout="constrained")
    axes = figure.subplots()
    for place, point in enumerate(points):
        shares = [100 * share for share in point["pck"]]
        mean = statistics.fmean(shares)
        deviation = statistics.stdev(shares) if len(shares) > 1 else 0.0
        axes.errorbar(mean, place, xerr=deviation, fmt="|", color="black", capsize=3, markersize=12)
        axes.plot(shares, [place] * len(shares), "o", color="tab:blue", alpha=0.6, markersize=5)
    axes.set_yticks(range(len(points)), [point["point"] for point in points], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("PCK, %: runs, mean, standard deviation")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, format="png")
