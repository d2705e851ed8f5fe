"""What each head computes, on the store's grid: exact on analytic Gaussians."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fpd.data.geometry import Geometry
from fpd.data.heatmap_codec import decode
from fpd.data.skeletons import LSP
from fpd.pipeline.teachers import TeacherSpec, ensemble_predictor
from fpd.pipeline.teachers.heads import check_output, make_head, sigmas_on_store

CPU = torch.device("cpu")
JOINTS = ("nose", "left eye", "right eye")

# Positions (x, y) in the crop, pixels of 0..127; the middle of the crop, and near an edge.
CROP_XY = np.array([[40.25, 71.5], [63.5, 63.5], [90.75, 12.0]])


def input_positions(spec: TeacherSpec, geometry: Geometry) -> np.ndarray:
    """`CROP_XY` in a teacher's input, which shows the crop in a centered square."""
    height, width = spec.input
    side = min(height, width)
    corner = np.array([(width - side) // 2, (height - side) // 2])
    return (CROP_XY + 0.5) * (side / geometry.crop_px) - 0.5 + corner


def store_positions(geometry: Geometry) -> np.ndarray:
    return (CROP_XY + 0.5) / geometry.stride_px - 0.5


def gaussian(size: int, center: np.ndarray, sigma: float) -> np.ndarray:
    """Height 1, (joints, size)."""
    return np.exp(-((np.arange(size) - center[:, None]) ** 2) / (2 * sigma**2))


def expected_heatmaps(spec: TeacherSpec, geometry: Geometry, heights: np.ndarray) -> Tensor:
    """Gaussians at the positions, with the teacher's sigma on the store's grid."""
    sigmas = sigmas_on_store(spec, geometry)
    assert sigmas is not None
    x, y = store_positions(geometry).T
    size = geometry.heatmap_px
    rows = gaussian(size, y, sigmas[0]) * heights[:, None]
    return torch.from_numpy(rows[:, :, None] * gaussian(size, x, sigmas[1])[:, None, :])[None]


def simcc_output(spec: TeacherSpec, geometry: Geometry, peaks: np.ndarray) -> list[np.ndarray]:
    """What a perfect RTMPose computes: Gaussians along x and y, bin b at pixel b / split_ratio."""
    sigma_yx = spec.sigma_input_px
    assert sigma_yx is not None
    bins_xy = input_positions(spec, geometry).T * spec.split_ratio
    sizes = reversed(spec.bins)
    return [
        gaussian(size, center, sigma * spec.split_ratio) * peaks[:, None]
        for size, center, sigma in zip(sizes, bins_xy, reversed(sigma_yx), strict=True)
    ]


def tensors(arrays: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    x, y = (torch.from_numpy(values).float()[None] for values in arrays)
    return x, y


EVERY = torch.arange(len(JOINTS))


@pytest.mark.parametrize("size", [(256, 192), (256, 256), (384, 288)])
@pytest.mark.parametrize("crop", [(128, 4), (128, 2), (128, 8)])
@pytest.mark.parametrize("ratio", [2.0, 1.0, 3.0])
def test_simcc_is_the_outer_product_of_its_distributions(
    size: tuple[int, int], crop: tuple[int, int], ratio: float
) -> None:
    geometry = Geometry(crop_px=crop[0], stride_px=crop[1])
    spec = TeacherSpec(input=size, joints=JOINTS, head="simcc", split_ratio=ratio)
    peaks = np.array([1.0, 0.8, 0.3])
    heatmaps = make_head(spec, geometry, CPU)(tensors(simcc_output(spec, geometry, peaks)), EVERY)
    expected = expected_heatmaps(spec, geometry, peaks**2)
    torch.testing.assert_close(heatmaps.double(), expected, atol=2e-6, rtol=0)
    joints, _ = decode(heatmaps)
    np.testing.assert_allclose(joints[0], store_positions(geometry), atol=2e-3)


def test_gaussians_of_simcc_keep_their_width_on_a_fine_grid() -> None:
    """Apart from the kernel's: a bin; on a coarse grid, they are 0.75 pixels wide."""
    spec = TeacherSpec(input=(256, 256), joints=JOINTS, head="simcc")
    for stride, expected in ((1, np.hypot(math.sqrt(8), 0.5) / 2), (16, 0.75)):
        sigmas = sigmas_on_store(spec, Geometry(crop_px=128, stride_px=stride))
        assert sigmas == pytest.approx([expected, expected])


def test_the_sigmas_of_rtmpose() -> None:
    """mmpose's configs: (4.9, 5.66) bins for 192 x 256, (6, 6.93) for 288 x 384."""
    for size, sigmas in (((256, 192), (5.66, 4.9)), ((384, 288), (6.93, 6.0))):
        spec = TeacherSpec(input=size, joints=JOINTS, head="simcc")
        assert spec.sigma_input_px is not None
        assert [2 * sigma for sigma in spec.sigma_input_px] == pytest.approx(sigmas, abs=0.005)


def test_heights_of_simcc_follow_mmpose() -> None:
    """Negative values are none; a distribution higher than 1 is scaled to 1."""
    geometry = Geometry(crop_px=128)
    spec = TeacherSpec(input=(256, 192), joints=JOINTS, head="simcc")
    head = make_head(spec, geometry, CPU)
    x, y = tensors(simcc_output(spec, geometry, np.ones(3)))
    plain = head((x, y), EVERY)
    torch.testing.assert_close(head((1.7 * x, y), EVERY), plain, atol=2e-3, rtol=0)
    torch.testing.assert_close(
        head((torch.where(x > 1e-3, x, -1.0), y), EVERY), plain, atol=2e-3, rtol=0
    )
    torch.testing.assert_close(head((0.5 * x, 0.5 * y), EVERY), plain / 4)


def test_simcc_logits_are_distributions_whose_height_is_the_confidence() -> None:
    geometry = Geometry(crop_px=128)
    spec = TeacherSpec(input=(256, 192), joints=JOINTS, head="simcc-logits", sigma_px=6)
    x, y = tensors(simcc_output(spec, geometry, np.ones(3)))
    head = make_head(spec, geometry, CPU)
    sure = head(((x + 1e-12).log() + 5, (y + 1e-12).log() - 3), EVERY)
    same = make_head(spec.model_copy(update={"head": "simcc"}), geometry, CPU)((x, y), EVERY)
    torch.testing.assert_close(sure, same, atol=1e-4, rtol=0)
    unsure = head((torch.zeros_like(x), torch.zeros_like(y)), EVERY)
    assert unsure.max() < 0.01


@pytest.mark.parametrize("grid", ["half-pixel", "origin", "corners"])
@pytest.mark.parametrize("coordinates", ["pixels", "normalized"])
@pytest.mark.parametrize("size", [(256, 192), (256, 256)])
def test_landmarks_are_drawn_at_sub_pixel_positions(
    size: tuple[int, int], coordinates: str, grid: str
) -> None:
    geometry = Geometry(crop_px=128)
    values = ("y", "ignored", "x", "confidence logit")
    spec = TeacherSpec.model_validate(
        {"input": size, "joints": JOINTS, "head": "landmarks", "values": values}
        | {"coordinates": coordinates, "grid": grid}
    )
    xy = input_positions(spec, geometry)
    if coordinates == "normalized":
        side = np.array([size[1], size[0]])
        offset, last = {"half-pixel": (0.5, 0), "origin": (0, 0), "corners": (0, 1)}[grid]
        xy = (xy + offset) / (side - last)
    confidence = np.array([0.9, 0.5, 0.2])
    logits = np.log(confidence / (1 - confidence))
    output = torch.tensor(np.stack([xy[:, 1], 0 * logits, xy[:, 0], logits], -1)).float()[None]
    heatmaps = make_head(spec, geometry, CPU)(output, EVERY)
    torch.testing.assert_close(
        heatmaps.double(), expected_heatmaps(spec, geometry, confidence), atol=1e-4, rtol=0
    )
    joints, peaks = decode(heatmaps)
    np.testing.assert_allclose(joints[0], store_positions(geometry), atol=2e-3)
    assert (peaks[0] <= torch.tensor(confidence) + 1e-6).all()


def test_landmarks_with_a_sigma_of_their_own() -> None:
    spec = TeacherSpec(input=(256, 256), joints=JOINTS, head="landmarks")
    assert sigmas_on_store(spec, Geometry(crop_px=256)) == (2, 2)  # the default
    assert sigmas_on_store(spec, Geometry(crop_px=64)) == (0.75, 0.75)  # no narrower
    spec = TeacherSpec(input=(256, 256), joints=JOINTS, head="landmarks", sigma_px=3)
    assert sigmas_on_store(spec, Geometry(crop_px=256)) == (3, 3)


def test_logits_are_resampled_after_the_sigmoid() -> None:
    geometry = Geometry(crop_px=128)
    spec = TeacherSpec(input=(128, 128), joints=JOINTS, head="logits")
    logits = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(make_head(spec, geometry, CPU)(logits, EVERY), logits.sigmoid())


def outputs_of(spec: TeacherSpec, batch: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    height, width = spec.bins
    joints = len(spec.joints)
    if spec.head.startswith("simcc"):
        return tuple(torch.rand(batch, joints, n, generator=generator) for n in (width, height))
    if spec.head == "landmarks":
        xy = torch.rand(batch, joints, 3, generator=generator)
        return xy * torch.tensor([spec.input[1], spec.input[0], 1.0])
    return torch.rand(batch, joints, *spec.heatmap, generator=generator)


class Fixed:
    """Outputs of its own for the crop and for the flipped crop, which it tells by their sum."""

    digest = "fixed"

    def __init__(self, spec: TeacherSpec, first: Any, second: Any) -> None:
        self.spec, self.outputs = spec, [first, second]

    def __call__(self, crops: Tensor) -> Any:
        return self.outputs.pop(0)


@pytest.mark.parametrize("head", ["heatmaps", "logits", "simcc", "simcc-logits", "landmarks"])
def test_heads_are_averaged_with_the_flipped_crop_as_heatmaps(head: Any) -> None:
    geometry, spec = Geometry(crop_px=64), TeacherSpec(input=(64, 48), joints=LSP.joints, head=head)
    first, second = (outputs_of(spec, 2, seed) for seed in (0, 1))
    crops = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)

    def heatmaps(*outputs: Any, averaged: bool) -> Tensor:
        teacher = Fixed(spec, *outputs)
        return ensemble_predictor([teacher], LSP, geometry, CPU, averaged=averaged)(crops)

    alone = [heatmaps(output, None, averaged=False) for output in (first, second)]
    flipped = alone[1].flip(-1)[:, list(LSP.flip_indices)]
    torch.testing.assert_close(heatmaps(first, second, averaged=True), (alone[0] + flipped) / 2)


@pytest.mark.parametrize(
    ("head", "output", "message"),
    [
        ("simcc", torch.zeros(2, 3, 96), r"simcc of shape \(2, 3, 96\) and \(2, 3, 128\)"),
        (
            "simcc",
            (torch.zeros(2, 3, 96),) * 2,
            r"found \(2, 3, 96\) and \(2, 3, 96\).*split_ratio",
        ),
        ("landmarks", torch.zeros(2, 3, 5), r"found \(2, 3, 5\): correct joints or values"),
        ("heatmaps", torch.zeros(2, 16, 12, 3), r"heatmaps of shape \(2, 3, 16, 12\)"),
        ("logits", (torch.zeros(2, 3, 16, 12),) * 2, "stride_px"),
        ("heatmaps", None, "no tensor"),
    ],
)
def test_outputs_of_another_shape_are_refused(head: Any, output: Any, message: str) -> None:
    spec = TeacherSpec(input=(64, 48), joints=JOINTS, head=head)
    with pytest.raises(ValueError, match=message):
        check_output(output, 2, spec)


@pytest.mark.parametrize("values", [["x", "y"], ["x", "y", "y", "confidence"], []])
def test_landmarks_need_coordinates_and_a_confidence(values: list[str]) -> None:
    with pytest.raises(ValueError, match='"x", "y" and "confidence"'):
        TeacherSpec.model_validate({"input": [64, 64], "joints": ["nose"], "values": values})


def test_entries_of_heatmaps_are_those_of_earlier_versions() -> None:
    """Stores that were made before the other heads existed are continued."""
    spec = TeacherSpec(input=(256, 192), joints=JOINTS)
    assert list(spec.manifest_entry()) == [
        *("input", "joints", "stride_px", "mean_rgb", "std_rgb", "channels", "grid", "peak"),
        "sigma_px",
    ]
    spec = TeacherSpec(input=(256, 192), joints=JOINTS, head="simcc", output=("a", "b"))
    assert TeacherSpec.model_validate_json(spec.model_dump_json()) == spec
    assert TeacherSpec.model_validate(spec.manifest_entry()) == spec
