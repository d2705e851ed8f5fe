"""The training objective: from a network's heatmaps and a batch to the losses.

Batches carry label coordinates and compressed teacher heatmaps; both become heatmaps here, on the
training device.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.heatmap_codec import encode, flip_heatmaps, swap_joints
from ..config.sections import Student, Targets
from ..store import decompress
from .losses import LossName, distillation_loss, supervised_loss

Batch = Mapping[str, Tensor]
"""Collated views: see `data.views.View` and `dataset.CachedView`."""


class Losses(NamedTuple):
    """The losses of a batch; float32 scalars.

    Attributes:
        loss: the one to minimize.
        collapsed_loss: of an output that carries no information. A loss that stays there means
            that the network has collapsed.
        pose_loss, kd_pose_loss: the label term and the teacher term of a distilled student's loss,
            both unweighted; None without a teacher term.
    """

    loss: Tensor
    collapsed_loss: Tensor
    pose_loss: Tensor | None = None
    kd_pose_loss: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """The loss of teachers and students: eq. 3 on labels, eq. 5 with cached heatmaps.

    Attributes:
        targets: the heatmaps made from labels.
        heatmap_px: side of a heatmap.
        student: the student's settings; None for a teacher. With alpha = 0 only labels count.
        flip_indices: the skeleton's, if the student flips cached views; None: it does not.
        loss: compares heatmaps with labels, and with the teacher's heatmaps where `student.kd_loss`
            is None.
        covered_K: for each joint, whether the teacher predicts it. The stored maps of other joints
            are empty, and are left out of the loss. None: all joints.
    """

    targets: Targets
    heatmap_px: int
    student: Student | None = None
    flip_indices: tuple[int, ...] | None = None
    loss: LossName = "mse"
    covered_K: tuple[bool, ...] | None = None

    def __call__(self, stages: Sequence[Tensor], batch: Batch) -> Losses:
        """The losses of a network's heatmaps, float32 (B, K, H, W) of each stage."""
        device = stages[-1].device
        labels, weights = self.encode_labels(batch, device)
        collapsed = [self._collapsed_output(labels)]  # the same in all stages
        if self.student is None or self.student.alpha == 0:
            collapsed_loss = supervised_loss(collapsed, labels, weights, self.loss)
            return Losses(
                loss=supervised_loss(stages, labels, weights, self.loss),
                collapsed_loss=len(stages) * collapsed_loss,
            )
        teacher, teacher_weights = self._teacher_target(self.student, batch, weights)
        distill = partial(
            distillation_loss,
            labels_BKHW=labels,
            weights_BK=weights,
            teacher_BKHW=teacher,
            alpha=self.student.alpha,
            teacher_weights_BK=teacher_weights,
            loss=self.loss,
            kd_loss=self.student.kd_loss or self.loss,
        )
        distilled = distill(stages)
        return Losses(
            loss=distilled.loss,
            collapsed_loss=len(stages) * distill(collapsed).loss,
            pose_loss=distilled.pose_loss.detach(),
            kd_pose_loss=distilled.kd_pose_loss.detach(),
        )

    def _collapsed_output(self, labels_BKHW: Tensor) -> Tensor:
        """The heatmaps of a network that ignores its input: zero everywhere.

        For binary cross-entropy, which is least at the targets' mean, they are that mean.
        """
        zeros = torch.zeros_like(labels_BKHW)
        return zeros + labels_BKHW.mean() if self.loss == "bce" else zeros

    def encode_labels(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Heatmaps of the labels, float32 (B, K, H, W), and their weights, float32 (B, K)."""
        return encode(
            batch["joints"].to(device, non_blocking=True),
            self.heatmap_px,
            self.targets.sigma_px,
            area_normalized=self.targets.area_normalized,
        )

    def teacher_heatmaps(self, batch: Batch, device: torch.device) -> Tensor | None:
        """The teacher's heatmaps as the loss compares them, float32 (B, K, H, W).

        None without a teacher term: when a teacher is trained, or a student with alpha = 0.
        """
        if self.student is None or self.student.alpha == 0:
            return None
        return self._teacher_target(self.student, batch, self.encode_labels(batch, device)[1])[0]

    def _teacher_target(
        self, student: Student, batch: Batch, label_weights_BK: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The teacher's heatmaps, float32 (B, K, H, W), and weights, (B, K); None: all 1."""
        device = label_weights_BK.device
        steps_BK, peaks_BK, flipped_B = (
            batch[key].to(device, non_blocking=True) for key in ("steps", "peaks", "flipped")
        )
        coefficients = batch["coefficients"].to(device, non_blocking=True)
        scale_BK = amplitude_factors(peaks_BK.float(), student)
        heatmaps = decompress(coefficients, steps_BK, self.heatmap_px) * scale_BK[..., None, None]
        confidence_BK = peaks_BK.float().clamp(0, 1)
        if self.flip_indices is not None:
            flipped = flip_heatmaps(heatmaps, self.flip_indices)
            heatmaps = torch.where(flipped_B[:, None, None, None], flipped, heatmaps)
            swapped_BK = swap_joints(confidence_BK, self.flip_indices)
            confidence_BK = torch.where(flipped_B[:, None], swapped_BK, confidence_BK)
        weights_BK = confidence_BK if student.confidence_weighting else None
        if student.kd_visible_only:
            weights_BK = label_weights_BK * (1 if weights_BK is None else weights_BK)
        if self.covered_K is not None:
            covered_1K = _covered_mask(self.covered_K, device)
            weights_BK = covered_1K * (1 if weights_BK is None else weights_BK)
        return heatmaps, weights_BK


@cache
def _covered_mask(covered_K: tuple[bool, ...], device: torch.device) -> Tensor:
    """float32 (1, K). Cached: copying it to the GPU would synchronize."""
    return torch.tensor(covered_K, dtype=torch.float32, device=device)[None]


SCALE_POWERS = {"raw": 1.0, "unit": 0.0}
"""Exponents of `teacher_scale` by name."""


def amplitude_factors(peaks_BK: Tensor, student: Student) -> Tensor:
    """The factor on each teacher heatmap, peak ** (power - 1), which makes its peak peak ** power.

    Power 1 ("raw") leaves heatmaps as they are (eq. 4). Power 0 ("unit") scales each to peak 1, so
    that the position counts in full even where the teacher's confidence is low. Peaks below
    `peak_floor` are treated as `peak_floor`, which keeps noise from being amplified.

    Args:
        peaks_BK: float32, the maximum of each heatmap.

    Returns:
        float32 (B, K).
    """
    scale = student.teacher_scale
    power = SCALE_POWERS[scale] if isinstance(scale, str) else scale
    return peaks_BK.clamp_min(student.peak_floor) ** (power - 1)
