"""The losses of a batch, from label coordinates and stored bytes, against float64 formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from fpd.data.heatmap_codec import flip_heatmaps
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.config.sections import Student, Targets
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.store import StoreReader, compress, open_storage, read_heatmaps, stored_layout
from fpd.pipeline.store.compression import basis
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.training.objective import Objective, amplitude_factors
from fpd.pipeline.workdir import WorkDir

Array = NDArray[np.float64]
NAN = float("nan")
SIGMA = 1.25
MAX_ERROR = 0.05


def labels_of(joints_BK2: Array, size: int, sigma: float = SIGMA) -> tuple[Array, Array]:
    """Eq. 2 with peak 1, pixel by pixel, and which joints have a target (within three sigma)."""
    maps = np.zeros((*joints_BK2.shape[:2], size, size))
    weights = np.zeros(joints_BK2.shape[:2])
    for b, k in np.ndindex(weights.shape):
        x, y = joints_BK2[b, k]
        low, high = -0.5 - 3 * sigma, size - 0.5 + 3 * sigma
        if low < x < high and low < y < high:
            weights[b, k] = 1
            for row, column in np.ndindex(size, size):
                square = (column - x) ** 2 + (row - y) ** 2
                maps[b, k, row, column] = np.exp(-square / (2 * sigma**2))
    return maps, weights


def squared(stage: Array, target: Array, weights: Array | float = 1.0) -> float:
    """Summed over pixels, averaged over joints and images."""
    return float((((stage - target) ** 2).sum((-2, -1)) * weights).mean())


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Two samples with three joints: one unlabeled, one far outside, one a little outside."""
    generator = torch.Generator().manual_seed(0)
    joints = torch.tensor([[[3.2, 4.7], [NAN, NAN], [1.0, 1.0]], [[0.0, 7.0], [40, 3], [-2, 6.5]]])
    peaks = torch.tensor([[0.9, 0.05, 0.0], [0.5, 1.25, 0.1]])
    heatmaps = torch.rand(2, 3, 8, 8, generator=generator)
    heatmaps *= (peaks / heatmaps.amax((-2, -1)))[..., None, None]
    compressed = compress(heatmaps, MAX_ERROR)
    return {
        "joints": joints,
        "coefficients": compressed.coefficients,
        "steps": compressed.steps,
        "peaks": compressed.peaks,
        "flipped": torch.tensor([False, True]),
    }


@pytest.fixture
def stages() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2)]


def stored_heatmaps(batch: dict[str, Tensor], factors: Array) -> Array:
    """The teacher's heatmaps in float64: coefficients, steps, basis, amplitude factors."""
    cosines, pixels = basis().double().numpy()
    steps = batch["steps"].double().numpy()[..., None, None, None]
    coefficients = batch["coefficients"].double().numpy()
    blocks = np.where(steps < 0, coefficients @ pixels, coefficients @ cosines).clip(min=0)
    maps = (blocks * np.abs(steps)).reshape(2, 3, 8, 8)  # one block a map
    return np.asarray(maps * factors[..., None, None])


def expected_loss(
    stages: list[Array], batch: dict[str, Tensor], factors: Array | None, alpha: float
) -> float:
    labels, weights = labels_of(batch["joints"].double().numpy(), 8)
    total = sum((1 - alpha) * squared(stage, labels, weights) for stage in stages)
    if factors is not None:
        teacher = stored_heatmaps(batch, factors)
        total += sum(alpha * squared(stage, teacher) for stage in stages)
    return total


def objective(student: Student | None, flip_indices: tuple[int, ...] | None = None) -> Objective:
    return Objective(Targets(sigma_px=SIGMA), 8, student, flip_indices)


def double(stages: list[Tensor]) -> list[Array]:
    return [stage.double().numpy() for stage in stages]


@pytest.mark.parametrize("student", [None, Student(alpha=0)])
def test_teachers_and_students_with_alpha_0_learn_from_labels(
    batch: dict[str, Tensor], stages: list[Tensor], student: Student | None
) -> None:
    loss, collapsed_loss, *_ = objective(student)(stages, {"joints": batch["joints"]})
    assert loss.dtype == collapsed_loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss(double(stages), batch, None, 0), rel=1e-5)
    zeros = [np.zeros((2, 3, 8, 8))] * 2
    assert collapsed_loss.item() == pytest.approx(expected_loss(zeros, batch, None, 0), rel=1e-5)


