"""Draw a posed person over clutter: points and random numbers in, pixels out.

All shapes are convex polygons with anti-aliased edges and sub-pixel corners, painted from the
farthest to the nearest. Left and right can be told apart as in photographs: face and neckline are
visible from the front, hair from behind, and near limbs cover far ones.

Shape letters: P points of the person, L limb pieces, C discs, V corners of a polygon.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ...skeletons import LSP
from . import poses
from .poses import F64

Color = list[float]  # red, green, blue, 0 to 255

SHIFT = 8  # fractional bits in OpenCV's coordinates; poses.GRID_PX is 2**-SHIFT
MIN_CLUTTER, MAX_CLUTTER = 4, 14  # shapes behind the person
PATCHES = 4  # the backdrop is enlarged from PATCHES x PATCHES colors
# Numbers of uniforms that `paint` needs, with a small reserve.
CLUTTER_UNIFORMS = 16 + 3 * PATCHES**2 + 13 * MAX_CLUTTER
LOOK_UNIFORMS = 64
# Shading: each shape in a dark tone and, on it, a smaller lit one, shifted towards the light.
DARK, LIT, LIT_OFFSET = 0.78, 0.65, 0.25

SKIN, SHIRT, TROUSERS, SHOES, HAIR = range(5)  # materials
SKINS = ((242, 205, 178), (222, 170, 135), (170, 115, 80), (95, 62, 46))
HAIRS = ((28, 22, 20), (70, 44, 28), (125, 80, 40), (205, 170, 100), (150, 60, 30), (170, 168, 165))
WHITE, PUPIL, LIPS = [235.0] * 3, [25.0] * 3, [150.0, 50.0, 55.0]

_ROUND = np.linspace(0, 2 * np.pi, 16, endpoint=False)
DISC = np.stack([np.cos(_ROUND), np.sin(_ROUND)], axis=-1)
SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
STRAY_LIMB = np.array([(-1.2, 0), (0, 0), (1, 0.8)])  # end, joint, end
_HALF = np.linspace(-np.pi / 2, np.pi / 2, 7)
CAP = np.stack([np.cos(_HALF), np.sin(_HALF)], axis=-1)  # the end of a piece that points right


class UniformStream:
    """Uniform numbers in [0, 1), consumed one after the other."""

    def __init__(self, uniforms: F64) -> None:
        self._remaining = iter(uniforms.tolist())

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return low + (high - low) * float(next(self._remaining))

    def below(self, count: int) -> int:
        """An integer from 0 to count - 1."""
        return int(self.between(0, count))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.between(0, 1) < probability

    def color(self) -> Color:
        """A color, more often dull than saturated."""
        gray = self.between(20, 215)
        return [min(max(gray + self.between(-75, 75), 0.0), 245.0) for _ in range(3)]


class Shape(NamedTuple):
    """A polygon to fill: corners (V, 2) in pixels; depth in pixels towards the camera."""

    depth: float
    corners: F64
    color: Color


class Pieces(NamedTuple):
    """Tapered pieces of limbs, in columns; each is a part of the line between two points."""

    start_L: NDArray[np.int64]
    end_L: NDArray[np.int64]
    shares_L2: F64  # where the piece begins and ends, as fractions of the line
    radii_L2: F64  # at both ends, as fractions of the standing height
    materials: tuple[int, ...]


class Look(NamedTuple):
    """A person's appearance, independent of the pose."""

    colors: list[Color]  # by material
    pieces: Pieces
    build: float  # factor on thickness
    light_2: F64  # direction in the image from which the light comes


