"""Poses of drawn people: random numbers in, points in pixels out.

A body is posed in three dimensions, so that its limbs are foreshortened and occlude one another
correctly, and projected in parallel. The body's frame, in units of its standing height: x to the
person's left, y down, z to the front. For a person facing the camera, x and y are the image's axes
and z points at the camera; a positive yaw turns the person to their left.

Shape letters: N persons, P points, S sides (right, left), A angles, L lengths, U uniform numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...skeletons import LSP

F64 = NDArray[np.float64]


def _both(joint: str) -> list[int]:
    return [LSP.joints.index(f"{side} {joint}") for side in ("right", "left")]


# Points are LSP's joints, followed by further points for the drawing. Pairs are (right, left).
ANKLES, KNEES, HIPS = _both("ankle"), _both("knee"), _both("hip")
WRISTS, ELBOWS, SHOULDERS = _both("wrist"), _both("elbow"), _both("shoulder")
NECK, HEAD_TOP = LSP.joints.index("neck"), LSP.joints.index("head top")
FINGERS, TOES = [14, 15], [16, 17]
HEAD, NOSE, LEFT_EAR = 18, 19, 20  # the head's center, and the ends of two of its radii
NUM_POINTS = 21

# Angles in degrees, (lowest, highest), by style. Positive bend, nod and swing are forwards, side
# bend and tilt to the left, spread outwards; turn rotates the forearm from the upper arm's front to
# its inner side. Where the sides differ, they are swapped with probability 1/2.
ANGLES = {
    #                   standing   running     crouching  arms up     anything
    "bend":             ((-5, 12), (0, 25),    (5, 45),   (-12, 10),  (-15, 45)),
    "side bend":        ((-8, 8),  (-8, 8),    (-12, 12), (-15, 15),  (-25, 25)),
    "twist":            ((-15, 15), (-25, 25), (-15, 15), (-15, 15),  (-35, 35)),
    "nod":              ((-10, 15), (-15, 10), (-30, 10), (-20, 10),  (-25, 20)),
    "tilt":             ((-15, 15), (-10, 10), (-15, 15), (-15, 15),  (-25, 25)),
    "right arm swing":  ((-20, 40), (-65, -10), (0, 95),  (-10, 30),  (-45, 120)),
    "right arm spread": ((6, 40),  (5, 30),    (0, 60),   (75, 172),  (0, 110)),
    "right arm turn":   ((0, 100), (0, 40),    (0, 90),   (-60, 60),  (-30, 100)),
    "right elbow":      ((0, 110), (50, 115),  (0, 110),  (0, 85),    (0, 135)),
    "left arm swing":   ((-20, 40), (10, 70),  (0, 95),   (-10, 30),  (-45, 120)),
    "left arm spread":  ((6, 40),  (5, 30),    (0, 60),   (75, 172),  (0, 110)),
    "left arm turn":    ((0, 100), (0, 40),    (0, 90),   (-60, 60),  (-30, 100)),
    "left elbow":       ((0, 110), (50, 115),  (0, 110),  (0, 85),    (0, 135)),
    "right leg swing":  ((-10, 15), (20, 85),  (45, 115), (-10, 30),  (-30, 90)),
    "right leg spread": ((1, 16),  (0, 12),    (5, 45),   (3, 40),    (0, 55)),
    "right knee":       ((0, 12),  (20, 100),  (60, 140), (0, 30),    (0, 120)),
    "left leg swing":   ((-10, 15), (-40, 5),  (45, 115), (-10, 30),  (-30, 90)),
    "left leg spread":  ((1, 16),  (0, 12),    (5, 45),   (3, 40),    (0, 55)),
    "left knee":        ((0, 12),  (5, 85),    (60, 140), (0, 30),    (0, 120)),
}  # fmt: skip
RADIANS_BY_STYLE = np.radians(np.array(list(ANGLES.values()), dtype=np.float64)).swapaxes(0, 1)
STYLE_BOUNDS = np.array([0.25, 0.45, 0.6, 0.8])  # cumulative probabilities; the last style's is 1

# Fractions of the standing height, approximately those of Drillis & Contini 1966; each is scaled by
# a random factor of 1 - VARIETY to 1 + VARIETY.
LENGTHS = {
    "head": 0.18,  # from the neck, at the collar bones, to the head top
    "torso": 0.29,
    "shoulder": 0.112,  # from the body's midline
    "hip": 0.06,
    "upper arm": 0.17,
    "forearm": 0.15,
    "thigh": 0.245,
    "shin": 0.245,
}
VARIETY = 0.12
HAND, FOOT = 0.055, 0.08
SHOULDER_DROP = 0.03  # from the neck down to the shoulders
HEAD_CENTER = 0.58  # fraction of the way from neck to head top
HEAD_RADIUS = 0.055  # horizontal
SIDES = np.array([-1.0, 1.0])  # sign of x on the right and left side

FACING = 0.75  # share of people that face the camera
MAX_YAW = np.radians(50)  # from directly facing, or directly facing away from, the camera
# The whole body leans by up to MAX_LEAN, or with probability RARE by up to MAX_RARE_LEAN.
MAX_LEAN, MAX_RARE_LEAN, RARE = np.radians(40), np.radians(130), 0.08
SIZES_PX = (128, 220)  # smallest and largest width and height of an image
STATURES = (0.58, 0.85)  # standing height over the image's height
EDGE_PX = 4  # least distance of joints from the image's edge
GRID_PX = 1 / 256  # points are multiples of it, exact both in OpenCV's coordinates and in float64

PLACE_UNIFORMS = 11  # uniform numbers that decide neither lengths nor angles
SIZE_UNIFORMS = slice(6, 8)  # those of them that decide the image's size
POSE_UNIFORMS = PLACE_UNIFORMS + len(LENGTHS) + len(ANGLES)


class Poses(NamedTuple):
    """The poses of N people.

    Attributes:
        points_NP3: float64 (x, y, z) in pixels; z points at the camera and is 0 between the hips.
        stature_N: float64, standing height, pixels.
        size_N2: int64, (width, height) of the image, pixels.
    """

    points_NP3: F64
    stature_N: F64
    size_N2: NDArray[np.int64]


def pose(u_NU: F64) -> Poses:
    """Poses from uniform numbers in [0, 1), (N, POSE_UNIFORMS); all joints are in their images."""
    columns = u_NU[:, :PLACE_UNIFORMS].T
    u_style, u_swap, u_facing, u_yaw, u_rare, u_lean, _, _, *u_place = columns
    u_lengths, u_angles = np.split(u_NU[:, PLACE_UNIFORMS:], [len(LENGTHS)], axis=1)
    span_NA2 = RADIANS_BY_STYLE[np.searchsorted(STYLE_BOUNDS, u_style, side="right")]
    angles = span_NA2[..., 0] + (span_NA2[..., 1] - span_NA2[..., 0]) * u_angles
    lengths = np.array(list(LENGTHS.values())) * (1 + VARIETY * (2 * u_lengths - 1))
    points = _bodies(angles, lengths, u_swap < 0.5)
    yaw = MAX_YAW * (2 * u_yaw - 1) + np.where(u_facing < FACING, 0, np.pi)
    lean = np.where(u_rare < RARE, MAX_RARE_LEAN, MAX_LEAN) * (2 * u_lean - 1)
    _rotate(points, 2, 0, yaw)
    _rotate(points, 0, 1, lean)
    return _place(points, sizes(u_NU), *u_place)


def sizes(u_NU: F64) -> NDArray[np.int64]:
    """Images' (width, height), int64 (N, 2), pixels, from the same numbers as `pose`."""
    smallest, largest = SIZES_PX
    return (smallest + (largest + 1 - smallest) * u_NU[:, SIZE_UNIFORMS]).astype(np.int64)


