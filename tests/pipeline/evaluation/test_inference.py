"""Prediction: joints back in the original image, and a network left as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import TestTimeAugmentation
from fpd.pipeline.evaluation.inference import average_scales, predict, score
from fpd.pipeline.models.hourglass import HourglassSettings

CPU = torch.device("cpu")


def heatmap_joints(samples: SampleSet, crop_px: int) -> NDArray[np.float64]:
    """Where the labels are on the heatmaps of plain crops: the box fills the crop, the stride is 4,
    and pixel centers are whole numbers."""
    box_corner = samples.center_N2 - samples.side_N[:, None] / 2
    shares = (samples.joints_NK2 - box_corner[:, None]) / samples.side_N[:, None, None]
    # A box from edge to edge: its corner is the edge of pixel 0, half a pixel before its center.
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
    assert predicted.joints_NK2.shape == toy_samples.joints_NK2.shape
    assert sum(oracle.sizes) == len(toy_samples)
    known = ~np.isnan(toy_samples.joints_NK2).any(-1)
    assert known.any() and not known.all()
    # A heatmap pixel is side / 16 image pixels; the fit is exact up to rounding.
    off = np.linalg.norm(predicted.joints_NK2 - toy_samples.joints_NK2, axis=-1)[known]
    pixel = np.broadcast_to(toy_samples.side_N[:, None] / 16, known.shape)[known]
    assert (off / pixel).max() < 0.01


def test_peaks_are_the_maps_highest_pixels(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    heatmaps = gaussians(heatmap_joints(toy_samples, 64), 16, sigma_px=1.5)
    found = predict(Oracle(heatmaps), toy_recipe, toy_samples, CPU).peaks_NK
    np.testing.assert_array_equal(found, heatmaps.amax((-2, -1)).double().numpy())


def test_the_truth_scores_1(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    heatmaps = gaussians(heatmap_joints(toy_samples, 64), 16, sigma_px=1.5)
    found = score(Oracle(heatmaps), toy_recipe, toy_samples, CPU)
    assert (found.mean, found.mean_unweighted) == (1.0, 1.0)
    assert found.joints == int((~np.isnan(toy_samples.joints_NK2).any(-1)).sum())


def test_another_answer_scores_less(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    """A shift by the threshold's length in half of the people loses just their joints."""
    joints = heatmap_joints(toy_samples, 64)
    lengths = toy_samples.normalizer_N / toy_samples.side_N * 16  # heatmap pixels
    joints[::2, :, 0] += 0.25 * lengths[::2, None]
    found = score(Oracle(gaussians(joints, 16, 1.5)), toy_recipe, toy_samples, CPU)
    known = ~np.isnan(toy_samples.joints_NK2).any(-1)
    # A joint near the crop's right edge may be pushed out of sight and be found elsewhere.
    assert found.mean == pytest.approx(known[1::2].sum() / known.sum(), abs=0.03)


def refuse(*_: object) -> None:
    raise ValueError("no such map")


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(
    toy_recipe: Recipe, toy_samples: SampleSet, training: bool
) -> None:
    network = HourglassSettings(stages=1, channels=8, stem="ports").build(14).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict(network, toy_recipe, toy_samples, CPU)
    assert all(module.training == training for module in network.modules())
    after = network.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    network.register_forward_hook(refuse)
    with pytest.raises(ValueError, match="no such map"):
        predict(network, toy_recipe, toy_samples, CPU)
    assert all(module.training == training for module in network.modules())


