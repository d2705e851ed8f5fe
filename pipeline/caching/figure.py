"""Draws a cached view: crop, labels, heatmaps, and their difference from the live teacher's.

Shape letters: S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ...data.skeletons import Skeleton
from ..runtime import palette
from ..runtime.drawing import color_heatmaps, joint_color, joint_hues, limb_color
from ..runtime.files import atomic
from ..runtime.text import printable, shorten

JOINTS_PER_ROW = 7
TILE_INCHES = 1.55
PANEL_INCHES = 3.3
MAX_LETTERS = 16
"""Of a joint's name; a column is not wider."""

MARGIN_INCHES = 0.45
"""Left of each row of joints, for the row's name."""

RIMMED = [withStroke(linewidth=3, foreground="black")]
LABEL = {"path_effects": RIMMED, "linewidth": 1.2, "marker": "o", "markersize": 3.5}
LABEL_MARK = {
    "color": palette.LABEL,
    "path_effects": RIMMED,
    "marker": "o",
    "markersize": 5,
    "fillstyle": "none",
}
PEAK_MARK = {
    "color": "black",
    "marker": "X",
    "markersize": 6,
    "markeredgecolor": "white",
    "markeredgewidth": 0.7,
    "linestyle": "",
}

MIN_SCALE = 1e-6
"""Least peak that heatmaps are drawn relative to."""


@dataclass(frozen=True)
class CachedFigure:
    """A view, its labels and its heatmaps.

    Attributes:
        title: one line or more; as the joints' names, shown as it is, without formulas.
        crop_SS3: uint8 RGB.
        labels_K2: float (x, y) in crop pixels; NaN if not labeled.
        decoded_K2: float (x, y) in crop pixels, from the cached heatmaps; NaN if too faint.
        skeleton: of the joints.
        cached_KHW: float32, at least 0.
        peaks_K: float, the teacher's peaks, as stored.
        max_error: the store's bound on the error of a pixel, as a share of its map's peak.
        live_KHW: float32, the output of the teacher now; None: the teacher was not run.
        errors_KHW: float32, cached minus live heatmaps (live values below 0 count as 0), as shares
            of the peaks; None: the teacher was not run.
    """

    title: str
    crop_SS3: NDArray[np.uint8]
    labels_K2: NDArray[np.floating]
    decoded_K2: NDArray[np.floating]
    skeleton: Skeleton
    cached_KHW: NDArray[np.float32]
    peaks_K: NDArray[np.floating]
    max_error: float
    live_KHW: NDArray[np.float32] | None = None
    errors_KHW: NDArray[np.float32] | None = None

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Edges of the crop and of the heatmaps in crop pixels: left, right, bottom, top."""
        edge = len(self.crop_SS3) - 0.5
        return (-0.5, edge, edge, -0.5)


def draw(view: CachedFigure, path: Path) -> None:
    """Draw a view to a file: all joints together at the top, each joint by itself below.

    Args:
        path: its suffix is the format; without one, PNG.

    Raises:
        ValueError: matplotlib cannot write that format.
    """
    rows = ["cached"]
    if view.live_KHW is not None:
        rows += ["live teacher", "difference"]
    count = view.skeleton.num_joints
    blocks = -(-count // JOINTS_PER_ROW)
    below = blocks * (len(rows) * TILE_INCHES + 0.3)
    width = JOINTS_PER_ROW * TILE_INCHES + MARGIN_INCHES
    above = PANEL_INCHES + 0.95
    figure = Figure(figsize=(width, above + below), dpi=130)
    figure.set_layout_engine("constrained", h_pad=0.07)
    halves: Any = figure.subfigures(2, 1, height_ratios=[above, below])
    top, bottom = halves
    top.suptitle(printable(view.title, lines=True), fontsize=10, parse_math=False)
    _draw_all_joints(top, view)
    for block, part in enumerate(np.atleast_1d(bottom.subfigures(blocks, 1))):
        first = block * JOINTS_PER_ROW
        _draw_each_joint(part, view, rows, range(first, min(first + JOINTS_PER_ROW, count)))
    with atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower() or "png")


def _draw_all_joints(figure: Any, view: CachedFigure) -> None:
    """Draw labels and cached heatmaps; also the live heatmaps and the largest errors, if given."""
    panels = 2 if view.live_KHW is None else 4
    axes, below = figure.subplots(2, panels, squeeze=False, height_ratios=[1, 0.04])
    axes[0].set_title("labels", fontsize=9)
    _show_crop(axes[0], view, dark=False)
    _mark_labels(axes[0], view)
    below[0].set_axis_off()
    below[0].plot([], [], **LABEL_MARK, linestyle="", label="label")
    below[0].plot([], [], **PEAK_MARK, label="decoded from the cached heatmap")
    below[0].legend(loc="center", fontsize=8, frameon=False)
    axes[1].set_title("cached", fontsize=9)
    _show_crop(axes[1], view)
    _show_maps(axes[1], view, view.cached_KHW)
    axes[1].plot(*view.decoded_K2.T, **PEAK_MARK)
    below[1].set_axis_off()
    below[1].text(0.5, 0.5, HEAT_NOTE, transform=below[1].transAxes, **_NOTE)
    if view.live_KHW is not None and view.errors_KHW is not None:
        axes[2].set_title("live teacher", fontsize=9)
        _show_crop(axes[2], view)
        _show_maps(axes[2], view, view.live_KHW)
        below[2].set_axis_off()
        errors, bound = 100 * np.abs(view.errors_KHW), 100 * view.max_error
        axes[3].set_title("difference: maximum over joints", fontsize=9)
        shown = axes[3].imshow(errors.max(0), extent=view.extent, vmin=0, vmax=bound)
        axes[3].set_axis_off()
        text = f"% of the peak: at most {errors.max():.3g}, bound {bound:.3g}"
        _draw_colorbar(figure, below[3], shown, text)


def _draw_each_joint(figure: Any, view: CachedFigure, rows: list[str], joints: range) -> None:
    """Draw each joint's maps in its hue, relative to their own peak."""
    axes = figure.subplots(len(rows), JOINTS_PER_ROW, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, joint in enumerate(joints):
        peak = float(view.peaks_K[joint])
        for axis, row in zip(axes[:, column], rows, strict=True):
            if column == 0:
                axis.text(-0.08, 0.5, row, transform=axis.transAxes, **_ROW_NAME)
            _draw_joint(axis, view, row, joint)
        title = f"{shorten(view.skeleton.joints[joint], MAX_LETTERS)}, peak {peak:.2f}"
        axes[0, column].set_title(title, fontsize=8, parse_math=False)


HEAT_NOTE = (
    "a hue per joint, warm ones left, cold ones right;\n"
    f"transparent below {palette.HEAT_THRESHOLD:.0%} of its peak"
)
_NOTE = {"ha": "center", "va": "center", "fontsize": 8}
_ROW_NAME = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 8}


