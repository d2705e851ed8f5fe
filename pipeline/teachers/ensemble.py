"""Teachers as the store asks them: one answer on its grid, for its joints.

Shape letters: B batch, S crop side, K joints, G side of the store's maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...data.heatmap_codec import flip_heatmaps
from ...data.skeletons import Skeleton
from ...data.views import Geometry
from ..models.predictor import HeatmapPredictor
from .joint_names import find_joints
from .resampling import HeatmapResampler, letterbox
from .spec import Teacher, TeacherSpec


def covered_joints(
    specs: Sequence[TeacherSpec], skeleton: Skeleton, *, averaged: bool
) -> tuple[str, ...]:
    """The skeleton's joints that at least one teacher knows, in its order.

    Args:
        averaged: answers are averaged with their mirrored twins: a joint's twin must be known, too.

    Raises:
        ValueError: a teacher knows none of them.
    """
    known = [set(_sources(spec, skeleton, averaged=averaged)) for spec in specs]
    for spec, mine in zip(specs, known, strict=True):
        if not mine:
            raise ValueError(
                f"expected a teacher of the joints of {skeleton.name} ({skeleton.joints[0]}, …), "
                f"found one of {', '.join(spec.joints[:5])}, …: none of them has the same name. "
                "docs/teachers.md says which names are known; a spec may name them otherwise"
            )
    everything = set().union(*known)
    return tuple(name for k, name in enumerate(skeleton.joints) if k in everything)


def _sources(spec: TeacherSpec, skeleton: Skeleton, *, averaged: bool) -> dict[int, int]:
    """For each joint of the skeleton that a teacher teaches, the number of its map."""
    found = find_joints(skeleton.joints, spec.joints)
    return {
        k: source
        for k, source in enumerate(found)
        if source is not None and not (averaged and found[skeleton.flip_indices[k]] is None)
    }


class TeacherEnsemble:
    """Asks one or several teachers, and puts their answers together.

    Each joint's map is the mean of those teachers' who know it, zero where nobody does.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        skeleton: Skeleton,
        geometry: Geometry,
        device: torch.device,
        *,
        averaged: bool,
    ) -> None:
        self.teachers, self.skeleton, self.device = teachers, skeleton, device
        self.averaged = averaged
        self.regrids = [HeatmapResampler(teacher.spec, geometry, device) for teacher in teachers]
        maps = [_sources(teacher.spec, skeleton, averaged=averaged) for teacher in teachers]
        self.rows = [torch.tensor(list(m), device=device) for m in maps]
        self.sources = [torch.tensor(list(m.values()), device=device) for m in maps]
        teacher_count = torch.zeros(skeleton.num_joints, device=device)
        for rows in self.rows:
            teacher_count[rows] += 1
        self.teacher_count_K11 = teacher_count.clamp_min(1)[:, None, None]

    def __call__(self, crop_BSS3: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) to float32 (B, K, G, G); an `HeatmapPredictor`."""
        crops = crop_BSS3.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        said = self._heatmaps(crops)
        if not self.averaged:
            return said
        return (
            said + flip_heatmaps(self._heatmaps(crops.flip(-1)), self.skeleton.flip_indices)
        ) / 2

    def _heatmaps(self, crop_B3SS: Tensor) -> Tensor:
        total: Tensor | None = None
        for teacher, regrid, rows, sources in zip(
            self.teachers, self.regrids, self.rows, self.sources, strict=True
        ):
            answer = teacher(letterbox(crop_B3SS, teacher.spec))
            _check(answer, len(crop_B3SS), teacher.spec)
            maps = regrid(answer[:, sources])
            if total is None:
                total = maps.new_zeros(len(maps), self.skeleton.num_joints, *maps.shape[-2:])
            total[:, rows] += maps
        assert total is not None  # there is at least one teacher
        return total / self.teacher_count_K11


def _check(answer: Tensor, batch: int, spec: TeacherSpec) -> None:
    expected = (batch, len(spec.joints), *spec.heatmap)
    if tuple(answer.shape) != expected:
        raise ValueError(
            f"expected heatmaps of the shape {expected} of the teacher, as its spec says (people, "
            f"joints, height, width), found {tuple(answer.shape)}: mend its spec's input, joints "
            "or stride_px"
        )


def ensemble_predictor(
    teachers: Sequence[Teacher],
    skeleton: Skeleton,
    geometry: Geometry,
    device: torch.device,
    *,
    averaged: bool,
) -> HeatmapPredictor:
    """How teachers from anywhere are asked; see `TeacherEnsemble`."""
    return TeacherEnsemble(teachers, skeleton, geometry, device, averaged=averaged)
