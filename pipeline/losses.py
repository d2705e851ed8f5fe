"""The paper's losses (eq. 3 to 5), in float32, for a network supervised at every stage.

Shape letters: B batch, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def heatmap_loss(heatmaps_BKHW: Tensor, target_BKHW: Tensor, weights_BK: Tensor | None) -> Tensor:
    """Squared error, summed over a joint's pixels, averaged over all K joints and the batch.

    Eq. 3 and, with a teacher's maps as the target, eq. 4. The sum over pixels is the paper's; the
    public ports take a mean, which is H x W times smaller.

    Args:
        weights_BK: the part each joint's error has, 0 for joints without a target; None: all 1.
            The average is over all K joints all the same, as 1/K in eq. 3.

    Returns:
        float32 scalar.
    """
    error_BK = (heatmaps_BKHW.float() - target_BKHW).square().sum(dim=(-2, -1))
    return (error_BK if weights_BK is None else error_BK * weights_BK).mean()


def supervised_loss(stages: Sequence[Tensor], labels_BKHW: Tensor, weights_BK: Tensor) -> Tensor:
    """Eq. 3, summed over the network's stages: labels alone, masked where there is none."""
    losses = [heatmap_loss(heatmaps, labels_BKHW, weights_BK) for heatmaps in stages]
    return sum(losses[1:], start=losses[0])


def distillation_loss(
    stages: Sequence[Tensor],
    labels_BKHW: Tensor,
    weights_BK: Tensor,
    teacher_BKHW: Tensor,
    alpha: float,
) -> Tensor:
    """Eq. 5 at every stage, summed: alpha x teacher (eq. 4) + (1 - alpha) x labels (eq. 3).

    Only the label term is masked: the teacher also teaches the joints that nobody labelled.

    Args:
        alpha: the teacher's part, in 0..1 (the paper: 0.5).
    """
    losses = [
        alpha * heatmap_loss(heatmaps, teacher_BKHW, None)
        + (1 - alpha) * heatmap_loss(heatmaps, labels_BKHW, weights_BK)
        for heatmaps in stages
    ]
    return sum(losses[1:], start=losses[0])
