"""Draws contact sheets: a row per sample, with its crop and heatmaps side by side.

Drawn with OpenCV and Pillow rather than matplotlib, so that a sheet takes a small part of an epoch.

Shape letters: B samples, S crop side, K joints, H and W heatmap height and width, T tile side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ...data.skeletons import Skeleton
from ..runtime.drawing import color_heatmaps, draw_skeleton, joint_hues
from ..runtime.palette import CROP_UNDER_HEAT, LEFT, MIDDLE, RIGHT

TILE_PX = 192
GAP_PX = 4
HEADER_PX = 82
"""Height above the first row: two lines of title, the color legend, the names of the columns."""

TITLE_PX, TEXT_PX, CAPTION_PX = 17, 13, 11
"""Font sizes."""

MAX_CAPTION_LETTERS = 64
"""Longer captions are cut to their end before they are fitted into a tile."""

LIMB_PX = 2

BACKGROUND = (24, 24, 24)
TEXT = (235, 235, 235)
LEGEND = (
    ("person's left", LEFT),
    ("right", RIGHT),
    ("middle", MIDDLE),
    ("small dot: no clear peak", TEXT),
    ("heatmaps: above half of their peak, a hue per joint", TEXT),
)

Image_HW3 = NDArray[np.uint8]


@dataclass(frozen=True)
class Column:
    """Heatmaps of all samples, and the joints decoded from them.

    Attributes:
        name: the column's title.
        heatmaps_BKHW: float32; drawn in a hue per joint (`color_heatmaps`).
        joints_BK2: float (x, y) in crop pixels; NaN: not drawn.
        confident_BK: bool; other joints are drawn as small dots without limbs.
    """

    name: str
    heatmaps_BKHW: NDArray[np.float32]
    joints_BK2: NDArray[np.floating]
    confident_BK: NDArray[np.bool_]


@dataclass(frozen=True)
class Sheet:
    """The content of a contact sheet.

    Attributes:
        title: two lines, the first one in larger letters.
        captions: one per sample.
        crops_BSS3: uint8 RGB.
        labels_BK2: float (x, y) in crop pixels; NaN where not labeled.
        columns: drawn to the right of the labels.
        label_peak: the peak of a label's heatmap, shown at full opacity.
    """

    title: tuple[str, str]
    captions: Sequence[str]
    crops_BSS3: NDArray[np.uint8]
    labels_BK2: NDArray[np.floating]
    columns: Sequence[Column]
    skeleton: Skeleton
    label_peak: float


def draw(sheet: Sheet) -> bytes:
    """Draw a sheet. Returns the content of a PNG file."""
    width = (1 + len(sheet.columns)) * (TILE_PX + GAP_PX) + GAP_PX
    height = HEADER_PX + len(sheet.captions) * (TILE_PX + GAP_PX)
    canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
    for row in range(len(sheet.captions)):
        for column, tile in enumerate(_tiles(sheet, row)):
            x, y = _corner(row, column)
            canvas[y : y + TILE_PX, x : x + TILE_PX] = tile
    ok, content = cv2.imencode(".png", cv2.cvtColor(_with_text(canvas, sheet), cv2.COLOR_RGB2BGR))
    if not ok:
        raise OSError("OpenCV could not encode a PNG")
    return content.tobytes()


def _corner(row: int, column: int) -> tuple[int, int]:
    """(x, y) of a tile's top-left pixel."""
    return GAP_PX + column * (TILE_PX + GAP_PX), HEADER_PX + row * (TILE_PX + GAP_PX)


def _tiles(sheet: Sheet, row: int) -> list[Image_HW3]:
    """The tiles of a row: the labels, then each column."""
    crop, labels_K2 = sheet.crops_BSS3[row], sheet.labels_BK2[row]
    zoom = TILE_PX / len(crop)
    crop = cv2.resize(crop, (TILE_PX, TILE_PX), interpolation=_interpolation(zoom)).astype(np.uint8)
    labeled_K = np.isfinite(labels_K2).all(-1)
    tiles = [crop.copy()]
    draw_skeleton(tiles[0], _to_tile(labels_K2, zoom), labeled_K, sheet.skeleton, LIMB_PX)
    hues_K3 = joint_hues(sheet.skeleton)
    for column in sheet.columns:
        heat_HW4 = color_heatmaps(column.heatmaps_BKHW[row], hues_K3, sheet.label_peak)
        tile = _overlay_heat(crop, heat_HW4)
        joints_K2 = _to_tile(column.joints_BK2[row], zoom)
        draw_skeleton(
            tile, joints_K2, column.confident_BK[row], sheet.skeleton, LIMB_PX, faint_dots=True
        )
        tiles.append(tile)
    return tiles


def _interpolation(zoom: float) -> int:
    return cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR


def _to_tile(crop_K2: NDArray[np.floating], zoom: float) -> NDArray[np.floating]:
    """Crop pixels to tile pixels; both have pixel centers at whole numbers."""
    return (crop_K2 + 0.5) * zoom - 0.5


def _overlay_heat(crop_TT3: Image_HW3, heat_HW4: NDArray[np.float32]) -> Image_HW3:
    """A layer of heatmaps over the darkened gray crop."""
    heat_TT4 = cv2.resize(heat_HW4, (TILE_PX, TILE_PX), interpolation=cv2.INTER_NEAREST)
    gray = CROP_UNDER_HEAT * crop_TT3.mean(-1, keepdims=True, dtype=np.float32)
    opacity = heat_TT4[..., 3:]
    blended: NDArray[np.float32] = gray * (1 - opacity) + 255 * heat_TT4[..., :3] * opacity
    return np.rint(blended).astype(np.uint8)


def _with_text(canvas: Image_HW3, sheet: Sheet) -> Image_HW3:
    """The canvas with titles, legend, column names and captions."""
    image = Image.fromarray(canvas)
    pen = ImageDraw.Draw(image)
    title, text, small = (ImageFont.load_default(px) for px in (TITLE_PX, TEXT_PX, CAPTION_PX))
    pen.text((GAP_PX + 2, 5), sheet.title[0], TEXT, font=title)
    pen.text((GAP_PX + 2, 28), sheet.title[1], TEXT, font=text)
    x = float(GAP_PX + 2)
    for label, color in LEGEND:
        pen.text((x, 46), label, color, font=small)
        x += pen.textlength(label, font=small) + 10
    for number, name in enumerate(("labels", *(column.name for column in sheet.columns))):
        pen.text((_corner(0, number)[0] + 2, HEADER_PX - 18), name, TEXT, font=text)
    for row, caption in enumerate(sheet.captions):
        x, y = _corner(row, 0)
        position, shown = (x + 3, y + TILE_PX - 15), _shorten(caption, pen, small)
        pen.text(position, shown, TEXT, font=small, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def _shorten(caption: str, pen: ImageDraw.ImageDraw, font: Any) -> str:
    """As much of a caption's end as fits into a tile, on one line."""
    line = " ".join(caption.split())
    shown = line[-MAX_CAPTION_LETTERS:]
    while pen.textlength(shown, font=font) > TILE_PX - 8:
        shown = shown[1:]
    return shown if shown == line else f"…{shown[1:]}"
