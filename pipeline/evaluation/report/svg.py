"""SVG markup from matplotlib, for inclusion in an HTML page and in the page's colors."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ...runtime.palette import LIGHT, Theme, chart_style

PLACEHOLDERS = Theme(
    paper="#fe0101",
    panel="#fe0102",
    ink="#fe0103",
    soft="#fe0104",
    grid="#fe0105",
    accent="#fe0106",
    series=tuple(f"#fe02{number:02x}" for number in range(len(LIGHT.series))),
)
"""Stand for the page's CSS variables --paper, --panel, ..., --s0, --s1, ..."""

WIDTH_INCHES = 3.6
"""Of all charts. The page shows them at one scale, at which `FONT_PT` is the size of its legends;
the width fits a phone."""

PT_PER_INCH = 72


def css_variables(theme: Theme) -> dict[str, str]:
    """The colors of a theme by the names of the page's CSS variables."""
    series = {f"--s{number}": color for number, color in enumerate(theme.series)}
    names = (field.name for field in fields(theme) if field.name != "series")
    return {f"--{name}": getattr(theme, name) for name in names} | series


_VARIABLES = {color: f"var({name})" for name, color in css_variables(PLACEHOLDERS).items()}


def render_symbol(draw: Callable[[Any], None], symbol_id: str) -> str:
    """A figure without axes as an SVG symbol, for legends."""
    svg = render_svg(draw, symbol_id, width=0.5, height=0.18, bare=True)
    return svg.replace("<svg", f'<symbol id="{symbol_id}"').replace("</svg>", "</symbol>")


def render_svg(
    draw: Callable[[Any], None],
    salt: str,
    width: float = WIDTH_INCHES,
    height: float = 2.7,
    *,
    bare: bool = False,
) -> str:
    """The SVG markup of a figure; the same input gives the same bytes.

    Args:
        draw: plots on the figure's axes.
        salt: makes the SVG's ids unique within a page.
        width, height: inches.
        bare: hide the axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(chart_style(PLACEHOLDERS) | {"svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height), layout=None if bare else "constrained")
        axes = figure.add_axes((0, 0, 1, 1)) if bare else figure.subplots()
        draw(axes)
        if bare:
            axes.set_axis_off()
            for line in axes.lines:
                line.set_clip_on(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _strip_svg(buffer.getvalue())


def _strip_svg(svg: str) -> str:
    """Matplotlib's SVG without header, metadata, style sheet, group ids, fixed size and font."""
    svg = svg[svg.index("<svg") :].strip()
    view_box = re.search(r'viewBox="[-\d. ]+"', svg)
    assert view_box is not None, "matplotlib gives each SVG a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg {view_box[0]} aria-hidden="true">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(
        r"font: ([\d.]+px) [^;\"]*|font-size: ([\d.]+px); font-family: [^;\"]*",
        lambda match: f"font-size: {match[1] or match[2]}",
        svg,
    )
    svg = re.sub(r"<[^>]*>", lambda match: _round_coordinates(match[0]), svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg.replace("xlink:href", "href"))
    return re.sub("|".join(_VARIABLES), lambda match: _VARIABLES[match[0]], svg)


def _round_coordinates(tag: str) -> str:
    """A tag with numbers rounded to two decimals; text between tags is not changed."""
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", tag)