def on_grid(values_px: F64) -> F64:
    """Round to multiples of GRID_PX: machines' sines may differ in the last bit."""
    return np.rint(values_px / GRID_PX) * GRID_PX


def _bodies(angles_NA: F64, lengths_NL: F64, swap_N: NDArray[np.bool_]) -> F64:
    """Points (N, P, 3) in the body's frame; the origin is between the hips."""
    num = len(angles_NA)
    bend, side_bend, twist, nod, tilt = angles_NA[:, :5].T
    arms_NS4, legs_NS3 = angles_NA[:, 5:13].reshape(num, 2, 4), angles_NA[:, 13:].reshape(num, 2, 3)
    arms_NS4 = np.where(swap_N[:, None, None], arms_NS4[:, ::-1], arms_NS4)
    legs_NS3 = np.where(swap_N[:, None, None], legs_NS3[:, ::-1], legs_NS3)
    head, torso, shoulder, hip, *limbs = lengths_NL.T[:, :, None]

    points = np.zeros((num, NUM_POINTS, 3))
    points[:, HIPS, 0] = SIDES * hip
    up, left, _ = _trunk(bend, side_bend, twist)
    points[:, NECK] = torso * up
    points[:, SHOULDERS] = (points[:, NECK] - SHOULDER_DROP * up)[:, None]
    points[:, SHOULDERS] += left[:, None] * (SIDES * shoulder)[..., None]
    up, left, front = _trunk(bend + nod, side_bend + tilt, twist)
    points[:, HEAD_TOP] = points[:, NECK] + head * up
    points[:, HEAD] = points[:, NECK] + HEAD_CENTER * head * up
    points[:, NOSE] = points[:, HEAD] + HEAD_RADIUS * front
    points[:, LEFT_EAR] = points[:, HEAD] + HEAD_RADIUS * left
    _add_arms(points, arms_NS4, *limbs[:2])
    _add_legs(points, legs_NS3, *limbs[2:])
    return points