@pytest.mark.parametrize(("peaks", "alpha"), [("raw", 0.3), ("unit", 0.3), ("unit", 1.0)])
def test_students_learn_from_labels_and_stored_heatmaps(
    batch: dict[str, Tensor], stages: list[Tensor], peaks: str, alpha: float
) -> None:
    student = Student(alpha=alpha, teacher_scale=peaks, peak_floor=0.2)
    heights = batch["peaks"].double().numpy()
    factors = 1 / heights.clip(min=0.2) if peaks == "unit" else np.ones((2, 3))
    loss, collapsed_loss, *_ = objective(student)(stages, batch)
    expected = expected_loss(double(stages), batch, factors, alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    zeros = [np.zeros((2, 3, 8, 8))] * 2
    expected = expected_loss(zeros, batch, factors, alpha)
    assert collapsed_loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("student", [None, Student(alpha=0.5), Student(alpha=1)])
def test_the_collapsed_loss_is_that_of_zero_everywhere(
    batch: dict[str, Tensor], student: Student | None
) -> None:
    zeros = [torch.zeros(2, 3, 8, 8) for _ in range(3)]
    loss, collapsed_loss, *_ = objective(student)(zeros, batch)
    assert loss.item() == collapsed_loss.item() > 0


def test_alpha_0_is_the_supervised_loss(batch: dict[str, Tensor], stages: list[Tensor]) -> None:
    supervised = objective(None)(stages, batch)
    student = objective(Student(alpha=0))(stages, batch)
    assert student == supervised
    assert student.pose_loss is None and student.kd_pose_loss is None
    almost = objective(Student(alpha=1e-9))(stages, batch)
    assert almost[0].item() == pytest.approx(supervised[0].item(), rel=1e-6)


def test_area_normalized_targets_are_divided_by_their_area(stages: list[Tensor]) -> None:
    joints = torch.tensor([[[4.0, 4.0]]])
    zeros = [torch.zeros(1, 1, 8, 8)]
    plain = Objective(Targets(sigma_px=1.0), 8)(zeros, {"joints": joints})[0].item()
    divided = Objective(Targets(sigma_px=1.0, area_normalized=True), 8)(zeros, {"joints": joints})
    assert divided[0].item() == pytest.approx(plain / (2 * np.pi) ** 2, rel=1e-5)


def test_unlabeled_joints_are_supervised_by_the_teacher(batch: dict[str, Tensor]) -> None:
    stage = torch.zeros(2, 3, 8, 8, requires_grad=True)
    objective(Student(alpha=0.5, teacher_scale="raw"))([stage], batch)[0].backward()
    assert stage.grad[0, 1].abs().sum() > 0  # joint 1 of sample 0 has no label
    stage.grad = None
    objective(None)([stage], batch)[0].backward()
    assert stage.grad[0, 1].abs().sum() == 0
    assert stage.grad[0, 0].abs().sum() > 0


# Amplitudes


def test_raw_maps_are_left_as_they_are() -> None:
    peaks = torch.tensor([[0.0, 0.05, 0.7, 1.3]])
    found = amplitude_factors(peaks, Student(teacher_scale="raw"))
    assert found.tolist() == [[1.0, 1.0, 1.0, 1.0]]


def test_unit_maps_have_peak_1_above_the_floor_and_fall_to_0_below() -> None:
    peaks = torch.tensor([[0.0, 0.05, 0.1, 0.2, 0.7, 1.3]])
    found = amplitude_factors(peaks, Student(teacher_scale="unit", peak_floor=0.2))
    torch.testing.assert_close(found * peaks, torch.tensor([[0.0, 0.25, 0.5, 1.0, 1.0, 1.0]]))
    assert found.dtype == torch.float32


def test_the_default_is_unit_with_a_floor_of_a_tenth() -> None:
    peaks = torch.tensor([[0.02, 0.1, 0.4]])
    found = amplitude_factors(peaks, Student()) * peaks
    torch.testing.assert_close(found, torch.tensor([[0.2, 1.0, 1.0]]))


def test_between_unit_and_raw_is_a_power_of_the_peak() -> None:
    peaks = torch.tensor([[0.05, 0.25, 0.81]])
    found = amplitude_factors(peaks, Student(teacher_scale=0.5, peak_floor=0.16)) * peaks
    torch.testing.assert_close(found, torch.tensor([[0.05 / 0.4, 0.5, 0.9]]))
    for named, power in (("unit", 0.0), ("raw", 1.0)):
        by_name = amplitude_factors(peaks, Student(teacher_scale=named))
        torch.testing.assert_close(amplitude_factors(peaks, Student(teacher_scale=power)), by_name)


# Weights of the teacher term


def test_kd_visible_only_masks_unlabeled_joints(batch: dict[str, Tensor]) -> None:
    stage = torch.zeros(2, 3, 8, 8, requires_grad=True)
    objective(Student(alpha=1, kd_visible_only=True))([stage], batch)[0].backward()
    assert stage.grad[0, 1].abs().sum() == 0  # joint 1 of sample 0 has no label
    assert stage.grad[0, 0].abs().sum() > 0


@pytest.mark.parametrize("flipped", [False, True])
def test_confidence_weighting_is_by_the_peak(batch: dict[str, Tensor], flipped: bool) -> None:
    """Flipping a view swaps heatmaps of left and right joints, and their weights with them."""
    batch = batch | {"flipped": torch.tensor([flipped, flipped])}
    plain, weighted = (
        torch.zeros(2, 3, 8, 8, requires_grad=True),
        torch.zeros(2, 3, 8, 8, requires_grad=True),
    )
    objective(Student(alpha=1), SWAP)([plain], batch)[0].backward()
    objective(Student(alpha=1, confidence_weighting=True), SWAP)([weighted], batch)[0].backward()
    peaks = batch["peaks"].float()
    peaks = peaks[:, list(SWAP)] if flipped else peaks
    torch.testing.assert_close(weighted.grad, plain.grad * peaks.clamp(0, 1)[..., None, None])


def test_cross_entropy_compares_probabilities(batch: dict[str, Tensor]) -> None:
    model = HourglassSettings(output="sigmoid", channels=8)
    student = Student(alpha=0.5, loss="bce", model=model)
    output = torch.rand(2, 3, 8, 8)
    both = Objective(Targets(sigma_px=SIGMA), 8, student, None, "bce")([output], batch)
    teacher_only = Student(alpha=1, loss="bce", model=model)
    teacher = Objective(Targets(sigma_px=SIGMA), 8, teacher_only, None, "bce")([output], batch)
    labels = Objective(Targets(sigma_px=SIGMA), 8, None, None, "bce")([output], batch)
    assert both[0].item() == pytest.approx((teacher[0] + labels[0]).item() / 2, rel=1e-5)
    assert 0 < both[1].item() < both[0].item()  # the mean is better than noise


def test_labels_may_be_compared_as_distributions(batch: dict[str, Tensor]) -> None:
    """The offset of a map does not matter, and a uniform map is worse than the right one."""
    by_labels = Objective(Targets(sigma_px=SIGMA), 8, None, None, "kl")
    labels, weights = by_labels.encode_labels(batch, torch.device("cpu"))
    right = by_labels([labels + 0.3], batch)
    assert right[0].item() == pytest.approx(0, abs=1e-5)
    assert right[1].item() > 1
    assert 0 < weights.sum() < weights.numel()


@pytest.mark.parametrize("setting", ["loss", "kd_loss"])
def test_cross_entropy_of_anything_else_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"expected model\.output = sigmoid"):
        Student.model_validate({setting: "bce"})


