"""Parameters and multiply-accumulates, against published figures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fpd.pipeline.config.recipe import apply_overrides
from fpd.pipeline.models.complexity import count, latency_ms
from fpd.pipeline.models.settings import HourglassSettings


# The paper's Table 1: 26 M parameters and 55 GFLOPs, 3 M and 9 GFLOPs (a multiply-add being two).
@pytest.mark.parametrize(
    ("stages", "channels", "stem", "parameters", "gmacs"),
    [
        (8, 256, "newell", 25_434_112, 27.4),
        (4, 128, "newell", 3_330_000, 4.67),
        (8, 256, "ports", 25_590_000, 28.09),
    ],
)
def test_the_papers_networks_have_their_published_size(
    stages: int, channels: int, stem: str, parameters: int, gmacs: float
) -> None:
    settings = HourglassSettings(stages=stages, channels=channels, stem=stem)
    computed, computed_gmacs = count(settings, num_joints=16, crop_px=256)
    tolerance = 0 if parameters % 10_000 else 5_000
    assert computed == pytest.approx(parameters, abs=tolerance, rel=0)
    assert computed_gmacs == pytest.approx(gmacs, abs=0.05 if gmacs == 27.4 else 0.005)


def test_the_default_recipe_has_the_papers_networks() -> None:
    recipe = apply_overrides({}, [])
    assert recipe.teacher.model == HourglassSettings(stages=8, channels=256, stem="newell")
    assert recipe.student.model == HourglassSettings(stages=4, channels=128, stem="newell")


def test_macs_scale_with_area_and_joints() -> None:
    """A crop of twice the side costs four times as much; a joint costs a 1 x 1 convolution."""
    model = HourglassSettings(stages=1, channels=32, stem="ports")
    small, large = count(model, 5, 64)[1], count(model, 5, 128)[1]
    assert large == pytest.approx(4 * small)
    assert count(model, 6, 64)[1] - small == pytest.approx(32 * 16 * 16 / 1e9)


def test_latency_is_measured_on_single_crops_without_gradients() -> None:
    class Network(nn.Module):
        def forward(self, crop: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            assert crop.shape == (1, 3, 16, 16)
            return crop

    assert latency_ms(Network(), 16, torch.device("cpu")) > 0
