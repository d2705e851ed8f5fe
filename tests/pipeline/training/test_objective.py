"""What a network is asked for, from coordinates and stored bytes, against float64 formulas."""

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
from fpd.pipeline.models.hourglass import HourglassSettings
from fpd.pipeline.store import StoreReader, compress, files_at, read_heatmaps, stored_layout
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
    """Two people with three joints: one unlabeled, one far outside, one a little outside."""
    generator = torch.Generator().manual_seed(0)
    joints = torch.tensor([[[3.2, 4.7], [NAN, NAN], [1.0, 1.0]], [[0.0, 7.0], [40, 3], [-2, 6.5]]])
    peaks = torch.tensor([[0.9, 0.05, 0.0], [0.5, 1.25, 0.1]])
    said = torch.rand(2, 3, 8, 8, generator=generator)
    said *= (peaks / said.amax((-2, -1)))[..., None, None]
    coded = compress(said, MAX_ERROR)
    return {
        "joints": joints,
        "said": said,
        "coefficients": coded.coefficients,
        "steps": coded.steps,
        "peaks": coded.peaks,
        "mirrored": torch.tensor([False, True]),
    }


@pytest.fixture
def stages() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2)]


def teacher_maps(batch: dict[str, Tensor], factors: Array) -> Array:
    """What the teacher is taken to say, in float64: stored coefficients, steps, basis, factors."""
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
        teacher = teacher_maps(batch, factors)
        total += sum(alpha * squared(stage, teacher) for stage in stages)
    return total


def objective(student: Student | None, flip_indices: tuple[int, ...] | None = None) -> Objective:
    return Objective(Targets(sigma_px=SIGMA), 8, student, flip_indices)


def double(stages: list[Tensor]) -> list[Array]:
    return [stage.double().numpy() for stage in stages]


@pytest.mark.parametrize("student", [None, Student(alpha=0)])
def test_teachers_and_students_without_one_learn_labels(
    batch: dict[str, Tensor], stages: list[Tensor], student: Student | None
) -> None:
    loss, collapsed_loss, *_ = objective(student)(stages, {"joints": batch["joints"]})
    assert loss.dtype == collapsed_loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss(double(stages), batch, None, 0), rel=1e-5)
    nothing = [np.zeros((2, 3, 8, 8))] * 2
    assert collapsed_loss.item() == pytest.approx(expected_loss(nothing, batch, None, 0), rel=1e-5)


@pytest.mark.parametrize("peaks", ["raw", "unit"])
@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_students_learn_labels_and_the_stored_maps(
    batch: dict[str, Tensor], stages: list[Tensor], peaks: str, alpha: float
) -> None:
    student = Student(alpha=alpha, teacher_scale=peaks, peak_floor=0.2)
    heights = batch["peaks"].double().numpy()
    factors = 1 / heights.clip(min=0.2) if peaks == "unit" else np.ones((2, 3))
    loss, collapsed_loss, *_ = objective(student)(stages, batch)
    expected = expected_loss(double(stages), batch, factors, alpha)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    nothing = [np.zeros((2, 3, 8, 8))] * 2
    expected = expected_loss(nothing, batch, factors, alpha)
    assert collapsed_loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("student", [None, Student(alpha=0.5), Student(alpha=1)])
def test_the_zero_loss_is_the_loss_of_an_answer_of_zero(
    batch: dict[str, Tensor], student: Student | None
) -> None:
    zeros = [torch.zeros(2, 3, 8, 8) for _ in range(3)]
    loss, collapsed_loss, *_ = objective(student)(zeros, batch)
    assert loss.item() == collapsed_loss.item() > 0


def test_alpha_0_is_the_supervised_loss(batch: dict[str, Tensor], stages: list[Tensor]) -> None:
    supervised = objective(None)(stages, batch)
    student = objective(Student(alpha=0))(stages, batch)
    assert student == supervised
    assert student.pose_loss is None and student.kd_loss is None
    almost = objective(Student(alpha=1e-9))(stages, batch)
    assert almost[0].item() == pytest.approx(supervised[0].item(), rel=1e-6)


