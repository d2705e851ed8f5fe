"""The chart of cost and accuracy: the report's own models large and labeled, published ones quiet.

Positions within the axes are in points, from their bottom-left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...runtime.palette import FONT_PT, Theme
from ...runtime.text import shorten
from .published import Published
from .svg import PT_PER_INCH

MIN_SPAN = 5.0
"""Least height of the y axis, percent: smaller differences are not worth more space."""

Y_MARGIN, X_MARGIN = 0.2, 0.25
"""Space beside the models, as a share of their span (on the x axis, of its logarithm)."""

MIN_X_FACTOR = 2.2
"""Least space beside the models on the x axis, as a factor."""

MAX_FACTOR_WITH_ALL_TICKS = 30
"""Up to this ratio of its ends, the x axis has ticks at 1, 2, 5, 10; beyond, at powers of ten."""

MAX_LETTERS = 18
"""Of a label."""

MARKER_PT, PUBLISHED_MARKER_PT = 8, 6
LINE_PT = 1.15 * FONT_PT
LABEL_GAP_PT = 4
"""Between a marker and its label."""


@dataclass(frozen=True)
class Point:
    """A model of the report: its name, GMACs per crop, PCK in percent, color and marker."""

    name: str
    gmacs: float
    percent: float
    color: str
    marker: str


@dataclass(frozen=True)
class Box:
    """A rectangle, points."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def is_inside(self, width: float, height: float) -> bool:
        return self.left >= 0 and self.bottom >= 0 and self.right <= width and self.top <= height


Limits = tuple[tuple[float, float], tuple[float, float]]


def limits(models: Sequence[tuple[float, float]]) -> Limits:
    """The ends of the x axis and of the y axis: the given models fill the chart.

    Args:
        models: GMACs and percent of each, at least one.
    """
    costs, scores = zip(*models, strict=True)
    factor = max(MIN_X_FACTOR, (max(costs) / min(costs)) ** X_MARGIN)
    span = max(max(scores) - min(scores), MIN_SPAN)
    middle = (max(scores) + min(scores)) / 2
    half = (0.5 + Y_MARGIN) * span
    bottom, top = max(0.0, middle - half), min(100.0, middle + half)
    return (min(costs) / factor, max(costs) * factor), (bottom, top)


def published_inside(
    models: Sequence[tuple[float, float]], published: Sequence[Published]
) -> list[Published]:
    """The published results that are within the chart of the given models."""
    (left, right), (bottom, top) = limits(models)
    return [
        result
        for result in published
        if left <= result.gmacs <= right and bottom <= result.score <= top
    ]


def draw_cost(
    axes: Any, points: Sequence[Point], published: Sequence[Published], theme: Theme
) -> None:
    """Draw PCK against GMACs on a logarithmic axis, with labels that do not overlap."""
    models = [(point.gmacs, point.percent) for point in points]
    inside = published_inside(models, published)
    whole: dict[str, Any] = {"clip_on": False}  # markers at the edges, such as at 0 percent
    for result in inside:
        hollow = whole | {"color": theme.soft, "fillstyle": "none", "markeredgewidth": 0.8}
        axes.plot(
            result.gmacs, result.score, result.marker, markersize=PUBLISHED_MARKER_PT, **hollow
        )
    for point in points:
        style = whole | {"color": point.color, "markeredgecolor": theme.paper}
        axes.plot(point.gmacs, point.percent, point.marker, markersize=MARKER_PT, **style)
    _set_axes(axes, limits(models))
    axes.figure.draw_without_rendering()  # lays the axes out
    _draw_labels(axes, points, [(result.gmacs, result.score) for result in inside], theme)


def _set_axes(axes: Any, ends: Limits) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    (left, right), y_ends = ends
    axes.set(xlabel="GMACs per crop", ylabel="PCK, %", xscale="log")
    axes.set(xlim=(left, right), ylim=y_ends)
    all_ticks = right / left <= MAX_FACTOR_WITH_ALL_TICKS
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if all_ticks else (1,), numticks=99))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _draw_labels(
    axes: Any, points: Sequence[Point], others: Sequence[tuple[float, float]], theme: Theme
) -> None:
    """Label the models, each in its color; a label that finds no place is left to the legend.

    Args:
        others: GMACs and percent of the markers without a label.
    """
    area = axes.get_position()
    figure_width, figure_height = axes.figure.get_size_inches() * PT_PER_INCH
    width, height = area.width * figure_width, area.height * figure_height
    to_axes = axes.transData + axes.transAxes.inverted()
    markers = [*((point.gmacs, point.percent) for point in points), *others]
    positions = [(x * width, y * height) for x, y in to_axes.transform(markers)]
    names = [shorten(point.name, MAX_LETTERS) for point in points]
    boxes = place_labels(positions, [_text_width(name) for name in names], width, height)
    positions = positions[: len(points)]
    for point, name, (x, y), box in zip(points, names, positions, boxes, strict=True):
        if box is None:
            continue
        text_y = (box.bottom + box.top) / 2
        if abs(text_y - y) > LINE_PT / 2:  # a line leads from the marker to a label far from it
            end = box.left if box.left > x else box.right if box.right < x else x
            line = ([x / width, end / width], [y / height, text_y / height])
            axes.plot(*line, color=theme.soft, linewidth=0.6, transform=axes.transAxes, zorder=1)
        text = axes.text(
            box.left / width,
            text_y / height,
            name,
            color=point.color,
            va="center_baseline",
            parse_math=False,
            transform=axes.transAxes,
        )
        text.set_in_layout(False)


def _text_width(text: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(
        text, FontProperties(family="sans-serif", size=FONT_PT), ismath=False
    )
    return float(width)


def place_labels(
    positions: Sequence[tuple[float, float]], widths: Sequence[float], width: float, height: float
) -> list[Box | None]:
    """Find places for the labels of markers, beside them or as near as possible.

    Args:
        positions: of the markers, within the axes.
        widths: of the labels of the first markers; the others have none.
        width, height: of the axes.

    Returns:
        For each label, its place: inside the axes, off all markers and all other labels. None:
        there is none.
    """
    half = MARKER_PT / 2
    markers = [Box(x - half, y - half, x + half, y + half) for x, y in positions]
    boxes: list[Box | None] = [None] * len(widths)
    taken = list(markers)
    for number in sorted(range(len(widths)), key=lambda n: (-positions[n][1], positions[n][0])):
        for box in _candidates(positions[number], widths[number], height):
            if box.is_inside(width, height) and not any(map(box.overlaps, taken)):
                boxes[number] = box
                taken.append(box)
                break
    return boxes


def _candidates(position: tuple[float, float], width: float, height: float) -> Iterator[Box]:
    """Places for a label, the nearest first: right, left, then up and down line by line."""
    x, y = position
    away = MARKER_PT / 2 + LABEL_GAP_PT
    for line in range(math.ceil(height / LINE_PT) + 1):
        for offset in (0,) if line == 0 else (line, -line):
            bottom = y + offset * LINE_PT - LINE_PT / 2
            indent = away if line == 0 else 2 * away
            for left in (x + indent, x - indent - width):
                yield Box(left, bottom, left + width, bottom + LINE_PT)
