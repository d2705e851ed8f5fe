"""Maps that were learnt by their shape alone, as high as a label's when they are asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fpd.data.targets import decode, render
from fpd.data.views import Geometry
from fpd.pipeline.levelling import levelled
from fpd.pipeline.recipe import Recipe, apply_overrides
from fpd.pipeline.sections import Student, Targets, Training, parse_training
from fpd.pipeline.training.train import load_model
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student

CPU = torch.device("cpu")
GEOMETRY = Geometry(crop_px=64, stride_px=4)
BY_SHAPE = Training(loss="distribution")


class Says(nn.Module):
    """A network that has one answer."""

    def __init__(self, heatmaps: Tensor) -> None:
        super().__init__()
        self.heatmaps = heatmaps

    def forward(self, crops: Tensor) -> list[Tensor]:
        return [self.heatmaps, self.heatmaps * 0.5]


def label(sigma_px: float = 1.5, *, area_normalised: bool = False) -> Tensor:
    joints = torch.tensor([[[7.3, 8.1], [4.6, 10.2]]])
    return render(joints, 16, sigma_px, area_normalised=area_normalised)[0]


@pytest.mark.parametrize(
    ("sigma_px", "area_normalised", "near"),
    [(1.0, False, 0.05), (2.0, False, 0.01), (1.0, True, 0.001), (2.0, True, 0.001)],
)
def test_a_labels_map_keeps_its_height_whatever_was_added(
    sigma_px: float, area_normalised: bool, near: float
) -> None:
    """But for what a narrow Gaussian weighs more on a pixel than between two."""
    targets = Targets(sigma_px=sigma_px, area_normalised=area_normalised)
    wanted = label(sigma_px, area_normalised=area_normalised)
    added = torch.tensor([-0.8, 3.0])[:, None, None]
    found = levelled(Says(wanted + added), BY_SHAPE, GEOMETRY, targets)(torch.zeros(1))[0]
    assert torch.allclose(found, wanted, atol=near)
    assert torch.allclose(decode(found)[0], decode(wanted)[0], atol=0.02)


def test_every_stage_weighs_what_a_label_does() -> None:
    targets = Targets(sigma_px=1.5)
    stages = levelled(Says(torch.randn(2, 3, 16, 16)), BY_SHAPE, GEOMETRY, targets)(torch.zeros(1))
    wanted = torch.exp(10 * label()).sum((-2, -1)).mean().expand(2, 3)
    for heatmaps in stages:
        assert torch.allclose(torch.exp(10 * heatmaps).sum((-2, -1)), wanted, rtol=0.1)


def test_a_hesitant_map_peaks_lower() -> None:
    """Two places that are equally likely: each has half of the mass, log(2) / 10 lower."""
    sure = label()[:, :1]
    either = torch.maximum(sure, sure.roll(5, dims=-1))
    network = levelled(
        Says(torch.cat([sure, either], 1)), BY_SHAPE, GEOMETRY, Targets(sigma_px=1.5)
    )
    one, half = network(torch.zeros(1))[0].amax((-2, -1))[0].tolist()
    assert one - half == pytest.approx(0.0693, abs=0.003)


@pytest.mark.parametrize(
    ("settings", "free"),
    [
        ({"loss": "mse"}, False),
        ({"loss": "distribution"}, True),
        ({"loss": "distribution", "alpha": 0.5}, True),
        ({"loss": "distribution", "alpha": 0.5, "teacher_loss": "mse"}, False),
        ({"loss": "distribution", "alpha": 0.0, "teacher_loss": "mse"}, True),
        ({"loss": "mse", "alpha": 0.5, "teacher_loss": "distribution"}, False),
        ({"loss": "mse", "alpha": 1.0, "teacher_loss": "distribution"}, True),
    ],
)
def test_any_other_term_holds_the_level(settings: dict[str, Any], free: bool) -> None:
    kind = Student if "alpha" in settings else Training
    training = kind.model_validate(settings)
    assert training.level_is_free is free
    assert parse_training(training.model_dump(mode="json")) == training
    network = Says(label())
    assert (levelled(network, training, GEOMETRY, Targets()) is network) is not free


def test_a_finished_model_is_levelled(work: WorkDir, toy_recipe: Recipe) -> None:
    """As are its validation scores: training and loading ask the same network."""
    shape = ("student.alpha=0", "student.loss=distribution", "student.epochs=1")
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), shape)
    student.run(work, recipe, CPU, name="by-shape")
    network = load_model(work.student("by-shape"), 14, CPU)
    with torch.inference_mode():
        heatmaps = network(torch.randn(2, 3, recipe.geometry.crop_px, recipe.geometry.crop_px))[-1]
    masses = torch.exp(10 * heatmaps).sum((-2, -1))
    assert torch.allclose(masses, masses[0, 0].expand_as(masses), rtol=1e-3)
    plain = load_model(work.teacher, 14, CPU)
    assert type(plain) is not type(network)
