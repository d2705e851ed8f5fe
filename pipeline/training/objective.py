"""What a network is asked for: its loss on a batch, from coordinates and stored bytes.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.targets import mirror, render
from ..losses import distillation_loss, supervised_loss
from ..recipe import Student, Targets
from ..store import decode

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of teachers and students alike: eq. 3 on labels, eq. 5 with cached heatmaps.

    Attributes:
        student: None for a teacher; a student with alpha = 0 is trained as one.
        mirror_joints: the skeleton's, where the student mirrors cached views itself.
    """

    targets: Targets
    heatmap_px: int
    student: Student | None = None
    mirror_joints: tuple[int, ...] | None = None

    def __call__(self, stages: Sequence[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a network's heatmaps, and that of an answer of zero everywhere.

        Returns:
            float32 scalars (loss, zero_loss); a loss that stays at zero_loss is a network that has
            collapsed.
        """
        device = stages[-1].device
        labels, weights = self.render(batch, device)
        teacher = self._teacher(batch, device)
        nothing = [torch.zeros_like(labels)] * len(stages)
        if teacher is None or self.student is None:
            return supervised_loss(stages, labels, weights), supervised_loss(
                nothing, labels, weights
            )
        alpha = self.student.alpha
        return distillation_loss(stages, labels, weights, teacher, alpha), distillation_loss(
            nothing, labels, weights, teacher, alpha
        )

    def render(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """The labels' heatmaps, float32 (B, K, H, W), and weights, float32 (B, K)."""
        return render(
            batch["joints"].to(device, non_blocking=True),
            self.heatmap_px,
            self.targets.sigma_px,
            area_normalised=self.targets.area_normalised,
        )

    def teacher_maps(self, batch: Batch, device: torch.device) -> Tensor | None:
        """The teacher's heatmaps as the student is asked for them, float32 (B, K, H, W).

        None where it is not: a teacher's own training, and alpha = 0.
        """
        return self._teacher(batch, device)

    def _teacher(self, batch: Batch, device: torch.device) -> Tensor | None:
        if self.student is None or self.student.alpha == 0:
            return None
        steps_BK, peaks_BK, mirrored_B = (
            batch[key].to(device, non_blocking=True) for key in ("steps", "peaks", "mirrored")
        )
        coefficients = batch["coefficients"].to(device, non_blocking=True)
        scale_BK = amplitude_factors(peaks_BK.float(), self.student)
        maps = decode(coefficients, steps_BK, self.heatmap_px) * scale_BK[..., None, None]
        if self.mirror_joints is None:
            return maps
        twin = mirror(maps, self.mirror_joints)
        return torch.where(mirrored_B[:, None, None, None], twin, maps)


def amplitude_factors(peaks_BK: Tensor, student: Student) -> Tensor:
    """What each of the teacher's maps is multiplied by for the student.

    "raw": 1 (eq. 4). "unit": 1 / peak, so that what a hesitant teacher says of *where* a joint is
    counts in full; under `peak_floor` 1 / peak_floor, so that noise is not blown up.

    Returns:
        float32 (B, K).
    """
    if student.teacher_peaks == "raw":
        return torch.ones_like(peaks_BK)
    return 1 / peaks_BK.clamp_min(student.peak_floor)
