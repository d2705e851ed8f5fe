"""Parity of two runs: heatmaps everywhere, joints only where the heatmaps determine them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpd.data.heatmap_codec import decode, encode
from fpd.pipeline.models.export.deployable import ModelOutput, ModelRunner
from fpd.pipeline.models.export.parity import (
    HEATMAP_TOLERANCE,
    JOINT_TOLERANCE_PX,
    Difference,
    compare,
    determined,
)

STRIDE_PX, SIDE_PX = 4, 16
LAST_BIT = 2.0**-24
"""An ulp of a float32 just below 1."""


def crops(count: int = 1) -> NDArray[np.uint8]:
    """The index of each crop in its pixels: uint8 (N, 64, 64, 3)."""
    side = STRIDE_PX * SIDE_PX
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, 3)
    )


def runner(heatmaps_NKHW: Tensor, *, moved_px: float = 0.0) -> ModelRunner:
    """A model with fixed heatmaps, whose decoder is off by `moved_px` for the last joint."""
    joints, peaks = decode(heatmaps_NKHW)
    in_crop = (joints + 0.5) * STRIDE_PX - 0.5
    in_crop[:, -1] += moved_px
    output = ModelOutput(in_crop.numpy(), peaks.numpy(), heatmaps_NKHW.float().numpy())

    def run(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        indices = crops_BSS3[:, 0, 0, 0]
        return ModelOutput(*(part[indices] for part in output))

    return run


def gaussians(*joints: tuple[float, float], sigma_px: float = 1.5) -> Tensor:
    """One heatmap per joint, (x, y) in heatmap pixels: float32 (1, K, 16, 16)."""
    return encode(torch.tensor([joints]), SIDE_PX, sigma_px)[0]


def two_maxima() -> tuple[Tensor, Tensor]:
    """Heatmaps of a joint with two equal peaks and of one with a single peak, in two variants:
    another of the equal peaks is the higher one, by the last bit."""
    heatmaps = gaussians((4.0, 3.0), (8.3, 6.6))
    heatmaps[:, 0] = torch.maximum(heatmaps[:, 0], gaussians((12.0, 11.0))[:, 0])
    first, second = heatmaps.clone(), heatmaps.clone()
    first[0, 0, 11, 12] -= LAST_BIT
    second[0, 0, 3, 4] -= LAST_BIT
    return first, second


def flat() -> tuple[Tensor, Tensor]:
    """A joint whose heatmap is constant up to the last bits, and one with a single peak."""
    heatmaps = torch.cat([torch.full((1, 1, 16, 16), 0.01), gaussians((8.3, 6.6))], dim=1)
    first, second = heatmaps.clone(), heatmaps.clone()
    first[0, 0, 2, 3] += 1e-9
    second[0, 0, 13, 12] += 1e-9
    return first, second


@pytest.mark.parametrize("pair", [two_maxima, flat])
def test_a_joint_that_the_last_bit_decides_is_not_compared(pair: object) -> None:
    first, second = pair()  # type: ignore[operator]
    moved = (decode(first)[0] - decode(second)[0]).abs().amax(-1)[0]
    assert moved[0] > 5 and moved[1] == 0  # the joint does differ, by many crop pixels
    difference = compare(runner(first), runner(second), crops())
    difference.check()
    assert (difference.joints, difference.joints_compared) == (2, 1)
    assert difference.heatmap < 1e-6
    assert difference.joint_px == 0


@pytest.mark.parametrize("pair", [two_maxima, flat])
@pytest.mark.parametrize("moved_px", [2 * JOINT_TOLERANCE_PX, 20.0, float("nan")])
def test_a_wrong_joint_is_refused(pair: object, moved_px: float) -> None:
    first, second = pair()  # type: ignore[operator]
    difference = compare(runner(first), runner(second, moved_px=moved_px), crops())
    with pytest.raises(ValueError, match=r"crop pixels.*1 of 2 joints.*--format"):
        difference.check()


def test_a_joint_that_is_not_finite_is_refused_even_where_it_is_not_compared() -> None:
    first, second = two_maxima()
    swapped = runner(second.flip(1), moved_px=float("nan"))  # the ambiguous joint is the last one
    difference = compare(runner(first.flip(1)), swapped, crops())
    with pytest.raises(ValueError, match=r"found .* and inf"):
        difference.check()


@pytest.mark.parametrize("change", [2 * HEATMAP_TOLERANCE, float("nan")])
def test_heatmaps_are_compared_everywhere(change: float) -> None:
    first, second = two_maxima()
    second[0, 0, 0, 0] += change
    with pytest.raises(ValueError, match=r"heatmaps within 0\.0001"):
        compare(runner(first), runner(second), crops()).check()
    with pytest.raises(ValueError, match=r"heatmaps within 0\.0001"):
        compare(runner(second), runner(first), crops()).check()


def test_heatmaps_are_compared_relative_to_the_highest_pixel() -> None:
    first, second = 50 * gaussians((4.0, 3.0)), 50 * gaussians((4.0, 3.0))
    second[0, 0, 0, 0] += 10 * HEATMAP_TOLERANCE
    difference = compare(runner(first), runner(second), crops())
    assert difference.heatmap == pytest.approx(0.2 * HEATMAP_TOLERANCE, rel=0.01)


@pytest.mark.parametrize("noise", [1e-9, 1e-7, 1e-5])
@pytest.mark.parametrize("contrast", [1e-6, 1e-3, 1.0])
def test_compared_joints_keep_the_tolerance_whatever_the_last_bits_are(
    noise: float, contrast: float
) -> None:
    """On maps without any structure, whose peaks are blunt, close to each other, or at an edge."""
    generator = torch.Generator().manual_seed(0)
    first = 0.1 + contrast * torch.rand(200, 4, 8, 8, generator=generator)
    second = first + noise * (2 * torch.rand(first.shape, generator=generator) - 1)
    difference = (first - second).abs().amax((-2, -1))
    tolerance_px = JOINT_TOLERANCE_PX / STRIDE_PX
    compared = determined(first, difference, tolerance_px)
    moved = (decode(first)[0] - decode(second)[0]).abs().amax(-1)
    assert (moved[compared] <= tolerance_px).all()
    if contrast / noise > 1e6:
        assert compared.float().mean() > 0.95


def test_clear_peaks_are_all_compared() -> None:
    """Anywhere within the pixel and at the edges, however high, in batches of several sizes."""
    generator = torch.Generator().manual_seed(0)
    joints = torch.rand(12, 8, 2, generator=generator) * 17 - 1
    heights = 10 ** (torch.rand(12, 8, 1, 1, generator=generator) * 3 - 3)
    heatmaps = heights * encode(joints, SIDE_PX, 1.5)[0]
    sizes: list[int] = []
    reference = runner(heatmaps)

    def other(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        sizes.append(len(crops_BSS3))
        return runner(heatmaps * (1 + 1e-6))(crops_BSS3)

    difference = compare(reference, other, crops(12))
    difference.check()
    assert difference.joints_compared > 0.9 * difference.joints == 0.9 * 96
    assert sizes == [1, 2, 5, 1, 2, 1]


def test_quantized_heatmaps_have_their_joints_compared_where_the_peak_is_the_same() -> None:
    """Two peaks of nearly equal height are decided by an error of 0.04, a single peak is not."""
    first = gaussians((4.0, 3.0), (8.3, 6.6))
    first[:, 0] = torch.maximum(first[:, 0], 0.97 * gaussians((12.0, 11.0))[:, 0])
    second = first.clone()
    second[0, 0, 3, 4] -= 0.04
    second[0, 1, 7, 9] += 0.04
    difference = compare(runner(first), runner(second), crops(), joint_tolerance_px=None)
    assert difference.heatmap == pytest.approx(0.04, rel=0.01)
    assert difference.joints_compared == 1
    assert difference.joint_px is not None and 0.1 < difference.joint_px < 2
    assert difference.joint_px_mean == pytest.approx(difference.joint_px / 2)  # y is the same


def test_no_joint_may_be_comparable() -> None:
    first, second = (heatmaps[:, :1] for heatmaps in flat())
    difference = compare(runner(first), runner(second), crops())
    difference.check()
    assert (difference.joints_compared, difference.joint_px, difference.joint_px_mean) == (
        0,
        None,
        None,
    )


def test_tolerances_are_inclusive() -> None:
    exact = Difference(1, HEATMAP_TOLERANCE, 1, 1, JOINT_TOLERANCE_PX, 0.0)
    exact.check()
    for wrong in (replace(exact, heatmap=float("inf")), replace(exact, joint_px=float("inf"))):
        with pytest.raises(ValueError, match="no file was written"):
            wrong.check()
