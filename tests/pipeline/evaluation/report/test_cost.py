"""The cost chart: what it zooms to, and labels that overlap nothing."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.pipeline.evaluation.report.cost import (
    MARKER_PT,
    MIN_SPAN,
    Box,
    Point,
    draw_cost,
    limits,
    place_labels,
    published_inside,
)
from fpd.pipeline.evaluation.report.published import PUBLISHED
from fpd.pipeline.evaluation.report.svg import PLACEHOLDERS, render_svg

WIDTH, HEIGHT = 200.0, 150.0
MODELS = [(0.8, 80.0), (0.4, 40.0)]


def svg(models: dict[str, tuple[float, float]]) -> str:
    points = [Point(name, *cost, PLACEHOLDERS.series[0], "o") for name, cost in models.items()]
    return render_svg(lambda axes: draw_cost(axes, points, PUBLISHED, PLACEHOLDERS), "cost")


def texts(chart: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(chart).iter("text")]


def test_the_chart_zooms_to_the_models() -> None:
    (left, right), (bottom, top) = limits(MODELS)
    assert 0.1 < left < 0.4 and 0.8 < right < 2
    assert 30 < bottom < 40 and 80 < top < 90
    assert published_inside(MODELS, PUBLISHED) == []


def test_small_differences_and_single_models_are_not_blown_up() -> None:
    for models in ([(1.0, 50.0)], [(1.0, 50.0), (1.0, 50.1)]):
        (left, right), (bottom, top) = limits(models)
        assert right / left > 3 and top - bottom >= MIN_SPAN
    _, (bottom, top) = limits([(1.0, 0.0), (1.0, 100.0)])
    assert (bottom, top) == (0.0, 100.0)


def test_published_results_near_the_models_are_shown() -> None:
    inside = published_inside([(4.0, 88.0), (20.0, 92.0)], PUBLISHED)
    assert [result.gmacs for result in inside] == [4.5, 4.5, 27.5]


def test_every_model_is_labeled_as_it_is_named() -> None:
    names = ["student", r"$\frac{$", "_<b>&", "\x1b[2J"]
    shown = texts(svg({name: (0.1 * n, 20.0 * n) for n, name in enumerate(names, 1)}))
    assert {"student", r"$\frac{$", "_<b>&", r"\x1b[2J"} <= set(shown)


def test_ticks_of_a_narrow_and_of_a_wide_axis() -> None:
    assert {"0.5", "1", "2"} <= set(texts(svg({"a": (1.0, 50.0)})))
    wide = texts(svg({"a": (0.01, 50.0), "b": (100.0, 60.0)}))
    assert {"0.01", "1", "100"} <= set(wide) and "0.02" not in wide


@pytest.mark.parametrize("count", [2, 6, 9])
def test_labels_of_models_with_one_cost_and_one_score_are_apart(count: int) -> None:
    """They are placed above each other, with lines to their markers."""
    chart = svg({f"model-{n}": (0.1, 50.0) for n in range(count)})
    assert sum(text.startswith("model-") for text in texts(chart)) == count
    lines = re.findall(r"stroke: var\(--soft\); stroke-width: 0\.6", chart)
    assert len(lines) >= count - 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, WIDTH, width=32), st.floats(0, HEIGHT, width=32), st.floats(1, 120)),
        min_size=2,
        max_size=25,
    )
)
def test_no_label_overlaps_another_or_a_marker_or_leaves_the_axes(
    markers_and_widths: list[tuple[float, float, float]],
) -> None:
    """The last marker is that of a published result, without a label."""
    positions = [(x, y) for x, y, _ in markers_and_widths]
    widths = [width for *_, width in markers_and_widths[:-1]]
    places = place_labels(positions, widths, WIDTH, HEIGHT)
    assert len(places) == len(widths)
    placed = [box for box in places if box is not None]
    half = MARKER_PT / 2
    markers = [Box(x - half, y - half, x + half, y + half) for x, y in positions]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(placed, 2))
    assert not any(box.overlaps(marker) for box in placed for marker in markers)
    assert all(box.is_inside(WIDTH, HEIGHT) for box in placed)


def test_labels_are_beside_their_markers_where_there_is_space() -> None:
    places = place_labels([(50.0, 75.0), (180.0, 20.0)], [40.0, 40.0], WIDTH, HEIGHT)
    right, left = places
    assert right is not None and left is not None
    assert right.left > 50 and (right.bottom + right.top) / 2 == pytest.approx(75)
    assert left.right < 180 and (left.bottom + left.top) / 2 == pytest.approx(20)


def test_a_label_without_any_space_is_left_out() -> None:
    assert place_labels([(50.0, 75.0)], [500.0], WIDTH, HEIGHT) == [None]


def test_markers_are_at_their_gmacs_and_scores() -> None:
    """On a logarithmic axis, as those of the published results within the chart."""
    chart = svg({"a": (4.0, 85.0), "b": (16.0, 95.0)})
    uses = re.findall(r'<use href="#\w+" x="([\d.]+)" y="([\d.]+)" style="([^"]*)"', chart)
    models = np.array([(float(x), float(y)) for x, y, style in uses if "var(--s0)" in style])
    hollow = np.array([(float(x), float(y)) for x, y, style in uses if "fill-opacity: 0" in style])
    assert len(models) == 2 and len(hollow) == 3
    by_log = (models[1, 0] - models[0, 0]) / np.log(16 / 4)
    assert (hollow[0, 0] - models[0, 0]) / np.log(4.5 / 4) == pytest.approx(by_log, rel=0.02)
    by_percent = (models[1, 1] - models[0, 1]) / 10
    assert (hollow[0, 1] - models[0, 1]) / 6.1 == pytest.approx(by_percent, rel=0.01)
