"""One or several teachers as a single predictor of the store's heatmaps: its grid, its joints.

Shape letters: B batch, S crop side, K joints, G side of the store's heatmaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.geometry import Geometry
from ...data.heatmap_codec import flip_heatmaps
from ...data.skeletons import Skeleton
from ...data.views import TeacherCrop
from ..config.sections import TeacherAlignment
from ..models.predictor import HeatmapPredictor
from .joint_names import find_joints
from .passes import TeacherPasses
from .spec import Teacher, TeacherSpec

MAX_LISTED_CHARS = 300
"""Of the joints in a message."""


def covered_joints(
    specs: Sequence[TeacherSpec], skeleton: Skeleton, *, averaged: bool
) -> tuple[str, ...]:
    """The skeleton's joints for which at least one teacher has a heatmap, in skeleton order.

    Args:
        averaged: heatmaps are averaged with those of the flipped crop: a joint is then covered by a
            teacher only if its left or right counterpart is, too.

    Raises:
        ValueError: a teacher has none of them.
    """
    covered: set[int] = set()
    for spec in specs:
        indices = _heatmap_indices(spec, skeleton, averaged=averaged)
        if not indices:
            raise ValueError(
                f"expected a teacher with joints of {skeleton.name} "
                f"({', '.join(skeleton.joints)[:MAX_LISTED_CHARS]}), found one with "
                f"{', '.join(spec.joints)[:MAX_LISTED_CHARS]}: no name matches. A spec may rename "
                "a teacher's joints (docs/teachers.md)"
            )
        covered |= indices.keys()
    return tuple(name for k, name in enumerate(skeleton.joints) if k in covered)


def _heatmap_indices(spec: TeacherSpec, skeleton: Skeleton, *, averaged: bool) -> dict[int, int]:
    """The index of a teacher's heatmap for each joint, by index, that the teacher covers."""
    indices = find_joints(skeleton.joints, spec.joints)
    return {
        k: index
        for k, index in enumerate(indices)
        if index is not None and not (averaged and indices[skeleton.flip_indices[k]] is None)
    }


class TeacherEnsemble:
    """Runs one or several teachers on the same crops, and combines their heatmaps.

    A joint's heatmap is the mean over the teachers that cover it, and zero if none does.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        skeleton: Skeleton,
        geometry: Geometry,
        device: torch.device,
        *,
        averaged: bool,
        crop: TeacherCrop | None,
        alignment: TeacherAlignment,
    ) -> None:
        """Combine teachers.

        Args:
            averaged: average heatmaps with those of the flipped crop.
            crop: what it is run on (`passes.crop_for`); None: the students' crops.
            alignment: how crops are turned upright, for each teacher by itself.

        Raises:
            ValueError: a teacher lacks the joints by which its crops are turned.
        """
        self.crop = crop
        self.skeleton, self.device = skeleton, device
        self.averaged = averaged
        self.passes = [
            TeacherPasses(teacher, geometry, device, crop, alignment) for teacher in teachers
        ]
        indices = [
            _heatmap_indices(teacher.spec, skeleton, averaged=averaged) for teacher in teachers
        ]
        # For each teacher: the joints that it covers, and the indices of their heatmaps.
        self.joints = [torch.tensor(list(m), device=device) for m in indices]
        self.heatmaps = [torch.tensor(list(m.values()), device=device) for m in indices]
        teacher_count_K = torch.zeros(skeleton.num_joints, device=device)
        for joints in self.joints:
            teacher_count_K[joints] += 1
        self.teacher_count_K11 = teacher_count_K.clamp_min(1)[:, None, None]

    def __call__(self, crop_BSS3: Tensor, torso_B22: Tensor | None = None) -> Tensor:
        """From uint8 RGB (B, S, S, 3) to float32 (B, K, G, G); a `HeatmapPredictor`.

        Args:
            torso_B22: of the labels, in pixels of the crop, NaN where unknown; None: all are.
        """
        crops = crop_BSS3.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        heatmaps = self._predict(crops, torso_B22)
        if not self.averaged:
            return heatmaps
        if torso_B22 is not None:
            torso_B22 = torch.stack(
                [crops.shape[-1] - 1 - torso_B22[..., 0], torso_B22[..., 1]], dim=-1
            )
        unflipped = self._predict(crops.flip(-1), torso_B22)
        return (heatmaps + flip_heatmaps(unflipped, self.skeleton.flip_indices)) / 2

    def _predict(self, crop_B3SS: Tensor, torso_B22: Tensor | None) -> Tensor:
        total: Tensor | None = None
        for passes, joints, indices in zip(self.passes, self.joints, self.heatmaps, strict=True):
            heatmaps = passes(crop_B3SS, indices, torso_B22)
            if total is None:
                total = heatmaps.new_zeros(
                    len(heatmaps), self.skeleton.num_joints, *heatmaps.shape[-2:]
                )
            total[:, joints] += heatmaps
        assert total is not None  # there is at least one teacher
        return total / self.teacher_count_K11


def ensemble_predictor(
    teachers: Sequence[Teacher],
    skeleton: Skeleton,
    geometry: Geometry,
    device: torch.device,
    *,
    averaged: bool,
    crop: TeacherCrop | None = None,
    alignment: TeacherAlignment = "none",
) -> HeatmapPredictor:
    """A predictor of the teachers' combined heatmaps; see `TeacherEnsemble`."""
    return TeacherEnsemble(
        teachers,
        skeleton,
        geometry,
        device,
        averaged=averaged,
        crop=crop,
        alignment=alignment,
    )
