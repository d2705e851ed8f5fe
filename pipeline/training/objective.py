"""What a network is asked for: its loss on a batch, from coordinates and stored bytes.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.heatmap_codec import encode, flip_heatmaps
from ..config.sections import Student, Targets
from ..store import decompress
from .losses import Loss, distillation_loss, supervised_loss

Batch = Mapping[str, Tensor]


class Losses(NamedTuple):
    """What a batch costs; float32 scalars.

    Attributes:
        collapsed_loss: of an answer that knows nothing. A loss that stays there is a network that has
            collapsed.
        pose_loss, kd_pose_loss: the two that a distilled student's loss is mixed of, both in
            full; None where there is nothing to mix.
    """

    loss: Tensor
    collapsed_loss: Tensor
    pose_loss: Tensor | None = None
    kd_pose_loss: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """The loss of teachers and students alike: eq. 3 on labels, eq. 5 with cached heatmaps.

    Attributes:
        student: None for a teacher; a student with alpha = 0 is trained as one.
        flip_indices: the skeleton's, where the student mirrors cached views itself.
        loss: how heatmaps are compared with labels, and with the teacher's maps where the student
            has nothing else to say of that.
        taught: for each joint, whether the teacher knows it: of others, whose stored maps are
            empty, it teaches nothing. None: it knows all.
    """

    targets: Targets
    heatmap_px: int
    student: Student | None = None
    flip_indices: tuple[int, ...] | None = None
    loss: Loss = "mse"
    covered_K: tuple[bool, ...] | None = None

    def __call__(self, stages: Sequence[Tensor], batch: Batch) -> Losses:
        """The loss of a network's heatmaps, float32 (B, K, H, W) of each stage."""
        device = stages[-1].device
        labels, weights = self.encode_labels(batch, device)
        nothing = [self._nothing(labels)] * len(stages)
        if self.student is None or self.student.alpha == 0:
            return Losses(
                supervised_loss(stages, labels, weights, self.loss),
                supervised_loss(nothing, labels, weights, self.loss),
            )
        maps, teacher_weights = self._teacher(self.student, batch, weights)
        asked = (labels, weights, maps, self.student.alpha, teacher_weights)
        kinds = self.loss, self.student.kd_loss or self.loss
        found = distillation_loss(stages, *asked, *kinds)
        return Losses(
            found.loss,
            distillation_loss(nothing, *asked, *kinds).loss,
            found.labels.detach(),
            found.teacher.detach(),
        )

    def _nothing(self, labels: Tensor) -> Tensor:
        """The answer, the same for all, that a network without a clue gives: zero everywhere.

        Of cross-entropy, which makes certainty dear, it is the labels' mean.
        """
        nothing = torch.zeros_like(labels)
        return nothing + labels.mean() if self.loss == "bce" else nothing

    def encode_labels(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """The labels' heatmaps, float32 (B, K, H, W), and weights, float32 (B, K)."""
        return encode(
            batch["joints"].to(device, non_blocking=True),
            self.heatmap_px,
            self.targets.sigma_px,
            area_normalized=self.targets.area_normalized,
        )

    def teacher_maps(self, batch: Batch, device: torch.device) -> Tensor | None:
        """The teacher's heatmaps as the student is asked for them, float32 (B, K, H, W).

        None where it is asked for none: a teacher in its own training, a student with alpha = 0.
        """
        if self.student is None or self.student.alpha == 0:
            return None
        return self._teacher(self.student, batch, self.encode_labels(batch, device)[1])[0]

    def _teacher(
        self, student: Student, batch: Batch, label_weights_BK: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The teacher's maps, float32 (B, K, H, W), and their joints' weights, where not all 1."""
        device = label_weights_BK.device
        steps_BK, peaks_BK, mirrored_B = (
            batch[key].to(device, non_blocking=True) for key in ("steps", "peaks", "mirrored")
        )
        coefficients = batch["coefficients"].to(device, non_blocking=True)
        scale_BK = amplitude_factors(peaks_BK.float(), student)
        maps = decompress(coefficients, steps_BK, self.heatmap_px) * scale_BK[..., None, None]
        sure_BK = peaks_BK.float().clamp(0, 1)
        if self.flip_indices is not None:
            twin = flip_heatmaps(maps, self.flip_indices)
            maps = torch.where(mirrored_B[:, None, None, None], twin, maps)
            swapped = sure_BK[:, list(self.flip_indices)]
            sure_BK = torch.where(mirrored_B[:, None], swapped, sure_BK)
        weights_BK = sure_BK if student.confidence_weighting else None
        if student.kd_visible_only:
            weights_BK = label_weights_BK * (1 if weights_BK is None else weights_BK)
        if self.covered_K is not None:
            weights_BK = _mask(self.covered_K, device) * (1 if weights_BK is None else weights_BK)
        return maps, weights_BK


@cache
def _mask(covered_K: tuple[bool, ...], device: torch.device) -> Tensor:
    """1 for joints that are taught, float32 (1, K); kept, for to bring it to a GPU waits for it."""
    return torch.tensor(covered_K, dtype=torch.float32, device=device)[None]


def amplitude_factors(peaks_BK: Tensor, student: Student) -> Tensor:
    """What each of the teacher's maps is multiplied by for the student: peak ** (power - 1).

    "raw" is power 1: the maps as they are (eq. 4). "unit" is power 0: every map has peak 1, so that
    what a hesitant teacher says of *where* a joint is counts in full. Peaks under `peak_floor` are
    taken for as high, so that noise is not blown up.

    Returns:
        float32 (B, K).
    """
    named = {"raw": 1.0, "unit": 0.0}
    peaks = student.teacher_scale
    power = named[peaks] if isinstance(peaks, str) else peaks
    return peaks_BK.clamp_min(student.peak_floor) ** (power - 1)
