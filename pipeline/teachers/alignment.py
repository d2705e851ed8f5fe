"""The square of a view that a teacher is run on: where it is, its pixels, and its maps put back.

Teachers that were trained on upright people are more accurate on crops that are turned upright. The
loader cuts each view in a wide crop from the photograph; a teacher's square is cut from that on the
teacher's device, so a second pass needs no photograph.

Positions are in *box coordinates*: the view's box is the square from -1 to 1, x to the right and y
down. A flipped view has flipped squares.

Shape letters: B batch, C side of the wide crop, J joints, N side of heatmaps on a square, G side of
the store's heatmaps, K joints of a teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

ALIGNMENT_VERSION = 1
"""Increase it with any change to squares or resampling: aligned stores are then refused."""

TURNED_FACTOR = 1.25
"""Side of a turned square, relative to the teacher's upright square: a box that is turned about its
center must be larger to show the same. BlazePose full on 400 of LSP's test people, PCK@0.2: 84.9
for 1.15, 84.7 for 1.25, 83.0 for 1.4; by the labels (120 people), 83.2 for 1 and 85.2 for 1.25."""

BODY_FACTOR = 1.25
"""Side of a body's square, relative to its circle's diameter (MediaPipe, pose_landmarks_to_roi)."""

REACH = 2.0
"""Side of the wide crop, relative to the teacher's upright square: what lies beyond is black. It
contains a turned square, whose corners are at 1.25 * sqrt(2) = 1.77."""

MIN_PEAK = 0.1
"""The peak that the joints which turn a square must have; with lower ones, it stays upright. On 400
people, thresholds of up to 0.2 changed nothing, and 0.3 lost 2 points."""

EDGE = 1e-6
"""Rounding at the edges of a square."""

SIZES = (0.2, REACH)
"""Least and largest side of a body's square, relative to the teacher's upright square."""


class Squares(NamedTuple):
    """A square in each view, in box coordinates.

    Attributes:
        center_B2: float32, (x, y).
        half_B: float32, half its side.
        angle_B: float32, radians; positive turns its top to the right.
    """

    center_B2: Tensor
    half_B: Tensor
    angle_B: Tensor

    def where(self, condition_B: Tensor, others: Squares) -> Squares:
        """These squares where a condition holds, and the others elsewhere."""
        return Squares(
            torch.where(condition_B[:, None], self.center_B2, others.center_B2),
            torch.where(condition_B, self.half_B, others.half_B),
            torch.where(condition_B, self.angle_B, others.angle_B),
        )

    def to_box(self, points_BK2: Tensor) -> Tensor:
        """Points of the squares, from -1 to 1 in each, in box coordinates."""
        cos, sin = (f(self.angle_B)[:, None] for f in (torch.cos, torch.sin))
        x, y = points_BK2.unbind(-1)
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
        return self.center_B2[:, None] + self.half_B[:, None, None] * turned


def upright_squares(count: int, half: float, device: torch.device) -> Squares:
    """Squares about the centers of the boxes."""
    zeros = torch.zeros(count, device=device)
    return Squares(torch.zeros(count, 2, device=device), zeros + half, zeros)


def turned_squares(torso_B22: Tensor, half: float) -> Squares:
    """Squares about the centers of the boxes, whose tops are where the torsos point to.

    Args:
        torso_B22: (x, y) of the middle of the hips and of the shoulders, in any unit. NaN gives an
            angle of NaN.
        half: half the side, in box coordinates.
    """
    upright = upright_squares(len(torso_B22), half, torso_B22.device)
    return upright._replace(angle_B=_angles(torso_B22))


def body_squares(circle_B22: Tensor, half: float) -> Squares:
    """Squares about bodies, with their tops where the bodies point to.

    Args:
        circle_B22: (x, y) of the center of a circle around the body, and of its point in the
            direction of the head; box coordinates.
        half: half the side of the upright square, which bounds the result's (`SIZES`).
    """
    radius_B = (circle_B22[:, 1] - circle_B22[:, 0]).norm(dim=-1)
    half_B = (BODY_FACTOR * radius_B).clamp(SIZES[0] * half, SIZES[1] * half)
    return Squares(circle_B22[:, 0], half_B, _angles(circle_B22))


def _angles(ends_B22: Tensor) -> Tensor:
    x, y = (ends_B22[:, 1] - ends_B22[:, 0]).unbind(-1)
    return torch.atan2(x, 0.0 - y)  # not -y: ends at one point have the angle 0, not pi


def cut_squares(crop_B3CC: Tensor, squares: Squares, shown: float, side_px: int) -> Tensor:
    """Cut squares from wide crops, by one bilinear interpolation; black beyond the crops.

    Args:
        crop_B3CC: float32.
        shown: half the side of what the wide crops show, in box coordinates.
        side_px: of the result.

    Returns:
        float32 (B, 3, side_px, side_px).
    """
    cos, sin = torch.cos(squares.angle_B), torch.sin(squares.angle_B)
    scale_B = squares.half_B / shown
    x_B, y_B = (squares.center_B2 / shown).unbind(-1)
    to_crop_B23 = _rows((scale_B * cos, -scale_B * sin, x_B), (scale_B * sin, scale_B * cos, y_B))
    return nn.functional.grid_sample(
        crop_B3CC, _grid(to_crop_B23, side_px), mode="bilinear", align_corners=False
    )


def place_heatmaps(heatmaps_BJNN: Tensor, squares: Squares, side_px: int) -> Tensor:
    """Resample heatmaps on squares to the grid of the views' heatmaps; zero outside the squares.

    Args:
        side_px: G.

    Returns:
        float32 (B, J, G, G).
    """
    cos, sin = torch.cos(squares.angle_B), torch.sin(squares.angle_B)
    x_B, y_B = squares.center_B2.unbind(-1)
    to_square_B23 = _rows(
        (cos, sin, -cos * x_B - sin * y_B), (-sin, cos, sin * x_B - cos * y_B)
    ) / squares.half_B.reshape(-1, 1, 1)
    grid_BGG2 = _grid(to_square_B23, side_px)
    inside_BGG = (grid_BGG2.abs() <= 1 + EDGE).all(-1)
    return sample_cubic(heatmaps_BJNN, grid_BGG2) * inside_BGG[:, None]


def _rows(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Affine maps, float32 (B, 2, 3), from the columns (B,) of their rows."""
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)


