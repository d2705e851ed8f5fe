"""Inference: joints in the original image, test-time augmentation, the state of the network."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fpd.data.geometry import Geometry
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP, Skeleton
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import TestTimeAugmentation
from fpd.pipeline.evaluation.inference import average_scales, in_model_order, predict, score
from fpd.pipeline.models.checkpoint import TrainedModel
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.runtime.interrupt import Interrupted, Stop

CPU = torch.device("cpu")


def heatmap_joints(samples: SampleSet, crop_px: int) -> NDArray[np.float64]:
    """The labels on the heatmaps of crops without augmentation.

    The box fills the crop, the stride is 4, and pixel centers are whole numbers.
    """
    box_corner = samples.center_N2 - samples.side_N[:, None] / 2
    shares = (samples.joints_NK2 - box_corner[:, None]) / samples.side_N[:, None, None]
    # The box's corner is the outer edge of pixel 0, half a pixel before its center.
    return shares * crop_px / 4 - 0.5


def gaussians(joints_NK2: NDArray[np.float64], size_px: int, sigma_px: float) -> Tensor:
    grid = np.arange(size_px)
    y, x = np.meshgrid(grid, grid, indexing="ij")
    dx = x - joints_NK2[..., 0, None, None]
    dy = y - joints_NK2[..., 1, None, None]
    return torch.from_numpy(np.exp(-(dx**2 + dy**2) / (2 * sigma_px**2))).float()


class Oracle(nn.Module):
    """A network that returns the next samples' true heatmaps, after a first stage of noise."""

    def __init__(self, heatmaps_NKHW: Tensor) -> None:
        super().__init__()
        self.heatmaps, self.position = heatmaps_NKHW, 0
        self.sizes: list[int] = []

    def forward(self, crop: Tensor) -> list[Tensor]:
        assert not self.training
        assert crop.shape[1:] == (3, 64, 64)
        start, self.position = self.position, self.position + len(crop)
        self.sizes.append(len(crop))
        heatmaps = self.heatmaps[start : self.position]
        return [torch.rand_like(heatmaps), heatmaps]


