"""Crops to a teacher's input and its heatmaps back, against Gaussians at known positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpd.data.geometry import Geometry
from fpd.data.heatmap_codec import decode
from fpd.pipeline.teachers.resampling import HeatmapResampler, letterbox, letterbox_placement
from fpd.pipeline.teachers.spec import TeacherSpec

CPU = torch.device("cpu")
Array = NDArray[np.float64]


def spec_of(**changes: object) -> TeacherSpec:
    return TeacherSpec.model_validate({"input": (64, 64), "joints": ("nose",)} | changes)


def drawn(at_N2: Array, shape: tuple[int, int], sigma: float) -> Tensor:
    """Gaussians at (x, y), pixel by pixel from the formula, float32 (1, N, H, W)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    square = (columns - at_N2[:, 0, None, None]) ** 2 + (rows - at_N2[:, 1, None, None]) ** 2
    return torch.from_numpy(np.exp(-square / (2 * sigma**2))).float()[None]


# A teacher's input (height, width), stride and sigma; the side of our crops, of stride 4; the grid.
CASES = [
    ((256, 256), 4, 2.0, 256, "half-pixel"),  # the same grid
    ((256, 256), 4, 2.0, 256, "origin"),
    ((256, 192), 4, 2.0, 256, "corners"),  # ViTPose: 3/4 as large, from row 32 on
    ((256, 192), 4, 2.0, 128, "corners"),  # 3/2 as large
    ((192, 256), 4, 2.0, 256, "half-pixel"),
    ((256, 256), 2, 3.0, 256, "origin"),  # twice the resolution
    ((256, 256), 8, 1.0, 256, "half-pixel"),  # half the resolution
    ((255, 128), 1, 6.0, 256, "half-pixel"),  # an odd rest: half a pixel off center
]


@pytest.mark.parametrize(("size", "stride", "sigma", "crop", "grid"), CASES)
def test_resampling_does_not_move_joints(
    size: tuple[int, int], stride: int, sigma: float, crop: int, grid: str
) -> None:
    """Drawn in the teacher's heatmaps by its own convention, decoded from ours."""
    spec = spec_of(input=size, stride_px=stride, grid=grid)
    geometry = Geometry(crop_px=crop)
    crop_N2 = np.random.default_rng(0).uniform(0.2 * crop, 0.8 * crop, (100, 2))
    # By hand: the edges of the crop, -0.5 and S - 0.5, are the edges of the centered square.
    side = min(size)
    left, top = (size[1] - side) // 2, (size[0] - side) // 2
    input_N2 = (crop_N2 + 0.5) / crop * side + (left, top) - 0.5
    map_hw = (size[0] // stride, size[1] // stride)
    map_N2 = {
        "half-pixel": (input_N2 + 0.5) / stride - 0.5,
        "origin": input_N2 / stride,
        "corners": input_N2 * ((map_hw[1] - 1) / (size[1] - 1), (map_hw[0] - 1) / (size[0] - 1)),
    }[grid]
    maps = HeatmapResampler(spec, geometry, CPU)(drawn(map_N2, map_hw, sigma))
    assert maps.shape == (1, 100, geometry.heatmap_px, geometry.heatmap_px)
    found_N2, peaks_N = (value[0].double().numpy() for value in decode(maps))
    off_N = np.linalg.norm(found_N2 - geometry.to_heatmap(crop_N2), axis=1)
    assert off_N.max() < 0.05
    assert 0.75 < peaks_N.min() <= peaks_N.max() < 1.02


def test_heatmaps_on_the_same_grid_are_unchanged() -> None:
    maps = torch.rand(2, 1, 16, 16) - 0.5
    same = HeatmapResampler(spec_of(), Geometry(crop_px=64), CPU)
    torch.testing.assert_close(same(maps), maps, rtol=0, atol=0)
    halved = HeatmapResampler(spec_of(peak=2.0), Geometry(crop_px=64), CPU)
    torch.testing.assert_close(halved(maps), maps / 2, rtol=0, atol=0)


def test_constant_heatmaps_stay_constant_up_to_the_edges() -> None:
    """The weights of every pixel add up to one."""
    for grid in ("half-pixel", "corners", "origin"):
        spec = spec_of(input=(96, 64), grid=grid)
        maps = HeatmapResampler(spec, Geometry(crop_px=128), CPU)(torch.full((1, 1, 24, 16), 0.7))
        torch.testing.assert_close(maps, torch.full((1, 1, 32, 32), 0.7))


def test_the_crop_is_letterboxed() -> None:
    spec = spec_of(input=(96, 64), mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1))
    crop = torch.full((1, 3, 32, 32), 255.0)
    padded = letterbox(crop, spec)
    assert padded.shape == (1, 3, 96, 64)
    assert letterbox_placement(spec) == (64, 16, 0)
    torch.testing.assert_close(padded[:, :, 16:80], torch.ones(1, 3, 64, 64))
    assert not padded[:, :, :16].any()  # black
    assert not padded[:, :, 80:].any()


def test_resized_crops_follow_the_half_pixel_convention() -> None:
    """The center of mass of a small blob, downsampled 4 x and upsampled 3 x."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    blob = 255 * torch.exp(-((columns - 40.3) ** 2 + (rows - 21.8) ** 2) / 18)
    for side in (16, 192):
        spec = spec_of(input=(side, side), mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1))
        resized = letterbox(blob.expand(1, 3, 64, 64), spec)[0, 0].double()
        grid = torch.arange(side, dtype=torch.float64)
        x, y = (resized.sum(0) @ grid / resized.sum(), resized.sum(1) @ grid / resized.sum())
        assert x.item() == pytest.approx(40.8 * side / 64 - 0.5, abs=0.01)
        assert y.item() == pytest.approx(22.3 * side / 64 - 0.5, abs=0.01)


def test_downsampling_is_antialiased() -> None:
    """A checkerboard of single pixels becomes gray, not black or white."""
    board = 255.0 * ((torch.arange(64)[:, None] + torch.arange(64)) % 2)
    spec = spec_of(input=(16, 16), stride_px=4, mean_rgb=(0, 0, 0), std_rgb=(1, 1, 1))
    resized = letterbox(board.expand(1, 3, 64, 64), spec)
    torch.testing.assert_close(resized, torch.full_like(resized, 0.5), atol=0.02, rtol=0)


def test_channels_are_normalized_and_ordered_as_in_the_spec() -> None:
    crop = torch.tensor([51.0, 102.0, 204.0])[None, :, None, None].expand(1, 3, 64, 64)
    numbers = {"mean_rgb": (0.1, 0.2, 0.3), "std_rgb": (0.5, 0.25, 0.125)}
    expected = torch.tensor([(0.2 - 0.1) / 0.5, (0.4 - 0.2) / 0.25, (0.8 - 0.3) / 0.125])
    rgb = letterbox(crop, spec_of(**numbers))
    torch.testing.assert_close(rgb[0, :, 5, 7], expected)
    bgr = letterbox(crop, spec_of(channels="bgr", **numbers))
    torch.testing.assert_close(bgr, rgb[:, [2, 1, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": (66, 64)}, "multiples of stride_px = 4"),
        ({"input": (4096, 64)}, "16 to 2048 pixels"),
        ({"input": (16, 16), "stride_px": 8}, "at least 3 x 3 pixels"),
        ({"std_rgb": (1, 0, 1)}, "std_rgb above zero"),
    ],
)
def test_invalid_specs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(**changes)
