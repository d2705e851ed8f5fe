"""Squares of a view: analytic Gaussians through any of them come out where they belong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fpd.data.heatmap_codec import decode, encode
from fpd.pipeline.teachers.alignment import (
    BODY_FACTOR,
    Squares,
    body_squares,
    cut_squares,
    place_heatmaps,
    turned_squares,
    upright_squares,
)

CPU = torch.device("cpu")


def squares_of(*rows: tuple[float, float, float, float]) -> Squares:
    """From center x and y, half the side, and degrees."""
    x, y, half, degrees = torch.tensor(rows).unbind(1)
    return Squares(torch.stack([x, y], dim=1), half, torch.deg2rad(degrees))


def in_square(box_BK2: Tensor, squares: Squares) -> Tensor:
    """By complex numbers: the module under test has matrices."""
    points = torch.complex(*(box_BK2 - squares.center_B2[:, None]).unbind(-1))
    turned = points * torch.exp(-1j * squares.angle_B)[:, None] / squares.half_B[:, None]
    return torch.stack([turned.real, turned.imag], dim=-1)


def to_pixels(points: Tensor, side_px: int) -> Tensor:
    """From -1..1 across a grid to its pixels, whose centers are integers."""
    return (points + 1) * side_px / 2 - 0.5


ANY = squares_of(
    *((0, 0, 1.25, 0), (0, 0, 1.25, 30), (0, 0, 1.25, -90), (0, 0, 1.6, 180)),
    *((0.2, -0.1, 1.1, 67), (-0.3, 0.4, 1.9, -141)),
)


@pytest.mark.parametrize("side_px", [16, 32, 64])
def test_gaussians_are_placed_where_they_belong(side_px: int) -> None:
    """Drawn on the squares at known positions, and decoded on the view's grid."""
    generator = torch.Generator().manual_seed(0)
    box_BK2 = torch.rand(6, 50, 2, generator=generator) * 1.2 - 0.6
    drawn, _ = encode(to_pixels(in_square(box_BK2, ANY), 128), 128, 3.2)
    placed = place_heatmaps(drawn, ANY, side_px)
    assert placed.shape == (6, 50, side_px, side_px)
    joints, _ = decode(placed)
    assert (joints - to_pixels(box_BK2, side_px)).norm(dim=-1).max() < 0.05
    # Peaks: those of Gaussians that are drawn on the view's grid.
    for b, half in enumerate(ANY.half_B.tolist()):
        sigma_px = 3.2 * half * side_px / 128
        expected, _ = encode(to_pixels(box_BK2[b : b + 1], side_px), side_px, sigma_px)
        assert (placed[b] - expected[0]).abs().max() < 0.02


def test_heatmaps_are_zero_outside_the_square() -> None:
    squares = squares_of((0, 0, 0.5, 0), (0, 0, 0.5, 45))
    placed = place_heatmaps(torch.ones(2, 1, 64, 64), squares, 64)
    torch.testing.assert_close(placed[0, 0, 16:48, 16:48], torch.ones(32, 32))
    assert placed[0].sum().item() == pytest.approx(32 * 32)
    assert not placed[1, 0, 16, 16] and placed[1, 0, 11, 32] > 0.99  # a corner points up
    assert placed[1].sum().item() == pytest.approx(32 * 32, rel=0.03)


def test_pixels_and_heatmaps_go_through_the_same_squares() -> None:
    """A blob in the wide crop is found in the squares, and its place there leads back to it."""
    box_BK2 = torch.tensor([[[0.35, -0.2]]]).expand(6, 1, 2)
    blob, _ = encode(to_pixels(box_BK2 / 2, 512), 512, 9.0)
    cut = cut_squares(blob.expand(-1, 3, -1, -1).contiguous(), ANY, 2.0, 256)
    assert cut.shape == (6, 3, 256, 256)
    found, _ = decode(cut)
    expected = to_pixels(in_square(box_BK2, ANY), 256)
    torch.testing.assert_close(found, expected.expand(-1, 3, -1), atol=0.1, rtol=0)
    back = ANY.to_box((found + 0.5) / 128 - 1)
    torch.testing.assert_close(back, box_BK2.expand(-1, 3, -1), atol=2e-3, rtol=0)


def test_an_upright_square_is_cut_without_interpolation() -> None:
    crops = torch.rand(2, 3, 64, 64)
    cut = cut_squares(crops, upright_squares(2, 1.0, CPU), 2.0, 32)
    torch.testing.assert_close(cut, crops[:, :, 16:48, 16:48])


@pytest.mark.parametrize("degrees", [0.0, 40.0, 90.0, 180.0, -120.0])
def test_torsos_point_up_in_their_squares(degrees: float) -> None:
    angle = math.radians(degrees)
    hips = torch.tensor([30.0, 40.0])
    shoulders = hips + 17 * torch.tensor([math.sin(angle), -math.cos(angle)])
    squares = turned_squares(torch.stack([hips, shoulders])[None], 1.25)
    assert squares.half_B.item() == 1.25 and not squares.center_B2.any()
    up = squares.to_box(torch.tensor([[[0.0, 0.0], [0.0, -1.0]]]))[0]
    along = (up[1] - up[0]) / 1.25
    torch.testing.assert_close(along, (shoulders - hips) / 17, atol=1e-5, rtol=0)


def test_a_torso_without_labels_has_no_angle() -> None:
    torsos = torch.tensor([[[1.0, 5.0], [1.0, 2.0]], [[math.nan, 0], [1, 2]]])
    squares = turned_squares(torsos, 1.0)
    assert squares.angle_B.isnan().tolist() == [False, True]


def test_a_torso_of_no_length_is_upright() -> None:
    """A person seen from above."""
    assert turned_squares(torch.full((1, 2, 2), 7.0), 1.0).angle_B.tolist() == [0.0]


def test_a_bodys_square_has_its_circle() -> None:
    circle = torch.tensor([[[0.1, 0.2], [0.1 + 0.3, 0.2]], [[0.0, 0.0], [0.0, -9.0]]])
    squares = body_squares(circle, 1.0)
    torch.testing.assert_close(squares.center_B2, circle[:, 0])
    torch.testing.assert_close(squares.half_B, torch.tensor([0.3 * BODY_FACTOR, 2.0]))  # bounded
    torch.testing.assert_close(squares.angle_B, torch.tensor([math.pi / 2, 0.0]))
    top = squares.to_box(torch.tensor([[0.0, -1 / BODY_FACTOR]]).expand(2, 1, 2))
    torch.testing.assert_close(top[0, 0], circle[0, 1])