def test_area_normalized_targets_are_divided_by_their_area(stages: list[Tensor]) -> None:
    joints = torch.tensor([[[4.0, 4.0]]])
    zeros = [torch.zeros(1, 1, 8, 8)]
    plain = Objective(Targets(sigma_px=1.0), 8)(zeros, {"joints": joints})[0].item()
    divided = Objective(Targets(sigma_px=1.0, area_normalized=True), 8)(zeros, {"joints": joints})
    assert divided[0].item() == pytest.approx(plain / (2 * np.pi) ** 2, rel=1e-5)


def test_unlabeled_joints_are_taught_by_the_teacher(batch: dict[str, Tensor]) -> None:
    stage = torch.zeros(2, 3, 8, 8, requires_grad=True)
    objective(Student(alpha=0.5, teacher_scale="raw"))([stage], batch)[0].backward()
    assert stage.grad[0, 1].abs().sum() > 0  # joint 1 of person 0 has no label
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


# What the teacher is listened to


def test_the_authors_way_learns_nothing_where_there_is_no_label(batch: dict[str, Tensor]) -> None:
    stage = torch.zeros(2, 3, 8, 8, requires_grad=True)
    objective(Student(alpha=1, kd_visible_only=True))([stage], batch)[0].backward()
    assert stage.grad[0, 1].abs().sum() == 0  # joint 1 of person 0 has no label
    assert stage.grad[0, 0].abs().sum() > 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_maps_count_by_their_peak(batch: dict[str, Tensor], mirrored: bool) -> None:
    """A mirrored view's maps have changed places, and so have their weights."""
    batch = batch | {"mirrored": torch.tensor([mirrored, mirrored])}
    plain, weighed = (
        torch.zeros(2, 3, 8, 8, requires_grad=True),
        torch.zeros(2, 3, 8, 8, requires_grad=True),
    )
    objective(Student(alpha=1), SWAP)([plain], batch)[0].backward()
    objective(Student(alpha=1, confidence_weighting=True), SWAP)([weighed], batch)[0].backward()
    peaks = batch["peaks"].float()
    peaks = peaks[:, list(SWAP)] if mirrored else peaks
    torch.testing.assert_close(weighed.grad, plain.grad * peaks.clamp(0, 1)[..., None, None])


def test_cross_entropy_compares_probabilities(batch: dict[str, Tensor]) -> None:
    model = HourglassSettings(output="sigmoid", channels=8)
    student = Student(alpha=0.5, loss="bce", model=model)
    answer = torch.rand(2, 3, 8, 8)
    both = Objective(Targets(sigma_px=SIGMA), 8, student, None, "bce")([answer], batch)
    covered_K = Student(alpha=1, loss="bce", model=model)
    alone = Objective(Targets(sigma_px=SIGMA), 8, covered_K, None, "bce")([answer], batch)
    learned = Objective(Targets(sigma_px=SIGMA), 8, None, None, "bce")([answer], batch)
    assert both[0].item() == pytest.approx((alone[0] + learned[0]).item() / 2, rel=1e-5)
    assert 0 < both[1].item() < both[0].item()  # the mean is a better answer than any


def test_labels_may_be_compared_as_distributions(batch: dict[str, Tensor]) -> None:
    """Whatever a map's level; and an answer of nothing, a uniform one, is the worse."""
    by_labels = Objective(Targets(sigma_px=SIGMA), 8, None, None, "kl")
    labels, weights = by_labels.encode_labels(batch, torch.device("cpu"))
    right = by_labels([labels + 0.3], batch)
    assert right[0].item() == pytest.approx(0, abs=1e-5)
    assert right[1].item() > 1
    assert 0 < weights.sum() < weights.numel()


@pytest.mark.parametrize("setting", ["loss", "kd_pose_loss"])
def test_cross_entropy_of_anything_else_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"expected model\.output = sigmoid"):
        Student.model_validate({setting: "bce"})


def test_settings_that_were_added_do_not_change_what_was_there() -> None:
    kept = Student().model_dump()
    added = {"loss", "kd_pose_loss", "kd_visible_only", "confidence_weighting", "init_from"}
    assert not added & set(kept)
    assert "output" not in kept["model"]
    assert Student(kd_visible_only=True).model_dump()["kd_visible_only"] is True


