"""Eq. 3 to 5 of the paper against loops over single pixels in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fpd.pipeline.training.losses import distillation_loss, heatmap_loss, supervised_loss

Array = NDArray[np.float64]


def mse(m: Array, target: Array, weights: Array | None = None) -> float:
    """Eq. 3 and 4: 1/K times the sum over joints of ||m_k - target_k||^2, averaged over images."""
    total = 0.0
    for b in range(m.shape[0]):
        for k in range(m.shape[1]):
            squares = 0.0
            for y in range(m.shape[2]):
                for x in range(m.shape[3]):
                    squares += float(m[b, k, y, x] - target[b, k, y, x]) ** 2
            total += squares * (1.0 if weights is None else float(weights[b, k]))
    return total / (m.shape[0] * m.shape[1])


class Case:
    """Random heatmaps of some stages, label heatmaps and weights, and teacher heatmaps."""

    def __init__(self, seed: int, batch: int = 2, joints: int = 3, stages: int = 2) -> None:
        rng = np.random.default_rng(seed)
        shape = (batch, joints, 4, 5)
        self.stages = [rng.normal(size=shape).astype(np.float32) for _ in range(stages)]
        self.labels = rng.random(shape).astype(np.float32)
        self.teacher = rng.random(shape).astype(np.float32)
        self.weights = rng.integers(0, 2, (batch, joints)).astype(np.float32)

    def tensors(self) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        stages = [torch.from_numpy(stage) for stage in self.stages]
        rest = (torch.from_numpy(a) for a in (self.labels, self.weights, self.teacher))
        return stages, *rest

    def supervised(self) -> float:
        return sum(mse(m, self.labels, self.weights) for m in self.stages)

    def distilled(self) -> float:
        return sum(mse(m, self.teacher) for m in self.stages)


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    joints=st.integers(1, 4),
    stages=st.integers(1, 3),
)


def test_by_hand() -> None:
    heatmaps = torch.zeros(1, 2, 2, 2)
    target = torch.tensor([[[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0], [0.0, 0.0]]]])
    # Joint 0: 1 + 4; joint 1: 9; over 2 joints.
    assert heatmap_loss(heatmaps, target, None).item() == 7.0
    assert heatmap_loss(heatmaps, target, torch.tensor([[1.0, 0.0]])).item() == 2.5


@settings(deadline=None, max_examples=25)
@given(cases)
def test_supervised_is_eq_3_at_every_stage(case: Case) -> None:
    stages, labels, weights, _ = case.tensors()
    found = supervised_loss(stages, labels, weights)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(case.supervised(), rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(cases, st.floats(0, 1))
def test_distillation_is_eq_5_at_every_stage(case: Case, alpha: float) -> None:
    stages, labels, weights, teacher = case.tensors()
    expected = alpha * case.distilled() + (1 - alpha) * case.supervised()
    terms = distillation_loss(stages, labels, weights, teacher, alpha)
    assert terms.pose_loss.item() == pytest.approx(case.supervised(), rel=1e-5, abs=1e-9)
    assert terms.kd_pose_loss.item() == pytest.approx(case.distilled(), rel=1e-5, abs=1e-9)
    assert terms.loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_stages_add_up() -> None:
    stages, labels, weights, teacher = Case(1, stages=3).tensors()
    parts = [supervised_loss([stage], labels, weights).item() for stage in stages]
    assert supervised_loss(stages, labels, weights).item() == pytest.approx(sum(parts), rel=1e-6)
    parts = [distillation_loss([s], labels, weights, teacher, 0.3).loss.item() for s in stages]
    whole = distillation_loss(stages, labels, weights, teacher, 0.3).loss.item()
    assert whole == pytest.approx(sum(parts), rel=1e-6)


def test_alpha_0_is_labels_only_and_alpha_1_is_the_teacher_only() -> None:
    case = Case(2)
    stages, labels, weights, teacher = case.tensors()
    none = distillation_loss(stages, labels, weights, teacher, 0.0).loss.item()
    full = distillation_loss(stages, labels, weights, teacher, 1.0).loss.item()
    assert none == pytest.approx(supervised_loss(stages, labels, weights).item(), rel=1e-6)
    assert full == pytest.approx(case.distilled(), rel=1e-5)


def test_weights_mask_the_labels_and_not_the_teacher() -> None:
    stages, labels, _, teacher = Case(3).tensors()
    zeros = torch.zeros(labels.shape[:2])
    stages[0].requires_grad_()
    assert supervised_loss(stages, labels, zeros).item() == 0
    distillation_loss(stages, labels, zeros, teacher, 0.5).loss.backward()
    # The gradient of 0.5 * mean over B * K joints of squared error: (m - t) / (B * K).
    expected = (stages[0].detach() - teacher) / zeros.numel()
    torch.testing.assert_close(stages[0].grad, expected)


def test_a_masked_joint_counts_in_the_mean() -> None:
    """1/K is over all K joints (eq. 3): masking a joint does not raise the others' part."""
    heatmaps, target = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    assert heatmap_loss(heatmaps, target, torch.tensor([[1.0, 0.0]])).item() == 0.5