# Flipped by the student

SWAP = (1, 0, 2)


@pytest.mark.parametrize("peaks", ["raw", "unit"])
def test_flipped_views_have_flipped_heatmaps(
    batch: dict[str, Tensor], stages: list[Tensor], peaks: str
) -> None:
    """And only they: left and right joints are swapped, each with its own amplitude."""
    student = Student(alpha=1.0, teacher_scale=peaks)
    factors = amplitude_factors(batch["peaks"].float(), student).double().numpy()
    maps = stored_heatmaps(batch, factors)
    maps[1] = maps[1, list(SWAP)][..., ::-1]  # the second sample is flipped
    expected = sum(squared(stage, maps) for stage in double(stages))
    found = objective(student, SWAP)(stages, batch)[0].item()
    assert found == pytest.approx(expected, rel=1e-5)
    plain = objective(student)(stages, batch)[0].item()
    assert abs(plain - found) > 1e-3 * found


def test_a_flipped_output_has_the_same_loss_on_a_flipped_view(
    batch: dict[str, Tensor],
) -> None:
    """Labels and teacher heatmaps are flipped alike."""
    output = torch.rand(2, 3, 8, 8)
    joints = batch["joints"][:, list(SWAP)].clone()
    joints[..., 0] = 7 - joints[..., 0]
    plain = batch | {"flipped": torch.tensor([False, False])}
    flipped = batch | {"flipped": torch.tensor([True, True]), "joints": joints}
    loss = objective(Student(alpha=0.5), SWAP)
    one, other = loss([output], plain), loss([flip_heatmaps(output, SWAP)], flipped)
    assert one[0].item() == pytest.approx(other[0].item(), rel=1e-5)
    assert one[1].item() == pytest.approx(other[1].item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("flipped", [False, True])
def test_joints_that_the_teacher_does_not_cover_are_left_to_the_labels(
    batch: dict[str, Tensor], stages: list[Tensor], alpha: float, flipped: bool
) -> None:
    """Their empty stored maps do not pull the output towards zero."""
    covered = np.array([1.0, 1.0, 0.0])
    student = Student(alpha=alpha, teacher_scale="raw")
    batch = batch | {"flipped": torch.tensor([flipped] * 2)}
    masked = replace(objective(student, SWAP), covered_K=(True, True, False))
    heatmaps = [stage.clone().requires_grad_() for stage in stages]
    loss, collapsed_loss, *_ = masked(heatmaps, batch)
    teacher = stored_heatmaps(batch, np.ones((2, 3)))
    if flipped:
        teacher = teacher[:, list(SWAP), :, ::-1]
    labels, weights = labels_of(batch["joints"].double().numpy(), 8)
    for found, outputs in ((loss, double(stages)), (collapsed_loss, [np.zeros((2, 3, 8, 8))] * 2)):
        expected = sum(
            alpha * squared(stage, teacher, covered) + (1 - alpha) * squared(stage, labels, weights)
            for stage in outputs
        )
        assert found.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for stage in heatmaps:
        assert stage.grad is not None
        assert stage.grad[:, :2].any()
        assert stage.grad[:, 2].any() == (alpha < 1)


# From the store to the loss


@pytest.mark.parametrize("peaks", ["raw", "unit"])
def test_the_target_of_distillation_is_what_the_store_holds(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, peaks: str
) -> None:
    """With alpha 1, a network that outputs the stored heatmaps has a loss of 0."""
    path = WorkDir(toy_work).store
    store = StoreReader(open_storage(path), stored_layout(open_storage(path)))
    dataset = DistillationViews(stored_views(toy_recipe, toy_samples), store)
    keys = [(3, 0), (17, 1), (8, 1)]
    batch = default_collate([dataset[key] for key in keys])
    output = torch.cat(
        [torch.from_numpy(read_heatmaps(path, view, [index])) for index, view in keys]
    )
    assert output.sum() > 0
    if peaks == "unit":
        output /= batch["peaks"].float().clamp_min(0.1)[..., None, None]
    student = Student(alpha=1.0, teacher_scale=peaks)
    objective = Objective(toy_recipe.targets, 16, student)
    loss, collapsed_loss, *_ = objective([output, output], batch)
    assert loss.item() < 1e-9 * collapsed_loss.item()
    assert objective([2 * output], batch)[0].item() == pytest.approx(
        collapsed_loss.item() / 2, rel=1e-5
    )