# Mirrored by the student

SWAP = (1, 0, 2)


@pytest.mark.parametrize("peaks", ["raw", "unit"])
def test_mirrored_views_have_mirrored_maps(
    batch: dict[str, Tensor], stages: list[Tensor], peaks: str
) -> None:
    """Only they: flipped left to right, the twins' maps swapped, each with its own amplitude."""
    student = Student(alpha=1.0, teacher_scale=peaks)
    factors = amplitude_factors(batch["peaks"].float(), student).double().numpy()
    maps = teacher_maps(batch, factors)
    maps[1] = maps[1, list(SWAP)][..., ::-1]  # the second person is mirrored
    expected = sum(squared(stage, maps) for stage in double(stages))
    found = objective(student, SWAP)(stages, batch)[0].item()
    assert found == pytest.approx(expected, rel=1e-5)
    plain = objective(student)(stages, batch)[0].item()
    assert abs(plain - found) > 1e-3 * found


def test_a_network_that_mirrors_its_answer_has_the_same_loss_in_the_mirror(
    batch: dict[str, Tensor],
) -> None:
    """Labels and maps are mirrored alike."""
    answer = torch.rand(2, 3, 8, 8)
    joints = batch["joints"][:, list(SWAP)].clone()
    joints[..., 0] = 7 - joints[..., 0]
    upright = batch | {"mirrored": torch.tensor([False, False])}
    turned = batch | {"mirrored": torch.tensor([True, True]), "joints": joints}
    loss = objective(Student(alpha=0.5), SWAP)
    one, other = loss([answer], upright), loss([flip_heatmaps(answer, SWAP)], turned)
    assert one[0].item() == pytest.approx(other[0].item(), rel=1e-5)
    assert one[1].item() == pytest.approx(other[1].item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_joints_that_the_teacher_does_not_know_are_left_to_the_labels(
    batch: dict[str, Tensor], stages: list[Tensor], alpha: float, mirrored: bool
) -> None:
    """Against the sum over the others; their own maps are no pull towards zero."""
    known = np.array([1.0, 1.0, 0.0])
    student = Student(alpha=alpha, teacher_scale="raw")
    turning = batch | {"mirrored": torch.tensor([mirrored] * 2)}
    masked = replace(objective(student, SWAP), covered_K=(True, True, False))
    heatmaps = [stage.clone().requires_grad_() for stage in stages]
    loss, collapsed_loss, *_ = masked(heatmaps, turning)
    said = teacher_maps(batch, np.ones((2, 3)))
    if mirrored:
        said = said[:, list(SWAP), :, ::-1]
    labels, weights = labels_of(batch["joints"].double().numpy(), 8)
    for found, answers in ((loss, double(stages)), (collapsed_loss, [np.zeros((2, 3, 8, 8))] * 2)):
        expected = sum(
            alpha * squared(stage, said, known) + (1 - alpha) * squared(stage, labels, weights)
            for stage in answers
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
    """With alpha 1, a network that answers the store's maps has no loss."""
    path = WorkDir(toy_work).store
    store = StoreReader(files_at(path), stored_layout(files_at(path)))
    dataset = DistillationViews(stored_views(toy_recipe, toy_samples), store)
    keys = [(3, 0), (17, 1), (8, 1)]
    batch = default_collate([dataset[key] for key in keys])
    answer = torch.cat(
        [torch.from_numpy(read_heatmaps(path, view, [index])) for index, view in keys]
    )
    assert answer.sum() > 0
    if peaks == "unit":
        answer /= batch["peaks"].float().clamp_min(0.1)[..., None, None]
    student = Student(alpha=1.0, teacher_scale=peaks)
    objective = Objective(toy_recipe.targets, 16, student)
    loss, collapsed_loss, *_ = objective([answer, answer], batch)
    assert loss.item() < 1e-9 * collapsed_loss.item()
    assert objective([2 * answer], batch)[0].item() == pytest.approx(
        collapsed_loss.item() / 2, rel=1e-5
    )