def test_joints_are_in_pixels_of_the_original_image(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    joints = heatmap_joints(toy_samples, 64)
    oracle = Oracle(gaussians(joints, 16, sigma_px=1.5))
    predicted = predict(oracle, toy_recipe, toy_samples, CPU)
    assert predicted.joints_NK2.shape == toy_samples.joints_NK2.shape
    assert sum(oracle.sizes) == len(toy_samples)
    labeled = ~np.isnan(toy_samples.joints_NK2).any(-1)
    assert labeled.any() and not labeled.all()
    errors = np.linalg.norm(predicted.joints_NK2 - toy_samples.joints_NK2, axis=-1)[labeled]
    heatmap_pixels = np.broadcast_to(toy_samples.side_N[:, None] / 16, labeled.shape)[labeled]
    assert (errors / heatmap_pixels).max() < 0.01


def test_peaks_are_the_highest_pixels(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    heatmaps = gaussians(heatmap_joints(toy_samples, 64), 16, sigma_px=1.5)
    peaks_NK = predict(Oracle(heatmaps), toy_recipe, toy_samples, CPU).peaks_NK
    np.testing.assert_array_equal(peaks_NK, heatmaps.amax((-2, -1)).double().numpy())


def test_true_heatmaps_score_1(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    heatmaps = gaussians(heatmap_joints(toy_samples, 64), 16, sigma_px=1.5)
    result = score(Oracle(heatmaps), toy_recipe, toy_samples, CPU)
    assert (result.mean, result.mean_unweighted) == (1.0, 1.0)
    assert result.joints == int((~np.isnan(toy_samples.joints_NK2).any(-1)).sum())


def test_shifted_heatmaps_are_wrong(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    """Shifting the joints of every other sample beyond the threshold makes only these wrong."""
    joints = heatmap_joints(toy_samples, 64)
    lengths = toy_samples.normalizer_N / toy_samples.side_N * 16  # heatmap pixels
    joints[::2, :, 0] += 0.25 * lengths[::2, None]
    result = score(Oracle(gaussians(joints, 16, 1.5)), toy_recipe, toy_samples, CPU)
    labeled = ~np.isnan(toy_samples.joints_NK2).any(-1)
    # A joint near the right edge may be shifted out of the crop, and its maximum is elsewhere.
    assert result.mean == pytest.approx(labeled[1::2].sum() / labeled.sum(), abs=0.03)


def fail(*_: object) -> None:
    raise ValueError("failed on purpose")


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode_and_weights(
    toy_recipe: Recipe, toy_samples: SampleSet, training: bool
) -> None:
    network = HourglassSettings(stages=1, channels=8, stem="ports").build(14).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict(network, toy_recipe, toy_samples, CPU)
    assert all(module.training == training for module in network.modules())
    after = network.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    network.register_forward_hook(fail)
    with pytest.raises(ValueError, match="failed on purpose"):
        predict(network, toy_recipe, toy_samples, CPU)
    assert all(module.training == training for module in network.modules())


def test_predictions_do_not_depend_on_the_batch(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    torch.manual_seed(0)
    network = HourglassSettings(stages=1, channels=8, stem="ports").build(14)
    together = predict(network, toy_recipe, toy_samples, CPU).peaks_NK
    alone = predict(network, toy_recipe, toy_samples.take([7]), CPU).peaks_NK
    np.testing.assert_allclose(alone[0], together[7], rtol=1e-4, atol=1e-6)
    assert together.std(axis=0).max() > 1e-4  # samples differ


def test_augmentation_settings_are_ignored(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    torch.manual_seed(0)
    network = HourglassSettings(stages=1, channels=8, stem="ports").build(14)
    other = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["augmentation.rotation_deg=90", "augmentation.scale=[0.5, 0.6]"],
    )
    few = toy_samples.take([0, 1, 2])
    expected = predict(network, toy_recipe, few, CPU).peaks_NK
    np.testing.assert_allclose(predict(network, other, few, CPU).peaks_NK, expected, rtol=1e-5)


def test_more_samples_than_a_batch(
    toy_recipe: Recipe, toy_samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fpd.pipeline.evaluation.inference.BATCH_SIZE", 4)
    samples = toy_samples.take(list(range(9)))
    oracle = Oracle(gaussians(heatmap_joints(samples, 64), 16, 1.5))
    assert score(oracle, toy_recipe, samples, CPU).mean == 1.0
    assert oracle.sizes == [4, 4, 1]


def test_a_signal_stops_the_inference(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    stop = Stop()
    stop.signal = signal.SIGINT
    stop.set()
    oracle = Oracle(torch.zeros(len(toy_samples), 14, 16, 16))
    with pytest.raises(Interrupted):
        predict(oracle, toy_recipe, toy_samples, CPU, stop=stop)


def trained_with(skeleton: Skeleton) -> TrainedModel:
    return TrainedModel(
        name="student",
        network=nn.Identity(),
        model=HourglassSettings(),
        geometry=Geometry(crop_px=64),
        skeleton=skeleton,
        weights_sha256="",
    )


def test_a_model_of_other_joints_is_refused(toy_samples: SampleSet) -> None:
    assert in_model_order(trained_with(LSP), toy_samples) == (toy_samples, tuple(range(14)))
    other = replace(LSP, joints=("tail", *LSP.joints[1:]))
    with pytest.raises(ValueError, match=r"student alone has tail; .* lsp alone has right ankle$"):
        in_model_order(trained_with(other), toy_samples)


def test_a_model_with_other_pairs_is_refused(toy_samples: SampleSet) -> None:
    unpaired = replace(LSP, flip_indices=(5, 1, 2, 3, 4, 0, *LSP.flip_indices[6:]))
    with pytest.raises(ValueError, match=r"counterparts of right knee, .*data\.coco\.flip="):
        in_model_order(trained_with(unpaired), toy_samples)


@pytest.mark.parametrize("flip_test", [False, True])
def test_joints_in_another_order_are_matched_by_name(
    toy_recipe: Recipe, toy_samples: SampleSet, flip_test: bool
) -> None:
    """A model whose heatmaps have another order and other spellings predicts the same joints."""
    order = np.random.default_rng(3).permutation(14).tolist()
    shuffled = toy_samples.skeleton.reordered(order)
    spelled = [name.title().replace(" ", "") for name in shuffled.joints]
    model = trained_with(replace(shuffled, joints=tuple(spelled)))
    ordered, back = in_model_order(model, toy_samples)
    upright = gaussians(heatmap_joints(toy_samples, 64), 16, 1.5)
    mirrored = upright.flip(-1)[:, list(LSP.flip_indices)] * 0.7
    maps = torch.cat([upright, mirrored]) if flip_test else upright
    tta = TestTimeAugmentation(flip_test=flip_test)
    expected = predict(Oracle(maps), toy_recipe, toy_samples, CPU, tta=tta)
    predicted = predict(Oracle(maps[:, order]), toy_recipe, ordered, CPU, tta=tta).reordered(back)
    np.testing.assert_array_equal(predicted.joints_NK2, expected.joints_NK2)
    np.testing.assert_array_equal(predicted.peaks_NK, expected.peaks_NK)
    np.testing.assert_array_equal(ordered.joints_NK2[:, list(back)], toy_samples.joints_NK2)


# Test-time augmentation


class DotDetector(nn.Module):
    """A network without parameters that locates the dots in a crop of `Dots` exactly.

    Joint 0 is the red dot, joint 1 the green one.
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
    """Black images of 200 x 200 pixels with a smooth red and a smooth green dot."""

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

    def note(self, index: int) -> None:
        pass


def dotted_samples() -> SampleSet:
    """Three samples with a left and a right joint, farther apart than their Gaussians reach."""
    joints_NK2 = np.random.default_rng(0).uniform((60, 55), (140, 75), (3, 2, 2))
    joints_NK2[:, 1, 1] += 75
    skeleton = replace(LSP, joints=("left", "right"), flip_indices=(1, 0), limbs=(), groups=())
    return SampleSet(
        name="dots",
        skeleton=skeleton,
        images=Dots(joints_NK2),
        ids=("a", "b", "c"),
        image_N=np.arange(3),
        joints_NK2=joints_NK2,
        center_N2=np.full((3, 2), 103.0),  # the box is 28 to 178 pixels
        side_N=np.full(3, 150.0),
        normalizer_N=np.full(3, 30.0),
    )


@pytest.mark.parametrize("scales", [(1.0,), (2.0, 0.9, 1.0, 1.1)])
def test_averaging_over_scales_keeps_joints_in_place(
    toy_recipe: Recipe, scales: tuple[float, ...]
) -> None:
    samples = dotted_samples()
    tta = TestTimeAugmentation(scales=scales)
    joints_NK2 = predict(DotDetector(), toy_recipe, samples, CPU, tta=tta).joints_NK2
    # A heatmap pixel is 9.4 image pixels.
    assert np.linalg.norm(joints_NK2 - samples.joints_NK2, axis=-1).max() < 0.5


def test_the_flip_test_averages_with_the_flipped_crop(toy_recipe: Recipe) -> None:
    """The network locates colors, not sides, so flipping exchanges its two joints.

    The averaged heatmaps then have a maximum at both joints, each half as high.
    """
    samples = dotted_samples()
    plain = predict(DotDetector(), toy_recipe, samples, CPU)
    flipped = predict(
        DotDetector(), toy_recipe, samples, CPU, tta=TestTimeAugmentation(flip_test=True)
    )
    errors = np.linalg.norm(flipped.joints_NK2[:, :, None] - samples.joints_NK2[:, None], axis=-1)
    assert (errors.min(-1) < 0.5).all()
    np.testing.assert_allclose(flipped.peaks_NK, plain.peaks_NK / 2, rtol=0.1)


def test_the_flip_test_does_not_shift_heatmaps(toy_recipe: Recipe) -> None:
    """With joints that flipping does not exchange, the flipped output equals the plain one.

    HRNet shifts the flipped heatmaps by a pixel (lib/core/function.py), which would move the joints
    by half a pixel here.
    """
    samples = dotted_samples()
    unpaired = replace(samples, skeleton=replace(samples.skeleton, flip_indices=(0, 1)))
    plain = predict(DotDetector(), toy_recipe, unpaired, CPU)
    flipped = predict(
        DotDetector(), toy_recipe, unpaired, CPU, tta=TestTimeAugmentation(flip_test=True)
    )
    np.testing.assert_allclose(flipped.joints_NK2, plain.joints_NK2, atol=1e-3)


def test_heatmaps_of_other_scales_are_resampled_about_the_center() -> None:
    """In a crop of twice the box, joints are at half the distance from the center."""
    joints = np.array([[[10.0, 4.0]]])
    half = (joints - 7.5) / 2 + 7.5
    maps = torch.stack([gaussians(half, 16, 2.0)[0], gaussians(joints, 16, 4.0)[0]])
    mean = average_scales(maps, (2.0, 1.0))
    torch.testing.assert_close(mean[0], maps[1], atol=0.02, rtol=0)


def test_pixels_outside_a_smaller_crop_are_the_mean_of_the_others() -> None:
    maps = torch.stack([torch.full((1, 16, 16), 3.0), torch.full((1, 16, 16), 1.0)])
    mean = average_scales(maps, (0.5, 1.0))[0, 0]
    expected = torch.ones(16, 16)
    expected[4:12, 4:12] = 2  # half of the box is the middle 8 of 16 pixels
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("scales", ["[]", "[0.9,1.1]", "[1,1]", "[1,9]"])
def test_scales_without_1_repeated_or_out_of_range_are_refused(scales: str) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.scales"):
        apply_overrides({}, [f"evaluation.scales={scales}"])