def paint(
    points_P3: F64,
    stature_px: float,
    size_px: tuple[int, int],
    look_uniforms: F64,
    clutter_uniforms: F64,
    noise: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Draw one image.

    Args:
        points_P3: (x, y, z) as in `poses.Poses`, pixels.
        stature_px: standing height, pixels.
        size_px: (width, height), pixels.
        look_uniforms: float64 (LOOK_UNIFORMS,) in [0, 1).
        clutter_uniforms: float64 (CLUTTER_UNIFORMS,) in [0, 1).
        noise: H * W * 3 random bytes.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    stream, clutter_stream = UniformStream(look_uniforms), UniformStream(clutter_uniforms)
    look = _look(stream)
    image = _backdrop(size_px, clutter_stream)
    _fill(image, _clutter(points_P3, stature_px, size_px, look, clutter_stream))
    shapes = _trunk(points_P3, stature_px, look)
    shapes += _limbs(points_P3, stature_px, look)
    shapes += _head(points_P3, stature_px, look)
    _fill(image, sorted(shapes, key=lambda shape: shape.depth))
    _fill(image, _occluders(points_P3, stature_px, stream))
    return _degrade(image, noise, stream)


def _look(stream: UniformStream) -> Look:
    tone, share = stream.below(len(SKINS) - 1), stream.between(0, 1)
    skin = [a + share * (b - a) for a, b in zip(SKINS[tone], SKINS[tone + 1], strict=True)]
    hair = [float(channel) for channel in HAIRS[stream.below(len(HAIRS))]]
    colors = [skin, stream.color(), stream.color(), stream.color(), hair]
    pieces = PIECES[stream.below(len(PIECES))]
    build = stream.between(0.85, 1.25)
    light = stream.between(-0.9, 0.9)  # radians from vertical
    return Look(colors, pieces, build, np.array([np.sin(light), -np.cos(light)]))


def _pieces(sleeves: float, legs: float) -> Pieces:
    """Pieces of both sides; `sleeves`, `legs`: fraction of upper arm or thigh that is clothed."""
    arm, leg = SHIRT if sleeves == 1 else SKIN, TROUSERS if legs == 1 else SKIN
    rows = []
    for side in range(2):
        hip, knee, ankle = poses.HIPS[side], poses.KNEES[side], poses.ANKLES[side]
        shoulder, elbow, wrist = poses.SHOULDERS[side], poses.ELBOWS[side], poses.WRISTS[side]
        rows += [
            (hip, knee, 0, 1, 0.050, 0.034, leg),
            (hip, knee, 0, legs, 0.052, 0.036 + 0.016 * (1 - legs), TROUSERS),
            (knee, ankle, 0, 1, 0.034, 0.022, leg),
            (ankle, poses.TOES[side], 0, 1, 0.024, 0.017, SHOES),
            (shoulder, elbow, 0, 1, 0.033, 0.026, arm),
            (shoulder, elbow, 0, sleeves, 0.036, 0.028 + 0.007 * (1 - sleeves), SHIRT),
            (elbow, wrist, 0, 1, 0.026, 0.018, arm),
            (wrist, poses.FINGERS[side], 0, 1, 0.018, 0.017, SKIN),
        ]
    start, end, *numbers, materials = zip(*rows, strict=True)
    low, high, radius, radius_to = np.array(numbers, dtype=np.float64)
    columns = np.stack([low, high], axis=-1), np.stack([radius, radius_to], axis=-1)
    return Pieces(np.array(start), np.array(end), *columns, materials)


PIECES = [_pieces(sleeves, legs) for sleeves in (0.05, 0.55, 1) for legs in (0.7, 1)]


def _limbs(points_P3: F64, stature_px: float, look: Look) -> list[Shape]:
    """Arms, hands, legs and feet, shaded."""
    pieces = look.pieces
    start_L3, end_L3 = points_P3[pieces.start_L], points_P3[pieces.end_L]
    way_L22 = pieces.shares_L2[..., None] * (end_L3 - start_L3)[:, None, :2]
    ends_L22 = start_L3[:, None, :2] + way_L22
    depths = ((start_L3[:, 2] + end_L3[:, 2]) / 2).tolist()
    tones = []
    for depth, material in zip(depths, pieces.materials, strict=True):
        near = min(max(1 + 0.6 * depth / stature_px, 0.75), 1.15)  # farther limbs are darker
        tones.append(_tone(look.colors[material], near))
    radii_L2 = pieces.radii_L2 * (stature_px * look.build)
    return _shaded_capsules(ends_L22, radii_L2, depths, tones, look.light_2)


def _trunk(points_P3: F64, stature_px: float, look: Look) -> list[Shape]:
    """Pelvis, shirt, neck and, if seen from the front, the neckline."""
    shoulders, hips = points_P3[poses.SHOULDERS], points_P3[poses.HIPS]
    waist = hips + 0.25 * (shoulders - hips)
    neck, head = points_P3[poses.NECK], points_P3[poses.HEAD]
    depth = _depth(points_P3)
    unit = stature_px * look.build
    shapes = []
    for parts, radii, material in (
        ((hips, waist), (0.048, 0.045), TROUSERS),
        ((waist, shoulders), (0.047, 0.036), SHIRT),
    ):
        centers_C2 = np.concatenate(parts)[:, :2]
        radii_C1 = np.repeat(radii, 2)[:, None] * unit
        lit_C2 = centers_C2 + LIT_OFFSET * radii_C1 * look.light_2
        color = look.colors[material]
        shapes.append(Shape(depth, _hull(centers_C2, radii_C1), _tone(color, DARK)))
        shapes.append(Shape(depth, _hull(lit_C2, LIT * radii_C1), color))
    skin = _tone(look.colors[SKIN], 0.88)  # in the shadow of the chin
    throat = _capsules(np.array([[neck[:2], head[:2]]]), np.array([[0.03, 0.028]]) * unit)[0]
    shapes.append(Shape(depth, throat, skin))
    if _faces_camera(points_P3):
        collar = np.array([shoulders[0], shoulders[1], (hips[0] + hips[1]) / 2]) - neck
        collar *= np.array([[0.4], [0.4], [0.2]])
        shapes.append(Shape(depth, (neck + collar)[:, :2], skin))
    return shapes


def _head(points_P3: F64, stature_px: float, look: Look) -> list[Shape]:
    """The head, covered by hair, and on it the face if it is visible."""
    head = points_P3[poses.HEAD, :2]
    # At least the throat's depth, which is the trunk's.
    depth = max(float(points_P3[poses.HEAD, 2]), _depth(points_P3))
    radius = poses.HEAD_RADIUS * stature_px
    up = points_P3[poses.HEAD_TOP, :2] - head
    length = max(float(np.sqrt(up @ up)), 1.0)  # the head may point at the camera
    side = np.array([-up[1], up[0]]) * (radius / length)
    up = up * (max(length, radius) / length)
    shapes = [Shape(depth, _oval(head, up, side), look.colors[HAIR])]
    nose, ear = (
        points_P3[poses.NOSE] - points_P3[poses.HEAD],
        points_P3[poses.LEFT_EAR] - points_P3[poses.HEAD],
    )
    frontal = float(nose[2]) / radius
    if frontal < 0:
        return shapes
    face = _oval(head + 0.3 * nose[:2] - 0.14 * up, 0.8 * up, (0.5 + 0.35 * frontal) * side)
    shapes.append(Shape(depth, face, look.colors[SKIN]))
    for lateral in (-0.42, 0.42):
        eye = 0.75 * nose + lateral * ear
        if eye[2] > 0:
            for size, color in ((0.2, WHITE), (0.12, PUPIL)):
                shapes.append(Shape(depth, head + eye[:2] + size * radius * DISC, color))
    mouth = _oval(head + 0.7 * nose[:2] - 0.5 * up, 0.07 * up, 0.35 * frontal * side)
    shapes.append(Shape(depth, mouth, LIPS))
    return shapes


def _depth(points_P3: F64) -> float:
    """The trunk's depth, pixels towards the camera."""
    return float(points_P3[poses.SHOULDERS + poses.HIPS, 2].sum()) / 4


def _faces_camera(points_P3: F64) -> bool:
    return bool(points_P3[poses.NOSE, 2] > points_P3[poses.HEAD, 2])


def _backdrop(size_px: tuple[int, int], stream: UniformStream) -> NDArray[np.uint8]:
    """A smooth blend or a patchwork of similar colors."""
    base, spread = stream.color(), stream.between(10, 50)
    patches = [
        [value + stream.between(-spread, spread) for value in base] for _ in range(PATCHES**2)
    ]
    small = np.clip(patches, 0, 255).astype(np.uint8).reshape(PATCHES, PATCHES, 3)
    interpolation = cv2.INTER_NEAREST if stream.chance(0.25) else cv2.INTER_LINEAR
    return _uint8(cv2.resize(small, size_px, interpolation=interpolation))


def _clutter(
    points_P3: F64, stature_px: float, size_px: tuple[int, int], look: Look, stream: UniformStream
) -> list[Shape]:
    """Boxes, ovals, bars and, on top, limbs of no person; some in the person's colors."""
    shapes, limbs, tones = [], [], []
    middle_x, middle_y = ((points_P3[poses.NECK] + points_P3[poses.HIPS[0]]) / 2)[:2].tolist()
    for _ in range(MIN_CLUTTER + stream.below(MAX_CLUTTER - MIN_CLUTTER + 1)):
        if stream.chance(0.5):  # near the person, where the crop certainly shows it
            x = middle_x + stature_px * stream.between(-0.6, 0.6)
            y = middle_y + stature_px * stream.between(-0.6, 0.6)
        else:
            x, y = stream.between(0, size_px[0]), stream.between(0, size_px[1])
        color = look.colors[stream.below(5)] if stream.chance(0.2) else stream.color()
        kind, length = stream.between(0, 1), stature_px * stream.between(0.04, 0.2)
        angle, ratio = stream.between(0, 2 * np.pi), stream.between(0.3, 1)
        if kind < 0.3:
            shapes.append(Shape(0, _placed(SQUARE, x, y, length, ratio * length, angle), color))
        elif kind < 0.5:
            shapes.append(Shape(0, _placed(DISC, x, y, length, ratio * length, angle), color))
        elif kind < 0.7:
            shapes.append(Shape(0, _placed(SQUARE, x, y, 4 * length, 0.1 * length, angle), color))
        else:
            limbs.append(_placed(STRAY_LIMB, x, y, length, ratio * length, angle))
            tones += [color, color]
    if limbs:
        ends_L22 = np.stack(limbs)[:, [[0, 1], [1, 2]]].reshape(-1, 2, 2)
        radii_L2 = np.tile([[0.042, 0.031], [0.031, 0.02]], (len(limbs), 1)) * stature_px
        shapes += _shaded_capsules(ends_L22, radii_L2, [0.0] * len(tones), tones, look.light_2)
    return shapes


def _occluders(points_P3: F64, stature_px: float, stream: UniformStream) -> list[Shape]:
    """In some images, one or two shapes in front of limbs, too small to hide the person."""
    shapes = []
    for _ in range(int(stream.chance(0.3)) + int(stream.chance(0.1))):
        start, end = LSP.limbs[stream.below(len(LSP.limbs))]
        share, template = stream.between(0, 1), DISC if stream.chance(0.5) else SQUARE
        x, y, _z = ((1 - share) * points_P3[start] + share * points_P3[end]).tolist()
        length, ratio = stature_px * stream.between(0.03, 0.1), stream.between(0.4, 1)
        corners = _placed(template, x, y, length, ratio * length, stream.between(0, np.pi))
        shapes.append(Shape(0, corners, stream.color()))
    return shapes


def _degrade(
    image: NDArray[np.uint8], noise: NDArray[np.uint8], stream: UniformStream
) -> NDArray[np.uint8]:
    """Blur some images slightly; add uniform noise to all."""
    if stream.chance(0.3):
        image = _uint8(cv2.GaussianBlur(image, (3, 3), stream.between(0.5, 1.1)))
    levels = stream.between(4, 24)
    return _uint8(cv2.addWeighted(image, 1, noise.reshape(image.shape), levels / 255, -levels / 2))


def _fill(image: NDArray[np.uint8], shapes: list[Shape]) -> None:
    """Paint shapes in place, in order."""
    if not shapes:
        return
    corners = np.concatenate([shape.corners for shape in shapes])
    fixed = np.rint(corners * 2**SHIFT).astype(np.int32)
    start = 0
    for shape in shapes:
        end = start + len(shape.corners)
        cv2.fillConvexPoly(image, fixed[start:end], shape.color, cv2.LINE_AA, SHIFT)
        start = end


def _tone(color: Color, factor: float) -> Color:
    return [min(channel * factor, 255.0) for channel in color]


def _placed(template: F64, x: float, y: float, a: float, b: float, angle: float) -> F64:
    """Corners (V, 2): the template's axes scaled by a and b, rotated, and moved to (x, y)."""
    sin, cos = math.sin(angle), math.cos(angle)
    corners: F64 = template @ np.array([(a * cos, a * sin), (-b * sin, b * cos)])
    corners += (x, y)
    return corners


def _oval(center: F64, along: F64, across: F64) -> F64:
    corners: F64 = DISC @ np.array([along, across])
    return corners + center


def _shaded_capsules(
    ends_L22: F64, radii_L2: F64, depths: list[float], tones: list[Color], light_2: F64
) -> list[Shape]:
    """Each piece in a dark tone, then its lit part over it."""
    lit_L22 = ends_L22 + LIT_OFFSET * radii_L2[..., None] * light_2
    both = np.concatenate([ends_L22, lit_L22]), np.concatenate([radii_L2, LIT * radii_L2])
    outlines = _capsules(*both)
    shapes = []
    for i, (depth, tone) in enumerate(zip(depths, tones, strict=True)):
        shapes.append(Shape(depth, outlines[i], _tone(tone, DARK)))
        shapes.append(Shape(depth, outlines[len(depths) + i], tone))
    return shapes


def _capsules(ends_L22: F64, radii_L2: F64) -> F64:
    """Outlines (L, V, 2) of the convex hulls of the discs around both ends."""
    way = ends_L22[:, 1] - ends_L22[:, 0]
    length = np.sqrt(np.square(way).sum(axis=-1, keepdims=True))
    unit = np.where(length > 0, way / np.maximum(length, 1e-9), (1.0, 0.0))
    normal = unit[:, ::-1] * (-1.0, 1.0)
    cap = CAP[:, :1] * unit[:, None] + CAP[:, 1:] * normal[:, None]
    caps = np.concatenate([-cap * radii_L2[:, :1, None], cap * radii_L2[:, 1:, None]], axis=1)
    return caps + np.repeat(ends_L22, len(CAP), axis=1)


def _hull(centers_C2: F64, radii_C1: F64) -> F64:
    """Outline (V, 2) of the discs' convex hull."""
    corners = centers_C2[:, None] + radii_C1[..., None] * DISC
    hull = cv2.convexHull(corners.reshape(-1, 2).astype(np.float32))
    return np.asarray(hull[:, 0], dtype=np.float64)


def _uint8(image: object) -> NDArray[np.uint8]:
    """OpenCV's result with a narrower type than its annotation."""
    return np.asarray(image, dtype=np.uint8)