@pytest.mark.parametrize(
    ("dtype", "target_dtype"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_half_precision_heatmaps_are_compared_in_float32(
    dtype: torch.dtype, target_dtype: torch.dtype
) -> None:
    # The square of 300, and the sum of 64 of them, are beyond float16; 299.75 is beyond bfloat16.
    heatmaps = torch.full((1, 1, 8, 8), 300.0, dtype=dtype)
    labels = torch.full((1, 1, 8, 8), 0.25, dtype=target_dtype)
    found = supervised_loss([heatmaps], labels, torch.ones(1, 1))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(64 * 299.75**2, rel=1e-6)
    teacher = torch.full((1, 1, 8, 8), 0.5, dtype=target_dtype)
    found = distillation_loss([heatmaps], labels, torch.ones(1, 1), teacher, 0.5).loss
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(32 * (299.5**2 + 299.75**2), rel=1e-6)


# Other losses


def test_binary_cross_entropy_by_hand() -> None:
    heatmaps = torch.tensor([[[[0.5, 0.9], [0.1, 0.25]]]])
    target = torch.tensor([[[[1.0, 1.3], [0.0, 0.5]]]])  # above 1 counts as 1
    expected = -(np.log(0.5) + np.log(0.9) + np.log(0.9) + (np.log(0.25) + np.log(0.75)) / 2)
    found = heatmap_loss(heatmaps, target, None, "bce")
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert heatmap_loss(heatmaps, target, torch.tensor([[0.5]]), "bce").item() == pytest.approx(
        expected / 2, rel=1e-6
    )


def test_kl_divergence_by_hand() -> None:
    heatmaps, target = [[0.1, 0.0], [0.3, 0.2]], [[1.0, 0.2], [0.0, 0.1]]
    p = np.exp(10 * np.array(target)) / np.exp(10 * np.array(target)).sum()
    q = np.exp(10 * np.array(heatmaps)) / np.exp(10 * np.array(heatmaps)).sum()
    maps = torch.tensor([[heatmaps]]), torch.tensor([[target]])
    found = heatmap_loss(maps[0], maps[1], None, "kl")
    assert found.item() == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-5)
    same = heatmap_loss(maps[1] + 0.7, maps[1], None, "kl")  # its offset does not matter
    assert same.item() == pytest.approx(0, abs=1e-6)


@settings(deadline=None, max_examples=10)
@given(cases)
def test_each_term_has_its_own_loss_and_weights(case: Case) -> None:
    stages, labels, weights, teacher = case.tensors()
    stages = [stage.sigmoid() for stage in stages]
    confidence = torch.rand(weights.shape)
    expected = sum(
        0.3 * heatmap_loss(m, teacher, confidence, "kl")
        + 0.7 * heatmap_loss(m, labels, weights, "bce")
        for m in stages
    )
    found = distillation_loss(
        stages, labels, weights, teacher, 0.3, confidence, loss="bce", kd_loss="kl"
    ).loss
    assert found.item() == pytest.approx(float(expected), rel=1e-5)