def _trunk(bend_N: F64, side_N: F64, twist_N: F64) -> tuple[F64, F64, F64]:
    """Unit vectors (N, 3) up, to the left and to the front of the chest or head."""
    reach = np.cos(side_N)
    up = _vectors(np.sin(side_N), -reach * np.cos(bend_N), reach * np.sin(bend_N))
    left = _vectors(np.cos(twist_N), 0, np.sin(twist_N))
    left -= (left * up).sum(axis=-1, keepdims=True) * up
    left /= np.sqrt(np.square(left).sum(axis=-1, keepdims=True))
    (a, b, c), (d, e, f) = up.T, left.T
    return up, left, _vectors(b * f - c * e, c * d - a * f, a * e - b * d)


def _vectors(x: F64, y: F64 | int, z: F64) -> F64:
    """Stack coordinates on a new last axis; `np.stack` takes several times as long."""
    vectors = np.empty((*x.shape, 3))
    vectors[..., 0], vectors[..., 1], vectors[..., 2] = x, y, z
    return vectors


def _add_arms(points: F64, angles_NS4: F64, upper_N1: F64, lower_N1: F64) -> None:
    along, front, inner = _limbs(angles_NS4[..., 0], angles_NS4[..., 1])
    turn, elbow = angles_NS4[..., 2, None], angles_NS4[..., 3, None]
    sideways = np.cos(turn) * front + np.sin(turn) * inner
    lower = np.cos(elbow) * along + np.sin(elbow) * sideways
    points[:, ELBOWS] = points[:, SHOULDERS] + upper_N1[..., None] * along
    points[:, WRISTS] = points[:, ELBOWS] + lower_N1[..., None] * lower
    points[:, FINGERS] = points[:, WRISTS] + HAND * lower


def _add_legs(points: F64, angles_NS3: F64, upper_N1: F64, lower_N1: F64) -> None:
    along, front, _ = _limbs(angles_NS3[..., 0], angles_NS3[..., 1])
    sin, cos = np.sin(angles_NS3[..., 2, None]), np.cos(angles_NS3[..., 2, None])
    lower, foot = cos * along - sin * front, cos * front + sin * along
    points[:, KNEES] = points[:, HIPS] + upper_N1[..., None] * along
    points[:, ANKLES] = points[:, KNEES] + lower_N1[..., None] * lower
    # Toes point slightly down, so that feet are visible from the front.
    points[:, TOES] = points[:, ANKLES] + FOOT * (0.9 * foot + 0.45 * lower)


def _limbs(swing_NS: F64, spread_NS: F64) -> tuple[F64, F64, F64]:
    """Unit vectors (N, S, 3) along an upper limb, to its front and to its inner side."""
    sin_a, cos_a = np.sin(swing_NS), np.cos(swing_NS)
    sin_b, cos_b = np.sin(spread_NS), np.cos(spread_NS)
    along = _vectors(SIDES * sin_b, cos_b * cos_a, cos_b * sin_a)
    front = _vectors(np.zeros_like(sin_a), -sin_a, cos_a)
    inner = _vectors(-SIDES * cos_b, sin_b * cos_a, sin_b * sin_a)
    return along, front, inner


def _rotate(points: F64, start: int, end: int, angle_N: F64) -> None:
    """Rotate all points in place, by `angle_N` from axis `start` towards axis `end`."""
    sin, cos = np.sin(angle_N)[:, None], np.cos(angle_N)[:, None]
    a, b = points[..., start], points[..., end]
    points[..., start], points[..., end] = cos * a - sin * b, sin * a + cos * b


def _place(points: F64, size_N2: NDArray[np.int64], u_stature: F64, u_x: F64, u_y: F64) -> Poses:
    """Scale bodies to pixels, at most to their images' sizes, and move them into the images."""
    joints = points[:, : LSP.num_joints, :2]
    low, high = joints.min(axis=1), joints.max(axis=1)
    available_N2 = size_N2 - 1 - 2 * EDGE_PX
    stature = size_N2[:, 1] * (STATURES[0] + (STATURES[1] - STATURES[0]) * u_stature)
    stature = np.minimum(stature, (available_N2 / (high - low)).min(axis=-1))
    points = points * stature[:, None, None]
    low, high = low * stature[:, None], high * stature[:, None]
    corner = EDGE_PX + (available_N2 - (high - low)) * np.stack([u_x, u_y], axis=-1)
    points[..., :2] += (corner - low)[:, None]
    return Poses(on_grid(points), on_grid(stature), size_N2)