def _grid(affine_B23: Tensor, side_px: int) -> Tensor:
    """Where the pixels of a square grid are in another; both cover -1 to 1. (B, side, side, 2)."""
    shape = [len(affine_B23), 1, side_px, side_px]
    return nn.functional.affine_grid(affine_B23, shape, align_corners=False)


def sample_cubic(values_BJNN: Tensor, grid_BGG2: Tensor) -> Tensor:
    """Sample by Keys' cubic convolution with a = -1/2, which reproduces parabolas.

    PyTorch's `grid_sample` has a = -3/4, which moved decoded joints by up to 0.12 heatmap pixels.

    Args:
        grid_BGG2: (x, y) from -1 to 1; beyond the edge, the outermost pixels are repeated.

    Returns:
        float32 (B, J, G, G).
    """
    batch, joints, side = values_BJNN.shape[:3]
    position_BGG2 = ((grid_BGG2 + 1) * side - 1) / 2
    first_BGG2 = position_BGG2.floor()
    weights_x, weights_y = _keys_weights(position_BGG2 - first_BGG2).unbind(-2)
    taps = first_BGG2.long()[..., None] + torch.arange(-1, 3, device=grid_BGG2.device)
    columns, rows = taps.clamp(0, side - 1).unbind(-2)
    starts_B = side * side * torch.arange(batch, device=grid_BGG2.device)
    indices = (rows * side + starts_B.reshape(-1, 1, 1, 1))[..., :, None] + columns[..., None, :]
    weights = weights_y[..., :, None] * weights_x[..., None, :]
    # Weighted sums of 16 rows of a table, three times as fast as 16 gathers.
    sampled = nn.functional.embedding_bag(
        indices.reshape(-1, 16),
        values_BJNN.permute(0, 2, 3, 1).reshape(-1, joints),
        mode="sum",
        per_sample_weights=weights.reshape(-1, 16),
    )
    return sampled.reshape(*grid_BGG2.shape[:3], joints).permute(0, 3, 1, 2)


def _keys_weights(fraction: Tensor) -> Tensor:
    """Weights of the pixels at -1, 0, 1 and 2, for positions from 0 to 1 (Keys, 1981, eq. 15)."""
    t = fraction
    outer = (((-t + 2) * t - 1) * t / 2, (t - 1) * t * t / 2)
    inner = (((3 * t - 5) * t * t + 2) / 2, ((-3 * t + 4) * t + 1) * t / 2)
    return torch.stack([outer[0], *inner, outer[1]], dim=-1)
