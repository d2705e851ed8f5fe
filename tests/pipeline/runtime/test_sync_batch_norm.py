"""Networks with synchronized batch normalization, without other processes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fpd.pipeline.runtime.sync_batch_norm import synchronize


class BatchNormAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.PReLU(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated: torch.Tensor = self.act(self.drop(super().forward(x)))
        return activated


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_activation_inside_a_normalization_is_kept(device: str) -> None:
    """PyTorch's own conversion, which a GPU needs, would drop it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct(4)).eval()
    crops = torch.randn(2, 3, 8, 8)
    expected, names = network(crops), list(network.state_dict())
    synchronize(network, torch.device(device))
    assert type(network[1]) is not BatchNormAct and not network[1].training
    assert torch.equal(network(crops), expected)
    assert list(network.state_dict()) == names


def test_an_unknown_normalization_is_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match=r"Other has .*--set student\.sync_batch_norm=false"):
        synchronize(nn.Sequential(Other(3)), torch.device("cpu"))
