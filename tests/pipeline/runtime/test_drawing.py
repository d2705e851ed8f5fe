"""Skeletons, boxes and heatmaps as pixels, and the one palette that colors them."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import fpd
from fpd.data.skeletons import COCO, LSP, MPII, Skeleton
from fpd.pipeline.runtime.drawing import color_heatmaps, draw_box, joint_hues
from fpd.pipeline.runtime.palette import BOX, CHIP, DARK, HEAT_OPACITY, LEFT, LIGHT, RIGHT, Theme

GRAY = 120
RED, BLUE = (255, 0, 0), (0, 0, 255)
HUES = np.array([RED, BLUE], np.uint8)


def maps(*peaks: float, side: int = 9) -> np.ndarray:
    """Maps with one pixel each, at (k, k)."""
    heatmaps_KHW = np.zeros((len(peaks), side, side), np.float32)
    for joint, peak in enumerate(peaks):
        heatmaps_KHW[joint, joint, joint] = peak
    return heatmaps_KHW


@pytest.mark.parametrize("skeleton", [LSP, MPII, COCO])
def test_the_left_is_warm_the_right_is_cold_and_every_joint_has_its_own_hue(
    skeleton: Skeleton,
) -> None:
    hues_K3 = joint_hues(skeleton).astype(int)
    assert min(np.abs(one - other).sum() for one, other in combinations(hues_K3, 2)) >= 20
    for joint, (red, _, blue) in enumerate(hues_K3):
        if skeleton.side(joint) == "left":
            assert red > blue
        if skeleton.side(joint) == "right":
            assert blue > red
    assert hues_K3.max(-1).min() >= 190  # bright, over a darkened crop


def test_a_map_is_transparent_below_half_of_its_own_peak() -> None:
    heatmaps_KHW = maps(1.0)
    heatmaps_KHW[0, 4, :4] = 0.25, 0.5, 0.75, 0.49
    heat_HW4 = color_heatmaps(heatmaps_KHW, HUES[:1], 1.0)
    assert heat_HW4[0, 0].tolist() == pytest.approx([1, 0, 0, HEAT_OPACITY])
    assert heat_HW4[4, :4, 3].tolist() == pytest.approx([0, 0, HEAT_OPACITY / 2, 0])
    assert (heat_HW4[..., 3] > 0).sum() == 2


def test_a_faint_map_is_faint_and_the_clearest_joint_gives_the_hue() -> None:
    heat_HW4 = color_heatmaps(maps(0.2, 0.8), HUES, 0.8)
    assert heat_HW4[0, 0].tolist() == pytest.approx([1, 0, 0, HEAT_OPACITY / 4])
    assert heat_HW4[1, 1].tolist() == pytest.approx([0, 0, 1, HEAT_OPACITY])
    assert heat_HW4[1, 1].tolist() == color_heatmaps(maps(9.0, 9.0), HUES, 0.8)[1, 1].tolist()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_maps_without_a_peak_are_transparent(value: float) -> None:
    heat_HW4 = color_heatmaps(np.full((2, 4, 4), value, np.float32), HUES, 1.0)
    assert (heat_HW4[..., 3] == 0).all() and np.isfinite(heat_HW4).all()


def test_a_box_has_thin_edges_and_its_score_above_it() -> None:
    image = np.full((100, 120, 3), GRAY, np.uint8)
    draw_box(image, np.array([30.0, 40.0, 50.0, 45.0]), "0.87", 12)
    for x, y in ((30, 60), (79, 60), (70, 40), (50, 84)):  # the pixels inside of the edges
        assert image[y, x].tolist() == list(BOX)
        assert image[min(y + 4, 99), min(x + 4, 119)].tolist() in ([GRAY] * 3, list(BOX))
    assert (image[45:80, 35:75] == GRAY).all()
    chip = np.argwhere((image == CHIP).all(-1) & (np.arange(100) < 38)[:, None])
    assert chip[:, 0].min() >= 20 and chip[:, 1].min() == 30
    assert (image[20:38, 30:60] > 200).all(-1).sum() > 10  # light letters


@pytest.mark.parametrize("box", [(0, 0, 120, 100), (-900, -5, 4000, 2000)])
def test_a_box_of_the_whole_image_has_only_its_score(box: tuple[float, ...]) -> None:
    image = np.full((100, 120, 3), GRAY, np.uint8)
    draw_box(image, np.array(box, float), "0.87", 12)
    assert (image[20:] == GRAY).all() and (image[:, 60:] == GRAY).all()
    assert image[0, 0].tolist() == list(CHIP)


@pytest.mark.parametrize(
    "box", [(110, 90, 50, 50), (-40, -40, 45, 45), (1e300, 0, 5, 5), (0, -1e9, 3, 1e9)]
)
@pytest.mark.parametrize("side", [4, 100])
def test_boxes_at_and_beyond_the_edges_stay_within_the_image(
    box: tuple[float, ...], side: int
) -> None:
    image = np.full((side, side, 3), GRAY, np.uint8)
    draw_box(image, np.array(box, float), "0.87", 12)
    assert image.shape == (side, side, 3)


def test_a_box_that_is_not_finite_is_not_drawn() -> None:
    image = np.full((50, 50, 3), GRAY, np.uint8)
    draw_box(image, np.array([1.0, np.nan, 9.0, 9.0]), "0.87", 12)
    assert (image == GRAY).all()


def luminance(color: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    shares = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_series_are_readable(theme: Theme) -> None:
    for color in (theme.ink, theme.soft, theme.accent, *theme.series):
        high, low = sorted([luminance(color), luminance(theme.paper)], reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, color
    assert len(set(theme.series)) == len(theme.series) == len(LIGHT.series)


VISIONS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear RGB as seen: Machado, Oliveira & Fernandes, IEEE TVCG 2009, severity 1.0."""

RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)


def differences(colors: np.ndarray, others: np.ndarray, vision: str) -> np.ndarray:
    """CIE 1976 color differences (2.3 is just noticeable) of RGB in 0..255."""

    def lab(rgb_N3: np.ndarray) -> np.ndarray:
        shares = np.asarray(rgb_N3, float) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        seen = (linear @ np.array(VISIONS[vision]).T).clip(0, 1)
        xyz = seen @ RGB_TO_XYZ.T / RGB_TO_XYZ.sum(1)
        root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        x, y, z = root.T
        return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)

    return np.linalg.norm(lab(colors)[:, None] - lab(others)[None], axis=-1)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("skeleton", [LSP, MPII, COCO])
def test_left_and_right_differ_with_any_color_vision(skeleton: Skeleton, vision: str) -> None:
    hues_K3 = joint_hues(skeleton)
    sides = np.array([skeleton.side(joint) for joint in range(skeleton.num_joints)])
    left, right = hues_K3[sides == "left"], hues_K3[sides == "right"]
    assert differences(left, right, vision).min() > 35
    assert differences(np.array([LEFT]), np.array([RIGHT]), vision).min() > 80


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_models_differ_with_any_color_vision(theme: Theme, vision: str) -> None:
    series = np.array([list(bytes.fromhex(color[1:])) for color in theme.series])
    apart = differences(series, series, vision) + 1e3 * np.eye(len(series))
    assert apart.min() > 20


def test_colors_are_decided_in_the_palette_alone() -> None:
    """Other files have none, but the placeholders of the charts."""
    root = Path(fpd.__file__).parent
    files = [
        path
        for folder in ("pipeline", "stages", "commands", "data")
        for path in (root / folder).rglob("*")
        if path.suffix in (".py", ".css", ".js", ".html")
    ]
    assert len(files) > 100
    colored = {
        path.name: re.findall(r"#[0-9a-fA-F]{6}\b|[\"']tab:\w+", path.read_text("utf-8"))
        for path in files
    }
    used = {name: colors for name, colors in colored.items() if colors}
    assert set(used) == {"palette.py", "svg.py"}
    assert all(color.startswith("#fe01") for color in used["svg.py"])
