"""Heatmaps trained by their shape alone get the height of a label's when the network is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fpd.data.heatmap_codec import decode, encode
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import Student, Training, parse_training
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.offset import fix_offset, label_log_mass
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student

CPU = torch.device("cpu")
HEATMAP_PX = 16


class Constant(nn.Module):
    """A network of two stages with fixed heatmaps."""

    def __init__(self, heatmaps: Tensor) -> None:
        super().__init__()
        self.heatmaps = heatmaps

    def forward(self, crops: Tensor) -> list[Tensor]:
        return [self.heatmaps, self.heatmaps * 0.5]


def label(sigma_px: float = 1.5, *, area_normalized: bool = False) -> Tensor:
    joints = torch.tensor([[[7.3, 8.1], [4.6, 10.2]]])
    return encode(joints, 16, sigma_px, area_normalized=area_normalized)[0]


@pytest.mark.parametrize(
    ("sigma_px", "area_normalized", "tolerance"),
    [(1.0, False, 0.05), (2.0, False, 0.01), (1.0, True, 0.001), (2.0, True, 0.001)],
)
def test_a_labels_heatmap_is_restored_whatever_the_offset(
    sigma_px: float, area_normalized: bool, tolerance: float
) -> None:
    """Up to the dependence of a narrow Gaussian's mass on its position within a pixel."""
    log_mass = label_log_mass(HEATMAP_PX, sigma_px, area_normalized=area_normalized)
    expected = label(sigma_px, area_normalized=area_normalized)
    offset = torch.tensor([-0.8, 3.0])[:, None, None]
    heatmaps = fix_offset(Constant(expected + offset), log_mass)(torch.zeros(1))[0]
    assert torch.allclose(heatmaps, expected, atol=tolerance)
    assert torch.allclose(decode(heatmaps)[0], decode(expected)[0], atol=0.02)


def test_every_stage_has_the_mass_of_a_label() -> None:
    log_mass = label_log_mass(HEATMAP_PX, 1.5, area_normalized=False)
    stages = fix_offset(Constant(torch.randn(2, 3, 16, 16)), log_mass)(torch.zeros(1))
    expected = torch.exp(10 * label()).sum((-2, -1)).mean().expand(2, 3)
    for heatmaps in stages:
        assert torch.allclose(torch.exp(10 * heatmaps).sum((-2, -1)), expected, rtol=0.1)


def test_an_ambiguous_heatmap_has_lower_peaks() -> None:
    """Two equally likely positions have half of the mass each: peaks are log(2) / 10 lower."""
    single = label()[:, :1]
    double = torch.maximum(single, single.roll(5, dims=-1))
    log_mass = label_log_mass(HEATMAP_PX, 1.5, area_normalized=False)
    network = fix_offset(Constant(torch.cat([single, double], 1)), log_mass)
    one, half = network(torch.zeros(1))[0].amax((-2, -1))[0].tolist()
    assert one - half == pytest.approx(0.0693, abs=0.003)


@pytest.mark.parametrize(
    ("settings", "free"),
    [
        ({"loss": "mse"}, False),
        ({"loss": "kl"}, True),
        ({"loss": "kl", "alpha": 0.5, "kd_loss": "mse"}, False),
        ({"loss": "kl", "alpha": 0.0, "kd_loss": "mse"}, True),
        ({"loss": "mse", "alpha": 0.5, "kd_loss": "kl"}, False),
        ({"loss": "mse", "alpha": 1.0, "kd_loss": "kl"}, True),
    ],
)
def test_any_other_loss_term_determines_the_offset(settings: dict[str, Any], free: bool) -> None:
    kind = Student if "alpha" in settings else Training
    training = kind.model_validate(settings)
    assert training.offset_is_free is free
    assert parse_training(training.model_dump(mode="json")) == training


def test_without_a_mass_the_network_is_unchanged() -> None:
    network = Constant(label())
    assert fix_offset(network, None) is network


def test_a_finished_model_has_its_offset_fixed(work: WorkDir, toy_recipe: Recipe) -> None:
    shape = ("student.alpha=0", "student.loss=kl", "student.epochs=1")
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), shape)
    student.run(work, recipe, CPU, name="by-shape")
    network = load_model(work.student("by-shape"), CPU).network
    with torch.inference_mode():
        heatmaps = network(torch.randn(2, 3, recipe.geometry.crop_px, recipe.geometry.crop_px))[-1]
    masses = torch.exp(10 * heatmaps).sum((-2, -1))
    assert torch.allclose(masses, masses[0, 0].expand_as(masses), rtol=1e-3)
    plain = load_model(work.teacher, CPU).network
    assert type(plain) is not type(network)
