"""Runs one teacher on views: its crop, one pass or two, and its heatmaps on the store's grid.

Shape letters: B batch, S side of the crops, J the joints that are wanted, G side of the store's
heatmaps, N side of heatmaps on a teacher's square.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...data.geometry import Geometry
from ...data.heatmap_codec import decode
from ...data.torso import TORSO_JOINTS, torso_indices
from ...data.views import TeacherCrop
from ..config.sections import TeacherAlignment
from .alignment import (
    MIN_PEAK,
    REACH,
    TURNED_FACTOR,
    Squares,
    body_squares,
    cut_squares,
    place_heatmaps,
    turned_squares,
    upright_squares,
)
from .heads import MIN_SIGMA_PX, check_output, make_head
from .joint_names import find_joints
from .resampling import letterbox, letterbox_placement
from .spec import Teacher, TeacherSpec

FINENESS = 2
"""Pixels along a square's heatmaps per pixel of the teacher's: enough to turn them by cubic
interpolation."""

SQUARE_SIDES = (16, 1024)
"""Least and largest side of a square's heatmaps, pixels."""


def crop_for(specs: list[TeacherSpec], method: TeacherAlignment) -> TeacherCrop:
    """The crop of all teachers: it shows the largest square, in pixels of the finest input."""
    pixels_per_box = max(letterbox_placement(spec).side / spec.box_factor for spec in specs)
    shown = max(spec.box_factor for spec in specs) * (1.0 if method == "none" else REACH)
    return TeacherCrop(round(pixels_per_box * shown), shown, torso=method == "labels")


def shown_factor(spec: TeacherSpec, method: TeacherAlignment) -> float:
    """Side of what a teacher is shown, relative to the view's box; with "body", its usual value."""
    return spec.box_factor * (TURNED_FACTOR if method in ("torso", "labels") else 1.0)


def count_passes(entry: Mapping[str, Any]) -> int:
    """Passes of all teachers over a crop, by the entry `teacher` of a store's manifest.

    With "labels", those of a sample whose torso is labeled.
    """
    alignment = entry.get("alignment")
    method = alignment.get("method") if isinstance(alignment, dict) else None
    return (len(entry.get("teachers", ())) or 1) * (2 if method in ("torso", "body") else 1)


def aligning_joints(spec: TeacherSpec, method: TeacherAlignment) -> tuple[int, ...] | None:
    """The indices of the teacher's joints whose first-pass heatmaps turn its square.

    Returns:
        Four, see `torso_indices`, or two, see `TeacherSpec.body_points`. None: all squares without
        a labeled torso stay upright.

    Raises:
        ValueError: the method needs joints that the teacher does not have.
    """
    if method == "body":
        if spec.body_points is not None:
            return tuple(spec.joints.index(name) for name in spec.body_points)
        raise ValueError(
            "expected a teacher with body_points in its spec, as BlazePose's, for "
            "store.teacher_alignment = body, found one without: --set store.teacher_alignment=torso"
        )
    indices = torso_indices(spec.joints)
    if method == "torso" and indices is None:
        missing = zip(TORSO_JOINTS, find_joints(TORSO_JOINTS, spec.joints), strict=True)
        raise ValueError(
            "expected a teacher with hips and shoulders for store.teacher_alignment = torso, found "
            f"one without {', '.join(name for name, index in missing if index is None)}: --set "
            "store.teacher_alignment=none"
        )
    return indices