def test_people_do_not_change_each_others_joints(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    torch.manual_seed(0)
    network = HourglassSettings(stages=1, channels=8, stem="ports").build(14)
    together = predict(network, toy_recipe, toy_samples, CPU).joints_NK2
    alone = predict(network, toy_recipe, toy_samples.take([7]), CPU).joints_NK2
    np.testing.assert_allclose(alone[0], together[7], atol=1e-2)
    assert together.std(axis=0).max() > 1  # and they are not all the same


def test_augmentation_plays_no_part(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    torch.manual_seed(0)
    network = HourglassSettings(stages=1, channels=8, stem="ports").build(14)
    other = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["augmentation.rotation_deg=90", "augmentation.scale=[0.5, 0.6]"],
    )
    plain = predict(network, toy_recipe, toy_samples, CPU).joints_NK2
    again = predict(network, other, toy_samples, CPU).joints_NK2
    np.testing.assert_array_equal(again, plain)


def test_more_people_than_a_batch(toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpd.data.readers.synthetic.people import synthetic_people

    monkeypatch.setattr("fpd.pipeline.evaluation.inference.BATCH", 4)
    people = synthetic_people("test", 9)
    oracle = Oracle(gaussians(heatmap_joints(people, 64), 16, 1.5))
    assert score(oracle, toy_recipe, people, CPU).mean == 1.0
    assert oracle.sizes == [4, 4, 1]


# Several passes a person


class Sees(nn.Module):
    """Answers Gaussians at the colored dots of its crop: an observer that is never wrong.

    The crop's red shows joint 0, its green joint 1; both are one dot on black.
    """

    def forward(self, crop: Tensor) -> list[Tensor]:
        light = crop[:, :2] - crop[:, :2].amin((-2, -1), keepdim=True)
        grid = torch.arange(crop.shape[-1], dtype=torch.float32)
        total = light.sum((-2, -1))
        x = (light.sum(-2) * grid).sum(-1) / total
        y = (light.sum(-1) * grid).sum(-1) / total
        joints = torch.stack([x, y], -1)
        return [gaussians(((joints + 0.5) / 4 - 0.5).numpy(), crop.shape[-1] // 4, 1.5)]


class Dots:
    """Black images of 200 x 200 pixels with a smooth dot in red, and one in green."""

    def __init__(self, joints_NK2: NDArray[np.float64]) -> None:
        self.joints_NK2 = joints_NK2

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        dots = 255 * gaussians(self.joints_NK2[index], 200, 3.0).numpy()
        return np.stack([*dots, np.zeros_like(dots[0])], -1).astype(np.uint8), 1

    def size(self, index: int) -> tuple[int, int]:
        return 200, 200

    def identity(self, index: int) -> str:
        return str(index)

    def locate(self, index: int) -> str:
        return str(index)


def dotted_people() -> SampleSet:
    """Three people of two joints, which are each other in the mirror."""
    # In a box of 28 to 178: further from each other than Gaussians reach.
    joints_NK2 = np.random.default_rng(0).uniform((60, 55), (140, 75), (3, 2, 2))
    joints_NK2[:, 1, 1] += 75
    skeleton = replace(LSP, joints=("left", "right"), flip_indices=(1, 0), limbs=(), groups=())
    return SampleSet(
        *("dots", skeleton, Dots(joints_NK2), ("a", "b", "c"), np.arange(3), joints_NK2),
        *(np.full((3, 2), 103.0), np.full(3, 150.0), np.full(3, 30.0)),
    )


SCALES = [(1.0,), (0.8, 1.0, 1.3), (1.25, 1.0), (2.0, 0.9, 1.0, 1.1)]


@pytest.mark.parametrize("scales", SCALES)
def test_the_truth_is_found_at_every_scale(toy_recipe: Recipe, scales: tuple[float, ...]) -> None:
    people = dotted_people()
    testing = TestTimeAugmentation(scales=scales)
    found = predict(Sees(), toy_recipe, people, CPU, testing=testing).joints_NK2
    # A heatmap pixel is 9.4 image pixels; the dots are drawn in whole numbers.
    assert np.linalg.norm(found - people.joints_NK2, axis=-1).max() < 0.5


def test_the_flip_test_averages_with_the_mirrored_twin(toy_recipe: Recipe) -> None:
    """The network tells colors, not sides: mirrored, its joints come back under each other's name.

    So that the mean has a hill at both joints, and each half as high.
    """
    people = dotted_people()
    plain = predict(Sees(), toy_recipe, people, CPU)
    flipped = predict(Sees(), toy_recipe, people, CPU, testing=TestTimeAugmentation(flip_test=True))
    off = np.linalg.norm(flipped.joints_NK2[:, :, None] - people.joints_NK2[:, None], axis=-1)
    assert (off.min(-1) < 0.5).all()
    np.testing.assert_allclose(flipped.peaks_NK, plain.peaks_NK / 2, rtol=0.1)


def test_a_symmetric_network_is_left_alone_by_the_flip_test(toy_recipe: Recipe) -> None:
    """With joints that are themselves in the mirror, one pass says all; no pixel of shift comes in.

    HRNet shifts the mirrored map by a pixel (lib/core/function.py): here that would be half of one.
    """
    people = dotted_people()
    alike = replace(people, skeleton=replace(people.skeleton, flip_indices=(0, 1)))
    plain = predict(Sees(), toy_recipe, alike, CPU)
    flipped = predict(Sees(), toy_recipe, alike, CPU, testing=TestTimeAugmentation(flip_test=True))
    np.testing.assert_allclose(flipped.joints_NK2, plain.joints_NK2, atol=1e-3)


def test_maps_of_other_scales_are_enlarged_about_the_middle() -> None:
    """A crop of twice the box has everything at half the distance from its middle."""
    joints = np.array([[[10.0, 4.0]]])
    half = (joints - 7.5) / 2 + 7.5
    maps = torch.stack([gaussians(half, 16, 2.0)[0], gaussians(joints, 16, 4.0)[0]])
    mean = average_scales(maps, (2.0, 1.0))
    torch.testing.assert_close(mean[0], maps[1], atol=0.02, rtol=0)


def test_where_a_crop_does_not_reach_the_others_answer_stands() -> None:
    maps = torch.stack([torch.full((1, 16, 16), 3.0), torch.full((1, 16, 16), 1.0)])
    mean = average_scales(maps, (0.5, 1.0))[0, 0]
    expected = torch.ones(16, 16)
    expected[4:12, 4:12] = 2  # half of the box: the middle 8 of 16 pixels
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("scales", ["[]", "[0.9,1.1]", "[1,1]", "[1,9]", "[1,-1]"])
def test_scales_that_mean_nothing_are_refused(scales: str) -> None:
    with pytest.raises(ValueError, match=r"evaluation.scales: expected different factors"):
        apply_overrides({}, [f"evaluation.scales={scales}"])
