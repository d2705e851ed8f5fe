"""The paper's losses (eq. 3 to 5) and alternatives to squared error, computed in float32.

Every stage of a stacked network is supervised: the losses of all stages are added.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional

from ..models.offset import SOFTMAX_BETA

LossName = Literal["mse", "bce", "kl"]
"""Values of the settings `loss` and `kd_loss`; see `heatmap_loss`."""


def heatmap_loss(
    heatmaps_BKHW: Tensor, target_BKHW: Tensor, weights_BK: Tensor | None, loss: LossName = "mse"
) -> Tensor:
    """The loss of one stage's heatmaps, averaged over the batch and all K joints.

    With labels as the target this is eq. 3; with teacher heatmaps, eq. 4. As in the paper, errors
    are summed over the pixels of a map. Public ports take the mean over pixels instead, which is
    H x W times smaller.

    Args:
        heatmaps_BKHW: the network's output, of any floating-point dtype.
        target_BKHW: the heatmaps to match.
        weights_BK: factor on each joint's error, 0 for joints without a target; None: all 1. The
            mean is over all K joints whatever their weights (the 1/K of eq. 3).
        loss: "mse": squared error. "bce": binary cross-entropy, for heatmaps in 0..1; the target is
            clamped to 0..1. "kl": Kullback-Leibler divergence of the spatial softmax of the
            heatmap, at inverse temperature `SOFTMAX_BETA`, from that of the target.

    Returns:
        float32 scalar.
    """
    heatmaps = heatmaps_BKHW.float()
    if loss == "mse":
        error_BK = (heatmaps - target_BKHW).square().sum(dim=(-2, -1))
    elif loss == "bce":
        target = target_BKHW.clamp(0, 1)
        error_BK = functional.binary_cross_entropy(heatmaps, target, reduction="none").sum((-2, -1))
    else:
        log_output, log_target = _log_softmax(heatmaps), _log_softmax(target_BKHW)
        error_BK = (log_target.exp() * (log_target - log_output)).sum(-1)
    return (error_BK if weights_BK is None else error_BK * weights_BK).mean()


def _log_softmax(heatmaps_BKHW: Tensor) -> Tensor:
    """Log-probabilities over pixels, (B, K, H x W)."""
    return functional.log_softmax(SOFTMAX_BETA * heatmaps_BKHW.flatten(-2), dim=-1)


def supervised_loss(
    stages: Sequence[Tensor], target_BKHW: Tensor, weights_BK: Tensor | None, loss: LossName = "mse"
) -> Tensor:
    """`heatmap_loss` summed over all stages of a network; float32 scalar."""
    losses = [heatmap_loss(heatmaps, target_BKHW, weights_BK, loss) for heatmaps in stages]
    return sum(losses[1:], start=losses[0])


class DistillationLoss(NamedTuple):
    """The loss of a distilled student and its two terms, unweighted; float32 scalars."""

    loss: Tensor
    pose_loss: Tensor
    kd_pose_loss: Tensor


def distillation_loss(
    stages: Sequence[Tensor],
    labels_BKHW: Tensor,
    weights_BK: Tensor,
    teacher_BKHW: Tensor,
    alpha: float,
    teacher_weights_BK: Tensor | None = None,
    loss: LossName = "mse",
    kd_loss: LossName = "mse",
) -> DistillationLoss:
    """Eq. 5, summed over stages: alpha x kd_pose_loss (eq. 4) + (1 - alpha) x pose_loss (eq. 3).

    Only the label term is masked by visibility: the teacher supervises unlabeled joints as well,
    unless `teacher_weights_BK` restricts it.

    Args:
        stages: heatmaps of each stage, (B, K, H, W).
        labels_BKHW: heatmaps of the labels.
        weights_BK: 0 for joints without a label.
        teacher_BKHW: heatmaps of the teacher.
        alpha: weight of the teacher term, in 0..1 (the paper: 0.5).
        teacher_weights_BK: factors on the teacher term of each joint; None: all 1.
        loss, kd_loss: of the label term and of the teacher term; see `heatmap_loss`.
    """
    pose_loss = supervised_loss(stages, labels_BKHW, weights_BK, loss)
    kd_pose_loss = supervised_loss(stages, teacher_BKHW, teacher_weights_BK, kd_loss)
    return DistillationLoss(alpha * kd_pose_loss + (1 - alpha) * pose_loss, pose_loss, kd_pose_loss)
