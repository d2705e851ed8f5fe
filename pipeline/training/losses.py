"""The paper's losses (eq. 3 to 5), in float32, for a network supervised at every stage; and others.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional

from ..models.offset import SOFTMAX_BETA

Loss = Literal["mse", "bce", "kl"]


def heatmap_loss(
    heatmaps_BKHW: Tensor, target_BKHW: Tensor, weights_BK: Tensor | None, kind: Loss = "mse"
) -> Tensor:
    """What a map costs, averaged over all K joints and the batch.

    Eq. 3 and, with a teacher's maps as the target, eq. 4. The sum over pixels is the paper's; the
    public ports take a mean, which is H x W times smaller.

    Args:
        weights_BK: the part each joint's error has, 0 for joints without a target; None: all 1.
            The average is over all K joints all the same, as 1/K in eq. 3.
        kind: "mse": squared error, summed over the map's pixels. "bce": binary cross-entropy,
            summed likewise, of heatmaps in 0..1; the target counts up to 1. "kl":
            Kullback-Leibler divergence of the maps' spatial softmaxes, the target's from the
            heatmap's, at `SOFTMAX_BETA`.

    Returns:
        float32 scalar.
    """
    heatmaps = heatmaps_BKHW.float()
    if kind == "mse":
        error_BK = (heatmaps - target_BKHW).square().sum(dim=(-2, -1))
    elif kind == "bce":
        target = target_BKHW.clamp(0, 1)
        error_BK = functional.binary_cross_entropy(heatmaps, target, reduction="none").sum((-2, -1))
    else:
        found, wanted = _log_softmax(heatmaps), _log_softmax(target_BKHW)
        error_BK = (wanted.exp() * (wanted - found)).sum(-1)
    return (error_BK if weights_BK is None else error_BK * weights_BK).mean()


def _log_softmax(heatmaps_BKHW: Tensor) -> Tensor:
    return functional.log_softmax(SOFTMAX_BETA * heatmaps_BKHW.flatten(-2), dim=-1)


def supervised_loss(
    stages: Sequence[Tensor], target_BKHW: Tensor, weights_BK: Tensor | None, kind: Loss = "mse"
) -> Tensor:
    """What all of a network's stages cost: eq. 3 or 4 at each, summed."""
    losses = [heatmap_loss(heatmaps, target_BKHW, weights_BK, kind) for heatmaps in stages]
    return sum(losses[1:], start=losses[0])


class Terms(NamedTuple):
    """A distilled student's loss, and what it is mixed of; float32 scalars."""

    loss: Tensor
    labels: Tensor
    teacher: Tensor


def distillation_loss(
    stages: Sequence[Tensor],
    labels_BKHW: Tensor,
    weights_BK: Tensor,
    teacher_BKHW: Tensor,
    alpha: float,
    teacher_weights_BK: Tensor | None = None,
    kind: Loss = "mse",
    teacher_kind: Loss = "mse",
) -> Terms:
    """Eq. 5 at every stage, summed: alpha x teacher (eq. 4) + (1 - alpha) x labels (eq. 3).

    The label term alone is masked by what is labeled: the teacher also teaches the joints that
    nobody labeled, unless weights of its own say otherwise.

    Args:
        alpha: the teacher's part, in 0..1 (the paper: 0.5).
        kind, teacher_kind: of the label term, and of the teacher's; see `heatmap_loss`.
    """
    labels = supervised_loss(stages, labels_BKHW, weights_BK, kind)
    teacher = supervised_loss(stages, teacher_BKHW, teacher_weights_BK, teacher_kind)
    return Terms(alpha * teacher + (1 - alpha) * labels, labels, teacher)
