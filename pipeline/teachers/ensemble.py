"""One or several teachers as a single predictor of the store's heatmaps: its grid, its joints.

Shape letters: B batch, S crop side, K joints, G side of the store's heatmaps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.heatmap_codec import flip_heatmaps
from ...data.skeletons import Skeleton
from ...data.views import Geometry
from ..models.predictor import HeatmapPredictor
from .heads import check_output, make_head
from .joint_names import find_joints
from .resampling import letterbox
from .spec import Teacher, TeacherSpec


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
                f"expected a teacher with joints of {skeleton.name} ({skeleton.joints[0]}, …), "
                f"found one with {', '.join(spec.joints[:5])}, …: no name matches. "
                "docs/teachers.md lists the known names; a spec may rename a teacher's joints"
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
        crop_px: int | None,
    ) -> None:
        """Combine teachers.

        Args:
            averaged: average heatmaps with those of the flipped crop.
            crop_px: side of the crops that it is run on, pixels; None: the students'.
        """
        self.crop_px = crop_px
        self.teachers, self.skeleton, self.device = teachers, skeleton, device
        self.averaged = averaged
        self.heads = [make_head(teacher.spec, geometry, device) for teacher in teachers]
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

    def __call__(self, crop_BSS3: Tensor) -> Tensor:
        """From uint8 RGB (B, S, S, 3) to float32 (B, K, G, G); a `HeatmapPredictor`."""
        crops = crop_BSS3.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        heatmaps = self._predict(crops)
        if not self.averaged:
            return heatmaps
        unflipped = flip_heatmaps(self._predict(crops.flip(-1)), self.skeleton.flip_indices)
        return (heatmaps + unflipped) / 2

    def _predict(self, crop_B3SS: Tensor) -> Tensor:
        total: Tensor | None = None
        for teacher, head, joints, indices in zip(
            self.teachers, self.heads, self.joints, self.heatmaps, strict=True
        ):
            output = teacher(letterbox(crop_B3SS, teacher.spec))
            heatmaps = head(check_output(output, len(crop_B3SS), teacher.spec), indices)
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
    crop_px: int | None = None,
) -> HeatmapPredictor:
    """A predictor of the teachers' combined heatmaps; see `TeacherEnsemble`."""
    return TeacherEnsemble(teachers, skeleton, geometry, device, averaged=averaged, crop_px=crop_px)