def _draw_joint(axis: Any, view: CachedFigure, row: str, joint: int) -> None:
    if row == "difference":
        assert view.errors_KHW is not None
        error = 100 * view.errors_KHW[joint]
        bound = 100 * view.max_error
        axis.imshow(error, extent=view.extent, cmap="RdBu_r", vmin=-bound, vmax=bound)
        axis.set_title(f"at most {np.abs(error).max():.3g} %", fontsize=7, pad=2)
        return
    _show_crop(axis, view)
    maps = view.cached_KHW if row == "cached" else view.live_KHW
    assert maps is not None
    _show_maps(axis, view, maps, [joint])
    axis.plot(*view.labels_K2[joint], linestyle="", **LABEL_MARK)
    if row == "cached":
        axis.plot(*view.decoded_K2[joint], **PEAK_MARK)


def _show_crop(axis: Any, view: CachedFigure, *, dark: bool = True) -> None:
    """Draw the crop, dark and gray if heatmaps are drawn over it; the axes are limited to it."""
    crop = view.crop_SS3
    if dark:
        gray = (palette.CROP_UNDER_HEAT * crop.mean(-1, keepdims=True)).astype(np.uint8)
        crop = np.repeat(gray, 3, axis=-1)
    axis.imshow(crop, extent=view.extent)
    axis.set_xlim(view.extent[:2])
    axis.set_ylim(view.extent[2:])
    axis.set_axis_off()


def _show_maps(
    axis: Any,
    view: CachedFigure,
    heatmaps_KHW: NDArray[np.float32],
    joints: list[int] | None = None,
) -> None:
    """Draw heatmaps over the crop, of `joints` or all, relative to the highest peak."""
    chosen = slice(None) if joints is None else joints
    top = float(view.peaks_K[chosen].max(initial=MIN_SCALE))
    heat_HW4 = color_heatmaps(heatmaps_KHW[chosen], joint_hues(view.skeleton)[chosen], top)
    axis.imshow(heat_HW4, extent=view.extent, interpolation="nearest")


def _mark_labels(axis: Any, view: CachedFigure) -> None:
    """Draw the labels' skeleton, as `draw_skeleton` does onto pixels."""
    skeleton = view.skeleton
    for pair in skeleton.limbs:
        color = np.array(limb_color(skeleton, *pair)) / 255
        axis.plot(*view.labels_K2[list(pair)].T, color=color, **{**LABEL, "marker": ""})
    for joint, label_2 in enumerate(view.labels_K2):
        color = np.array(joint_color(skeleton, joint)) / 255
        axis.plot(*label_2, color=color, **{**LABEL, "linestyle": ""})


def _draw_colorbar(figure: Any, axis: Any, shown: Any, label: str) -> None:
    bar = figure.colorbar(shown, cax=axis, orientation="horizontal")
    bar.set_label(label, fontsize=8)
    axis.set_facecolor("black")
    bar.ax.tick_params(labelsize=7)