class TeacherPasses:
    """Runs one teacher on crops; calling it gives heatmaps on the store's grid."""

    def __init__(
        self,
        teacher: Teacher,
        geometry: Geometry,
        device: torch.device,
        crop: TeacherCrop | None,
        method: TeacherAlignment,
    ) -> None:
        """Prepare a teacher.

        Args:
            crop: what it is run on; None: the students' crops.
            method: how its squares are turned; other than "none" only with a crop for it.

        Raises:
            ValueError: see `aligning_joints`.
        """
        self.teacher, self.geometry, self.method = teacher, geometry, method
        self.crop = TeacherCrop(geometry.crop_px) if crop is None else crop
        spec = teacher.spec
        self.half = 1.0 if crop is None else spec.box_factor
        aligning = None if method == "none" else aligning_joints(spec, method)
        self.aligning = None if aligning is None else torch.tensor(aligning, device=device)
        # A box that is the student's own needs no second resampling.
        self.whole = method == "none" and self.half == self.crop.box_factor == 1
        if self.whole:
            self.head = make_head(spec, geometry, device)
            return
        least, most = SQUARE_SIDES
        map_side = letterbox_placement(spec).side // spec.stride_px
        self.square = Geometry(crop_px=min(max(FINENESS * map_side, least), most), stride_px=1)
        # In pixels of the square, as wide as `MIN_SIGMA_PX` on the store's grid.
        scale = self.square.heatmap_px / (geometry.heatmap_px * shown_factor(spec, method))
        self.head = make_head(spec, self.square, device, min_sigma_px=MIN_SIGMA_PX * scale)

    def __call__(self, crop_B3SS: Tensor, indices_J: Tensor, torso_B22: Tensor | None) -> Tensor:
        """Heatmaps of the joints at some indices, float32 (B, J, G, G).

        Args:
            crop_B3SS: float32 RGB, 0..255.
            torso_B22: of the labels, in pixels of the crop; None: unknown.
        """
        if self.whole:
            return self._run(crop_B3SS, indices_J)
        if torso_B22 is None:
            squares = self._found_squares(crop_B3SS)
        else:
            squares = self._labeled_squares(crop_B3SS, torso_B22)
        half = shown_factor(self.teacher.spec, self.method)
        heatmaps = self._run(self._cut(crop_B3SS, squares, half), indices_J)
        return place_heatmaps(heatmaps, squares, self.geometry.heatmap_px)

    def _run(self, crop_B3SS: Tensor, indices_J: Tensor) -> Tensor:
        output = self.teacher(letterbox(crop_B3SS, self.teacher.spec))
        return self.head(check_output(output, len(crop_B3SS), self.teacher.spec), indices_J)

    def _cut(self, crop_B3SS: Tensor, squares: Squares, half: float) -> Tensor:
        """The squares in the pixels of the crop, which `letterbox` resizes.

        Args:
            half: the usual one of the squares.
        """
        shown = self.crop.box_factor
        if self.method == "none" and half == shown:
            return crop_B3SS
        return cut_squares(crop_B3SS, squares, shown, round(self.crop.side_px * half / shown))

    def _labeled_squares(self, crop_B3SS: Tensor, torso_B22: Tensor) -> Squares:
        """Squares that are turned by the labels where they have a torso."""
        half = shown_factor(self.teacher.spec, self.method)
        squares = turned_squares(torso_B22.to(crop_B3SS.device), half)
        unlabeled = torso_B22.isnan().flatten(1).any(1).nonzero()[:, 0].to(crop_B3SS.device)
        if len(unlabeled) == 0:
            return squares
        found = self._found_squares(crop_B3SS[unlabeled])
        parts = zip(squares, found, strict=True)
        return Squares(*(whole.index_put((unlabeled,), part) for whole, part in parts))

    def _found_squares(self, crop_B3SS: Tensor) -> Squares:
        """Squares that are turned by what a first pass finds; upright where it finds nothing."""
        upright = upright_squares(len(crop_B3SS), self.half, crop_B3SS.device)
        if self.aligning is None:
            return upright
        heatmaps = self._run(self._cut(crop_B3SS, upright, self.half), self.aligning)
        joints_BJ2, peaks_BJ = decode(heatmaps)
        in_square = 2 * (joints_BJ2 + 0.5) / self.square.heatmap_px - 1
        found_BJ2 = upright.to_box(in_square)
        if self.method == "body":
            squares = body_squares(found_BJ2, self.half)
        else:
            ends_B22 = found_BJ2.reshape(-1, 2, 2, 2).mean(dim=2)
            squares = turned_squares(ends_B22, shown_factor(self.teacher.spec, self.method))
        return squares.where(peaks_BJ.amin(dim=1) >= MIN_PEAK, upright)
