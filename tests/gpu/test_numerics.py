"""Encoding, losses and predictions in float32: a GPU's results are the CPU's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpd.data.heatmap_codec import decode, encode, flip_heatmaps
from fpd.data.skeletons import LSP
from fpd.data.views import Geometry
from fpd.pipeline.config.sections import Student, Targets
from fpd.pipeline.evaluation.inference import average_scales
from fpd.pipeline.models.checkpoint import to_device
from fpd.pipeline.models.offset import fix_offset
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.store import compress, decompress
from fpd.pipeline.store.compression import FAINT_PEAK
from fpd.pipeline.teachers.resampling import HeatmapResampler, letterbox
from fpd.pipeline.teachers.spec import TeacherSpec
from fpd.pipeline.training.losses import LossName, heatmap_loss
from fpd.pipeline.training.objective import Objective

from .comparing import (
    CPU,
    JOINTS,
    build_network,
    random_heatmaps,
    random_joints,
    relative_difference,
)

pytestmark = pytest.mark.gpu

SIZE_PX = 20  # no multiple of a block
VIEWS = 6
MAX_ERROR = 0.05
FLIP = LSP.flip_indices


# Heatmaps


@pytest.mark.parametrize("area_normalized", [False, True])
def test_labels_are_encoded_alike(device: torch.device, area_normalized: bool) -> None:
    joints = random_joints(VIEWS, SIZE_PX)
    expected = encode(joints, SIZE_PX, 1.5, area_normalized=area_normalized)
    found = encode(joints.to(device), SIZE_PX, 1.5, area_normalized=area_normalized)
    assert found[0].device.type == device.type
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1].cpu(), expected[1])
    assert 0 < expected[1].mean() < 1


def test_joints_are_decoded_alike(device: torch.device) -> None:
    joints = random_joints(VIEWS, SIZE_PX)
    maps, weights = encode(joints, SIZE_PX, 1.5)
    labeled = weights.bool()
    expected, expected_peaks = decode(maps)
    found, peaks = (values.cpu() for values in decode(maps.to(device)))
    torch.testing.assert_close(found[labeled], expected[labeled], rtol=0, atol=1e-3)
    torch.testing.assert_close(peaks, expected_peaks, rtol=1e-6, atol=0)
    inside = labeled & ((joints > 0) & (joints < SIZE_PX - 1)).all(-1)
    torch.testing.assert_close(found[inside], joints[inside], rtol=0, atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_heatmaps_are_flipped_alike(device: torch.device, dtype: torch.dtype) -> None:
    maps = (100 * random_heatmaps(VIEWS, SIZE_PX)).to(dtype)
    found = flip_heatmaps(maps.to(device), FLIP)
    assert torch.equal(found.cpu(), flip_heatmaps(maps, FLIP))


def test_heatmaps_of_several_scales_are_averaged_alike(device: torch.device) -> None:
    maps, scales = random_heatmaps(VIEWS, SIZE_PX), (0.8, 1.0, 1.25)
    found = average_scales(maps.to(device), scales).cpu()
    torch.testing.assert_close(found, average_scales(maps, scales), rtol=1e-4, atol=1e-5)


def test_what_the_device_compresses_the_cpu_decompresses_within_the_bound(
    device: torch.device,
) -> None:
    maps = random_heatmaps(40, SIZE_PX)
    compressed = compress(maps.to(device), MAX_ERROR)
    coefficients, steps, peaks = (values.cpu() for values in compressed)
    decoded = decompress(coefficients, steps, SIZE_PX)
    error = (decoded - maps).abs().amax((-2, -1)) / peaks.float().clamp_min(FAINT_PEAK)
    assert float(error.max()) <= MAX_ERROR
    assert torch.equal(peaks, maps.amax((-2, -1)).half())
    # Rounding decides a few steps, no more.
    assert (steps == compress(maps, MAX_ERROR).steps).float().mean() > 0.9
    assert 0 < (steps < 0).float().mean() < 1  # both kinds of encoding

    on_device = decompress(compressed.coefficients, compressed.steps, SIZE_PX)
    torch.testing.assert_close(on_device.cpu(), decoded, rtol=1e-5, atol=1e-5)


# Losses


def distillation_batch(views: int = VIEWS, size_px: int = SIZE_PX) -> dict[str, Tensor]:
    compressed = compress(random_heatmaps(views, size_px), MAX_ERROR)
    return {
        "joints": random_joints(views, size_px),
        "coefficients": compressed.coefficients,
        "steps": compressed.steps,
        "peaks": compressed.peaks,
        "flipped": torch.arange(views) % 2 == 0,
    }


@pytest.mark.parametrize("loss", ["mse", "bce", "kl"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_their_gradients_are_alike(
    device: torch.device, loss: LossName, weighted: bool
) -> None:
    target, output = random_heatmaps(VIEWS, SIZE_PX), random_heatmaps(VIEWS, SIZE_PX, seed=1)
    weights = torch.rand(VIEWS, JOINTS) if weighted else None
    results = []
    for where in (CPU, device):
        stage = output.clamp(0.01, 0.99).to(where).requires_grad_()
        value = heatmap_loss(
            stage, target.to(where), None if weights is None else weights.to(where), loss
        )
        value.backward()
        assert stage.grad is not None
        results.append((value.item(), stage.grad.cpu()))
    (expected, expected_gradient), (found, gradient) = results
    assert found == pytest.approx(expected, rel=1e-5)
    assert relative_difference(gradient, expected_gradient) < 1e-5


COVERED = tuple(joint % 3 > 0 for joint in range(JOINTS))
OBJECTIVES = {
    "labels": Objective(Targets(), SIZE_PX),
    "labels, kl": Objective(Targets(), SIZE_PX, loss="kl"),
    "labels, bce": Objective(Targets(), SIZE_PX, loss="bce"),
    "alpha = 0": Objective(Targets(), SIZE_PX, Student(alpha=0)),
    "distilled": Objective(Targets(), SIZE_PX, Student()),
    "distilled, kl": Objective(Targets(), SIZE_PX, Student(loss="kl"), loss="kl"),
    "flipped": Objective(Targets(), SIZE_PX, Student(), FLIP),
    "flipped, weighted, covered": Objective(
        Targets(area_normalized=True),
        SIZE_PX,
        Student(confidence_weighting=True, kd_visible_only=True, teacher_scale=0.5),
        FLIP,
        covered_K=COVERED,
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_are_alike(device: torch.device, name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    shape = (VIEWS, JOINTS, SIZE_PX, SIZE_PX)
    outputs = [torch.randn(shape, generator=generator).sigmoid() for _ in range(2)]
    results = []
    for where in (CPU, device):
        stages = [output.clone().to(where).requires_grad_() for output in outputs]
        losses = OBJECTIVES[name](stages, distillation_batch())  # as loaders give it, on the CPU
        losses.loss.backward()
        gradient = torch.cat([stage.grad.cpu().flatten() for stage in stages])  # type: ignore[union-attr]
        results.append(([loss.item() for loss in losses if loss is not None], gradient))
    (expected, expected_gradient), (found, gradient) = results
    assert found == pytest.approx(expected, rel=1e-5)
    assert relative_difference(gradient, expected_gradient) < 1e-5


# Networks


def random_crops(views: int = VIEWS, crop_px: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (views, crop_px, crop_px, 3), generator=generator).byte()


def test_crops_are_normalized_alike(device: torch.device) -> None:
    found = normalize(random_crops(), device)
    assert found.device.type == device.type and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.cpu(), normalize(random_crops(), CPU), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("flip_indices", [None, FLIP])
@pytest.mark.parametrize("log_mass", [None, 7.0])
@torch.inference_mode()
def test_networks_predict_alike(
    device: torch.device, flip_indices: tuple[int, ...] | None, log_mass: float | None
) -> None:
    crops = random_crops()
    heatmaps = [
        make_predictor(
            to_device(fix_offset(build_network(), log_mass), where).eval(), where, flip_indices
        )(crops).cpu()
        for where in (CPU, device)
    ]
    assert relative_difference(heatmaps[1], heatmaps[0]) < 1e-4


@torch.inference_mode()
def test_flip_averaged_heatmaps_of_flipped_crops_are_flipped(device: torch.device) -> None:
    predictor = make_predictor(to_device(build_network(), device).eval(), device, FLIP)
    heatmaps = predictor(random_crops())
    of_flipped = predictor(random_crops().flip(2))
    assert relative_difference(of_flipped, flip_heatmaps(heatmaps, FLIP)) < 1e-5


@torch.inference_mode()
def test_external_teachers_have_the_same_inputs_and_outputs(device: torch.device) -> None:
    """Crops of 64 x 64 in an input of 96 x 72, and maps of it on the grid of the students."""
    spec = TeacherSpec(
        input=(96, 72), joints=LSP.joints, stride_px=4, peak=0.5, sigma_px=1.5, channels="bgr"
    )
    crops = random_crops().permute(0, 3, 1, 2).float()
    maps = torch.rand(VIEWS, JOINTS, 24, 18)
    geometry = Geometry(crop_px=64)
    found = letterbox(crops.to(device), spec)
    torch.testing.assert_close(found.cpu(), letterbox(crops, spec), rtol=1e-4, atol=1e-4)
    expected = HeatmapResampler(spec, geometry, CPU)(maps)
    resampled = HeatmapResampler(spec, geometry, device)(maps.to(device))
    assert resampled.shape[-2:] == (16, 16)
    torch.testing.assert_close(resampled.cpu(), expected, rtol=1e-4, atol=1e-5)
