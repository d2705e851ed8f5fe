"""Fix the constant offset of heatmaps whose training loss depends only on their shape.

The KL divergence of spatial softmaxes (`training.losses`) does not change when a constant is added
to a whole map, so training leaves that constant free. It is fixed when the network is run: each map
is shifted until its mass, sum(exp(SOFTMAX_BETA * map)), is that of a label's map. A peak's height
then measures confidence again, and a map equal to a label's is left unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...data.heatmap_codec import encode

SOFTMAX_BETA = 10.0
"""Inverse temperature of the spatial softmax. With peaks of 1, a joint's pixel weighs e^10 = 22,000
times as much as one without a joint: several times the number of pixels in a map."""

SUBPIXEL_SHIFTS = 4
"""Positions within a pixel, along each axis, over which a label's mass is averaged."""


class FixedOffset(nn.Module):
    """A network whose heatmaps are shifted to a common mass, sum(exp(SOFTMAX_BETA * map)).

    Input and outputs are those of the network: a list of float32 (B, K, H, W).
    """

    def __init__(self, network: nn.Module, log_mass: float) -> None:
        super().__init__()
        self.network, self.log_mass = network, log_mass

    def forward(self, crops: Tensor) -> list[Tensor]:
        return [self._shift(heatmaps.float()) for heatmaps in self.network(crops)]

    def _shift(self, heatmaps_BKHW: Tensor) -> Tensor:
        log_mass_BK11 = (SOFTMAX_BETA * heatmaps_BKHW).logsumexp(dim=(-2, -1), keepdim=True)
        return heatmaps_BKHW + (self.log_mass - log_mass_BK11) / SOFTMAX_BETA


def fix_offset(network: nn.Module, log_mass: float | None) -> nn.Module:
    """The network as it is run for prediction.

    Args:
        log_mass: the logarithm of the mass to shift every map to; None: leave the maps as they are.
    """
    if log_mass is None:
        return network
    return FixedOffset(network, log_mass).train(network.training)


def label_log_mass(heatmap_px: int, sigma_px: float, *, area_normalized: bool) -> float:
    """log(sum(exp(SOFTMAX_BETA * map))) of a label's map, averaged over positions within a pixel.

    Args:
        heatmap_px: side of the map.
        sigma_px: of the Gaussian, in heatmap pixels.
        area_normalized: whether the Gaussian's volume is 1, rather than its peak.
    """
    shift = torch.arange(SUBPIXEL_SHIFTS) / SUBPIXEL_SHIFTS + heatmap_px // 2
    labels, _ = encode(
        torch.cartesian_prod(shift, shift)[:, None],
        heatmap_px,
        sigma_px,
        area_normalized=area_normalized,
    )
    return float((SOFTMAX_BETA * labels).logsumexp(dim=(-2, -1)).mean())
