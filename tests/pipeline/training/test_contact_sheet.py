"""Contact sheets: what is drawn where, and in which color."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from fpd.data.skeletons import LSP, MPII, Skeleton
from fpd.pipeline.runtime.drawing import joint_hues
from fpd.pipeline.runtime.palette import LEFT, MIDDLE, RIGHT
from fpd.pipeline.training.contact_sheet import (
    BACKGROUND,
    GAP_PX,
    HEADER_PX,
    TILE_PX,
    Column,
    Sheet,
    draw,
)

NOWHERE = np.full((14, 2), np.nan)
GRAY = 100


def column(heatmap: float = 0.0, **changes: Any) -> Column:
    maps = np.zeros((2, 14, 16, 16), np.float32)
    maps[0, 3, 8, 4] = heatmap
    settings = {"joints_BK2": np.stack([NOWHERE] * 2), "confident_BK": np.ones((2, 14), bool)}
    return Column("target", **{"heatmaps_BKHW": maps, **settings, **changes})


def sheet(*columns: Column, **changes: Any) -> Sheet:
    settings: dict[str, Any] = {
        "title": ("student, epoch 1 of 2", "loss 1"),
        "captions": ["a", "b"],
        "crops_BSS3": np.full((2, 64, 64, 3), GRAY, np.uint8),
        "labels_BK2": np.stack([NOWHERE] * 2),
        "columns": columns,
        "skeleton": LSP,
        "label_peak": 0.5,
    }
    return Sheet(**settings | changes)


def pixels(drawn: Sheet) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The decoded PNG, RGB."""
    image = cv2.imdecode(np.frombuffer(draw(drawn), np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(image, np.uint8)


def tile(picture: Any, row: int, number: int) -> Any:
    x, y = GAP_PX + number * (TILE_PX + GAP_PX), HEADER_PX + row * (TILE_PX + GAP_PX)
    return picture[y : y + TILE_PX, x : x + TILE_PX]


def joints(**positions: tuple[float, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    joints_K2 = NOWHERE.copy()
    for name, position in positions.items():
        joints_K2[LSP.joints.index(name.replace("_", " "))] = position
    return np.stack([joints_K2, NOWHERE])


def test_a_row_per_sample_and_a_column_per_kind() -> None:
    for columns in (1, 2, 3):
        picture = pixels(sheet(*[column()] * columns))
        assert picture.shape == (82 + 2 * 196, 4 + (1 + columns) * 196, 3)
    assert (tile(picture, 1, 0)[20:100] == GRAY).all()  # the crop as it is
    assert (tile(picture, 1, 3)[20:100] == 70).all()  # darkened, under a map of zeros


def test_heat_has_its_joints_hue_and_is_clearest_at_a_labels_peak() -> None:
    """One of 16 x 16 pixels: 12 x 12 of the tile's. By hand: 15 % of 70, 85 % of the hue."""
    hue = joint_hues(LSP)[3].tolist()
    expected = [round(0.15 * 70 + 0.85 * part) for part in hue]
    for height in (0.5, 0.9):  # higher is as clear
        shown = tile(pixels(sheet(column(height))), 0, 1)
        assert np.abs(shown[96:108, 48:60].astype(int) - expected).max() <= 1
        assert (shown[96:108, 30:47] == 70).all()
    half = tile(pixels(sheet(column(0.25))), 0, 1)[100, 50]
    assert half.tolist() == pytest.approx([0.575 * 70 + 0.425 * part for part in hue], abs=1)
    for value in (-1.0, np.nan):
        assert (tile(pixels(sheet(column(value))), 0, 1)[96:108, 48:60] == 70).all()


def test_a_maps_foot_does_not_veil_the_crop() -> None:
    """A map that is nowhere below 0.4 of its peak, as early in training."""
    maps = np.full((2, 14, 16, 16), 0.2, np.float32)
    maps[:, :, 8, 4] = 0.5
    shown = tile(pixels(sheet(column(heatmaps_BKHW=maps))), 1, 1)
    assert (shown[:90] == 70).all() and (shown[:, 70:] == 70).all()


def test_each_joint_is_shown_where_it_is_clearest() -> None:
    maps = np.zeros((2, 14, 16, 16), np.float32)
    maps[1, 3, 5, 5], maps[1, 9, 5, 5] = 0.5, 0.1
    shown = tile(pixels(sheet(column(heatmaps_BKHW=maps))), 1, 1)
    assert shown[66, 66].tolist() == tile(pixels(sheet(column(0.5))), 0, 1)[100, 50].tolist()


def test_the_legend_fits_a_teachers_sheet() -> None:
    """The narrowest: labels, target, prediction."""
    picture = pixels(sheet(column(), column()))
    legend = (picture[46:62] != BACKGROUND).any(-1)
    assert legend[:, 500:].any() and not legend[:, -10:].any()


def test_joints_are_drawn_in_place_in_the_color_of_their_side() -> None:
    """Crop pixel 10 is at (10 + 0.5) x 3 - 0.5 = 31 of a tile three times as large."""
    placed = joints(left_wrist=(10, 20), right_knee=(40, 50), neck=(30, 10))
    for shown in (
        tile(pixels(sheet(labels_BK2=placed)), 0, 0),
        tile(pixels(sheet(column(joints_BK2=placed))), 0, 1),
    ):
        assert shown[61, 31].tolist() == list(LEFT)
        assert shown[151, 121].tolist() == list(RIGHT)
        assert shown[31, 91].tolist() == list(MIDDLE)


def test_limbs_connect_confident_joints() -> None:
    placed = joints(left_wrist=(10, 20), left_elbow=(40, 20))
    shown = tile(pixels(sheet(column(joints_BK2=placed))), 0, 1)
    assert shown[61, 76].tolist() == list(LEFT)
    uncertain = np.ones((2, 14), bool)
    uncertain[0, LSP.joints.index("left wrist")] = False
    shown = tile(pixels(sheet(column(joints_BK2=placed, confident_BK=uncertain))), 0, 1)
    assert shown[61, 76].tolist() == [70] * 3
    assert shown[61, 31].tolist() == list(LEFT)  # still a dot


@pytest.mark.parametrize("far", [1e3, 1e300, -np.inf])
def test_joints_far_outside_draw_nothing(far: float) -> None:
    placed = joints(neck=(far, 20.0), head_top=(far, far))
    shown = tile(pixels(sheet(column(joints_BK2=placed))), 0, 1)
    assert (shown == 70).all()


@pytest.mark.parametrize(("crop_px", "heatmap_px"), [(16, 4), (1024, 64)])
def test_any_geometry_fits_its_tile(crop_px: int, heatmap_px: int) -> None:
    maps = np.full((2, 16, heatmap_px, heatmap_px), 0.5, np.float32)
    middle = np.full((2, 16, 2), (crop_px - 1) / 2)
    skeleton: Skeleton = MPII
    drawn = sheet(
        Column("prediction", maps, middle, np.ones((2, 16), bool)),
        crops_BSS3=np.full((2, crop_px, crop_px, 3), GRAY, np.uint8),
        labels_BK2=np.full((2, 16, 2), np.nan),
        skeleton=skeleton,
    )
    shown = tile(pixels(drawn), 1, 1)
    assert (shown[0, 0] == shown[-1, -1]).all()
    assert not (shown[96, 96] == shown[0, 0]).all()


@pytest.mark.parametrize("caption", ["", "W" * 300, "пример/人/🙂.jpg", "two\nlines"])
def test_any_sample_id_fits_its_tile(caption: str) -> None:
    picture = pixels(sheet(column(), captions=[caption, "b"]))
    assert (tile(picture, 0, 1) == 70).all()  # it stays within its tile
    assert (tile(picture, 1, 0)[:100] == GRAY).all()
    assert (tile(picture, 0, 0)[:150] == GRAY).all()
