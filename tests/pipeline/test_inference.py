"""Prediction: joints back in the original image, and a network left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fpd.data.samples import SampleSet
from fpd.pipeline.inference import predict, score
from fpd.pipeline.models import Model
from fpd.pipeline.recipe import Recipe, apply_overrides

CPU = torch.device("cpu")


def heatmap_joints(samples: SampleSet, crop_px: int) -> NDArray[np.float64]:
    """Where the labels are on the heatmaps of plain crops: the box fills the crop, the stride is 4,
    and pixel centres are whole numbers."""
    box_corner = samples.centre_N2 - samples.side_N[:, None] / 2
    shares = (samples.joints_NK2 - box_corner[:, None]) / samples.side_N[:, None, None]
    # A box from edge to edge: its corner is the edge of pixel 0, half a pixel before its centre.
    return shares * crop_px / 4 - 0.5


def gaussians(joints_NK2: NDArray[np.float64], size_px: int, sigma_px: float) -> Tensor:
    grid = np.arange(size_px)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    dx = x - joints_NK2[..., 0, None, None]
    dy = y - joints_NK2[..., 1, None, None]
    return torch.from_numpy(np.exp(-(dx**2 + dy**2) / (2 * sigma_px**2))).float()


class Oracle(nn.Module):
    """Answers the next people's true heatmaps, whatever it is shown; its first stage: noise."""

    def __init__(self, heatmaps_NKHW: Tensor) -> None:
        super().__init__()
        self.heatmaps, self.position = heatmaps_NKHW, 0
        self.sizes: list[int] = []

    def forward(self, crop: Tensor) -> list[Tensor]:
        assert not self.training
        assert crop.shape[1:] == (3, 64, 64)
        start, self.position = self.position, self.position + len(crop)
        self.sizes.append(len(crop))
        answer = self.heatmaps[start : self.position]
        return [torch.rand_like(answer), answer]


def test_the_truth_is_found_in_original_pixels(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    joints = heatmap_joints(toy_samples, 64)
    oracle = Oracle(gaussians(joints, 16, sigma_px=1.5))
    predicted = predict(oracle, toy_recipe, toy_samples, CPU)
    assert predicted.shape == toy_samples.joints_NK2.shape
    assert sum(oracle.sizes) == len(toy_samples)
    known = ~np.isnan(toy_samples.joints_NK2).any(-1)
    assert known.any() and not known.all()
    # A heatmap pixel is side / 16 image pixels; the fit is exact up to rounding.
    off = np.linalg.norm(predicted - toy_samples.joints_NK2, axis=-1)[known]
    pixel = np.broadcast_to(toy_samples.side_N[:, None] / 16, known.shape)[known]
    assert (off / pixel).max() < 0.01


def test_the_truth_scores_1(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    heatmaps = gaussians(heatmap_joints(toy_samples, 64), 16, sigma_px=1.5)
    found = score(Oracle(heatmaps), toy_recipe, toy_samples, CPU)
    assert (found.mean, found.mean_unweighted) == (1.0, 1.0)
    assert found.joints == int((~np.isnan(toy_samples.joints_NK2).any(-1)).sum())


def test_another_answer_scores_less(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    """A shift by the threshold's length in half of the people loses just their joints."""
    joints = heatmap_joints(toy_samples, 64)
    lengths = toy_samples.normaliser_N / toy_samples.side_N * 16  # heatmap pixels
    joints[::2, :, 0] += 0.25 * lengths[::2, None]
    found = score(Oracle(gaussians(joints, 16, 1.5)), toy_recipe, toy_samples, CPU)
    known = ~np.isnan(toy_samples.joints_NK2).any(-1)
    # A joint near the crop's right edge may be pushed out of sight and be found elsewhere.
    assert found.mean == pytest.approx(known[1::2].sum() / known.sum(), abs=0.03)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(
    toy_recipe: Recipe, toy_samples: SampleSet, training: bool
) -> None:
    network = Model(stages=1, channels=8, stem="ports").build(14).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict(network, toy_recipe, toy_samples, CPU)
    assert all(module.training == training for module in network.modules())
    after = network.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_people_do_not_change_each_others_joints(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    torch.manual_seed(0)
    network = Model(stages=1, channels=8, stem="ports").build(14)
    together = predict(network, toy_recipe, toy_samples, CPU)
    alone = predict(network, toy_recipe, toy_samples.take([7]), CPU)
    np.testing.assert_allclose(alone[0], together[7], atol=1e-2)
    assert together.std(axis=0).max() > 1  # and they are not all the same


def test_augmentation_plays_no_part(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    torch.manual_seed(0)
    network = Model(stages=1, channels=8, stem="ports").build(14)
    other = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["augmentation.rotation_deg=90", "augmentation.scale=[0.5, 0.6]"],
    )
    plain = predict(network, toy_recipe, toy_samples, CPU)
    np.testing.assert_array_equal(predict(network, other, toy_samples, CPU), plain)


def test_more_people_than_a_batch(toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpd.data.readers.figures import figures

    monkeypatch.setattr("fpd.pipeline.inference.BATCH", 4)
    people = figures("test", 9)
    oracle = Oracle(gaussians(heatmap_joints(people, 64), 16, 1.5))
    assert score(oracle, toy_recipe, people, CPU).mean == 1.0
    assert oracle.sizes == [4, 4, 1]
