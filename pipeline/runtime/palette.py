"""Colors of all pictures and of the report's page.

They are plain numbers because importing matplotlib takes a second. Sides are person-centric: the
left is warm and the right is cold in every picture of a skeleton, which people with color vision
deficiencies can tell apart, too (after Okabe & Ito's palette, Color Universal Design, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Color = tuple[int, int, int]
"""RGB, each 0 to 255."""

LEFT: Color = (230, 159, 0)
RIGHT: Color = (86, 180, 233)
MIDDLE: Color = (255, 255, 255)
"""Joints and limbs of the left side, of the right side, and of neither."""

LEFT_HUES: tuple[Color, ...] = ((255, 235, 60), (255, 170, 20), (255, 110, 40), (240, 70, 70))
RIGHT_HUES: tuple[Color, ...] = ((90, 240, 230), (70, 190, 255), (90, 130, 255), (150, 110, 255))
MIDDLE_HUES: tuple[Color, ...] = ((255, 255, 255), (150, 215, 120))
"""Heatmaps of single joints: the joints of a side are spread over its hues. The sides stay apart
with each kind of color vision (tested)."""

RIM: Color = (0, 0, 0)
"""Around every stroke, so that it shows on light and on dark pictures."""

BOX: Color = (255, 255, 255)
CHIP: Color = (20, 23, 28)
CHIP_TEXT: Color = (255, 255, 255)
"""A person's box, and its score's background and text."""

LABEL = "#ffffff"
"""The labels' skeletons, where those of models are drawn over the same person."""

HEAT_THRESHOLD = 0.5
"""Share of a heatmap's own peak from which it is drawn: at half of it, a map is as wide as what it
locates, and what is below would veil the picture."""

HEAT_OPACITY = 0.85
"""Of a heatmap's peak."""

CROP_UNDER_HEAT = 0.7
"""Brightness of a gray crop under a heatmap, as a share of the crop's own."""


@dataclass(frozen=True)
class Theme:
    """Colors of a page or of a chart, as CSS and matplotlib take them.

    Attributes:
        paper: background.
        panel: background of cards and controls.
        ink: text and axes.
        soft: captions, and what should not stand out.
        grid: lines of charts and tables.
        accent: links and focus.
        series: of the models, in their order; they start again after the last.
    """

    paper: str
    panel: str
    ink: str
    soft: str
    grid: str
    accent: str
    series: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    panel="#f5f6f8",
    ink="#1b1f24",
    soft="#565f6a",
    grid="#d5dae0",
    accent="#0a4fa3",
    series=("#2b45dc", "#bb5800", "#038656", "#a332a1", "#5a3000", "#3e3c43"),
)
DARK = Theme(
    paper="#14171c",
    panel="#1d222a",
    ink="#e6e9ee",
    soft="#a8b2be",
    grid="#3a424d",
    accent="#7cb7ff",
    series=("#639cfc", "#ef8b44", "#3be5a7", "#ffb2f0", "#e3e92a", "#829197"),
)
"""Text and series have a contrast of 4.5 : 1 or more to their backgrounds, and any two series stay
apart with each kind of color vision (tested). Over photographs, models have the series of `DARK`.
"""

FONT_PT = 10
"""Font size of charts."""


def chart_style(theme: Theme) -> dict[Any, Any]:
    """Matplotlib's settings for charts in a theme's colors."""
    return {
        "svg.fonttype": "none",  # text stays text
        "font.family": "sans-serif",
        "font.size": FONT_PT,
        "text.color": theme.ink,
        "axes.edgecolor": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "axes.unicode_minus": True,
    }
