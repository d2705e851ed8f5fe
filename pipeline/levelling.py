"""How high a map lies, where a network has learnt its shape alone.

The divergence of maps as distributions (`losses`) is blind to what is added to all of a map. It is
added when the network is asked: so much that the map weighs what a label's does. Its peak then says
again how sure the network is, and a label's own map is left as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.targets import render
from ..data.views import Geometry
from .losses import SHARPNESS
from .sections import Targets, Training

SHIFTS = 4
"""Places between two pixels that a label's mass is averaged over, each way."""


class Levelled(nn.Module):
    """A network, its maps lifted or lowered to a common weight, sum(exp(SHARPNESS x map)).

    That is the mass of which the divergence compares the shares.
    """

    def __init__(self, network: nn.Module, log_mass: float) -> None:
        super().__init__()
        self.network, self.log_mass = network, log_mass

    def forward(self, crops: Tensor) -> list[Tensor]:
        return [self._level(heatmaps.float()) for heatmaps in self.network(crops)]

    def _level(self, heatmaps_BKHW: Tensor) -> Tensor:
        log_mass_BK11 = (SHARPNESS * heatmaps_BKHW).logsumexp(dim=(-2, -1), keepdim=True)
        return heatmaps_BKHW + (self.log_mass - log_mass_BK11) / SHARPNESS


def levelled(
    network: nn.Module, training: Training, geometry: Geometry, targets: Targets
) -> nn.Module:
    """A network as it is asked, from crops to a list of heatmaps."""
    if not training.level_is_free:
        return network
    return Levelled(network, _log_mass(geometry, targets)).train(network.training)


def _log_mass(geometry: Geometry, targets: Targets) -> float:
    """A label's, in the middle of the map, in the mean over its place between pixels."""
    shift = torch.arange(SHIFTS) / SHIFTS + geometry.heatmap_px // 2
    labels, _ = render(
        torch.cartesian_prod(shift, shift)[:, None],
        *(geometry.heatmap_px, targets.sigma_px),
        area_normalised=targets.area_normalised,
    )
    return float((SHARPNESS * labels).logsumexp(dim=(-2, -1)).mean())
