"""Target heatmaps follow the paper's formula, and decoding recovers the joints."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fpd.data.augmentation import invert, transform
from fpd.data.geometry import Geometry
from fpd.data.heatmap_codec import decode, encode, flip_heatmaps
from fpd.data.sections import Augmentation
from fpd.data.skeletons import LSP
from fpd.data.views import Views

fuzz = settings(deadline=None, max_examples=25, database=None)

SIGMAS = st.sampled_from([1.0, 1.5, 2.0, 3.0])
SIZES = st.sampled_from([16, 32, 64])
# A joint's position in the crop: 0 is one edge, 1 the opposite one.
SHARES = st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=8)

NAN, INF = math.nan, math.inf


def joints(*positions: tuple[float, float]) -> Tensor:
    """One sample: (1, K, 2)."""
    return torch.tensor([positions], dtype=torch.float32)


def equation_2(x: float, y: float, size: int, sigma: float) -> NDArray[np.float64]:
    """Equation 2 pixel by pixel, in float64, without the normalizing factor."""
    return np.array(
        [
            [math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2)) for u in range(size)]
            for v in range(size)
        ]
    )


@fuzz
@given(
    position=st.tuples(*[st.floats(-4, 20, width=32)] * 2),
    sigma=st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    area_normalized=st.booleans(),
)
def test_maps_follow_equation_2(position, sigma, area_normalized) -> None:
    heatmaps, weights = encode(joints(position), 16, sigma, area_normalized=area_normalized)
    expected = equation_2(*position, 16, sigma)
    if area_normalized:
        expected /= 2 * math.pi * sigma**2
    if not all(-0.5 - 3 * sigma < v < 15.5 + 3 * sigma for v in position):
        expected *= 0
    assert heatmaps.shape == (1, 1, 16, 16) and heatmaps.dtype == torch.float32
    assert weights.shape == (1, 1) and weights.dtype == torch.float32
    np.testing.assert_allclose(heatmaps[0, 0].numpy(), expected, atol=1e-6)
    assert weights.item() == float(expected.any())


def test_every_sample_and_joint_has_its_own_map() -> None:
    batch = torch.tensor(
        [[[2.0, 5.0], [7.25, 1.0], [3.0, 3.0]], [[0.0, 0.0], [4.5, 6.5], [7.0, 2.0]]]
    )
    heatmaps, weights = encode(batch, 8, 1.0)
    assert heatmaps.shape == (2, 3, 8, 8) and weights.tolist() == [[1.0] * 3] * 2
    for b in range(2):
        for k in range(3):
            expected = equation_2(*batch[b, k].tolist(), 8, 1.0)
            np.testing.assert_allclose(heatmaps[b, k].numpy(), expected, atol=1e-6)


def test_the_center_is_not_rounded() -> None:
    """The map's center of mass is the joint; between pixels, the peak is below 1."""
    heatmap = encode(joints((30.37, 25.81)), 64, 2.0)[0][0, 0].double()
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    assert ((heatmap * x).sum() / heatmap.sum()).item() == pytest.approx(30.37, abs=1e-3)
    assert ((heatmap * y).sum() / heatmap.sum()).item() == pytest.approx(25.81, abs=1e-3)
    peak = math.exp(-(0.37**2 + 0.19**2) / 8)
    assert heatmap.max().item() == pytest.approx(peak, abs=1e-6)
    assert heatmap[26, 30] == heatmap.max(), "rows are y"


def test_the_peak_is_1_at_a_whole_pixel() -> None:
    assert encode(joints((5.0, 9.0)), 16, 1.0)[0][0, 0, 9, 5] == 1.0


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_area_normalized_maps_sum_to_1(sigma) -> None:
    heatmaps, _ = encode(joints((32.0, 32.0), (30.5, 28.25)), 64, sigma, area_normalized=True)
    np.testing.assert_allclose(heatmaps.sum(dim=(2, 3)).numpy(), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "position",
    [(NAN, NAN), (5.0, NAN), (INF, 5.0), (5.0, -200.0)],
    ids=str,
)
def test_joints_without_a_target(position) -> None:
    heatmaps, weights = encode(joints(position, (5.0, 5.0)), 16, 1.0)
    assert weights.tolist() == [[0.0, 1.0]]
    assert (heatmaps[0, 0] == 0).all(), "NaN x 0 would be NaN in the loss"
    assert heatmaps[0, 1].max() == 1.0


@pytest.mark.parametrize(
    ("sigma", "axis", "side"),
    [(1.0, 0, "low"), (2.0, 0, "high"), (2.0, 1, "low"), (1.0, 1, "high")],
)
def test_joints_have_a_target_up_to_three_sigma_beyond_the_edge(sigma, axis, side) -> None:
    """HRNet's rule: the joint's Gaussian still reaches the map."""
    for beyond, has_target in ((2.9 * sigma, True), (3.1 * sigma, False)):
        position = [8.0, 8.0]
        position[axis] = -0.5 - beyond if side == "low" else 15.5 + beyond
        heatmaps, weights = encode(joints(tuple(position)), 16, sigma)
        assert weights.item() == has_target
        expected = equation_2(*position, 16, sigma) * has_target
        np.testing.assert_allclose(heatmaps[0, 0].numpy(), expected, atol=1e-6)
        assert bool(heatmaps.any()) == has_target


def in_crop(shares: list[tuple[float, float]], size: int) -> list[tuple[float, float]]:
    """Heatmap coordinates of joints in the crop, whose edges are at -0.5 and size - 0.5."""
    return [(-0.5 + x * size, -0.5 + y * size) for x, y in shares]


@fuzz
@given(shares=SHARES, size=SIZES, sigma=SIGMAS, area_normalized=st.booleans())
def test_decode_recovers_the_joints(shares, size, sigma, area_normalized) -> None:
    positions = in_crop(shares, size)
    heatmaps, weights = encode(joints(*positions), size, sigma, area_normalized=area_normalized)
    decoded, peaks = decode(heatmaps)
    assert weights.min() == 1
    assert decoded.shape == (1, len(positions), 2) and decoded.dtype == torch.float32
    assert np.abs(decoded[0].numpy() - positions).max() < 0.05
    np.testing.assert_array_equal(peaks.numpy(), heatmaps.numpy().max(axis=(2, 3)))


def test_joints_on_edges_and_between_pixels_are_recovered() -> None:
    special = [-0.5, 0.0, 0.25, 0.5, 1.0, 7.0, 7.5, 14.5, 15.0, 15.49, 15.5]
    positions = [(x, y) for x in special for y in special]
    for sigma in (0.5, 1.0, 1.5, 2.0, 3.0):
        decoded, _ = decode(encode(joints(*positions), 16, sigma)[0])
        assert np.abs(decoded[0].numpy() - positions).max() < 0.05


def parabola_vertex(line: NDArray[np.float64], top: int) -> float | None:
    """The vertex of the parabola through three logarithms, by `np.polyfit`; None: no maximum.

    The three pixels are the highest one and its neighbors or, at an edge, the three outermost.
    """
    middle = min(max(top, 1), len(line) - 2)
    at = np.arange(middle - 1, middle + 2)
    square, slope, _ = np.polyfit(at - middle, np.log(line[at]), 2)
    if square > -1e-3:
        return None
    return float(np.clip(middle - slope / (2 * square), top - 1, top + 1))


def test_refinement_is_the_parabola_through_three_logarithms() -> None:
    """On maps that are not Gaussians; the vertex is limited to a pixel from the highest one."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(0.05, 1, (1, 400, 6, 5)).astype(np.float32)
    decoded, _ = decode(torch.from_numpy(maps))
    compared = set()
    for heatmap, (x, y) in zip(maps[0].astype(np.float64), decoded[0].tolist(), strict=True):
        row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
        for line, top, position in ((heatmap[row], column, x), (heatmap[:, column], row, y)):
            expected = parabola_vertex(line, int(top))
            if expected is not None:
                assert position == pytest.approx(expected, abs=1e-3)
                compared.add((len(line), int(top)))
    assert compared == {(n, top) for n in (5, 6) for top in range(n)}, "edges included"


def test_maps_need_not_be_square() -> None:
    heatmap = torch.from_numpy(equation_2(10.3, 4.6, 16, 1.5)[:8])
    decoded, peaks = decode(heatmap[None, None])
    np.testing.assert_allclose(decoded[0, 0].numpy(), [10.3, 4.6], atol=1e-3)
    assert decoded.dtype == peaks.dtype == torch.float32


def test_half_precision_maps_are_decoded_in_float32() -> None:
    heatmaps, _ = encode(joints((10.3, 4.6)), 16, 2.0)
    for dtype in (torch.float16, torch.bfloat16):
        decoded, peaks = decode(heatmaps.to(dtype))
        assert decoded.dtype == peaks.dtype == torch.float32
        assert np.abs(decoded[0, 0].numpy() - [10.3, 4.6]).max() < 0.1


def test_joints_are_recovered_through_views_and_heatmaps(make_samples) -> None:
    """Every joint in the crop is recovered in the image to 0.05 heatmap pixels."""
    rng = np.random.default_rng(0)
    samples = make_samples(
        rng.uniform((-60, -70), (160, 150), (40, 14, 2)),
        center=rng.uniform(30, 70, (40, 2)),
        side=rng.uniform(40, 200, 40),
    )
    # Some joints exactly on edges and corners of the center crop.
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (0.0, 0.5)])
    samples.joints_NK2[:, :4] = samples.center_N2[:, None] + samples.side_N[:, None, None] * corners
    for geometry, sigma in ((Geometry(), 1.0), (Geometry(crop_px=64), 2.0)):
        views = Views(samples, geometry, Augmentation(), seed=3)
        counts = {False: 0, True: 0}
        for index in range(len(samples)):
            for number in (-1, 0, 1):
                view = views[index, number]
                target = torch.from_numpy(view["joints"])[None]
                maps, weights = encode(target, geometry.heatmap_px, sigma)
                decoded, _ = decode(maps)
                crop_K2 = geometry.to_crop(decoded[0].double().numpy())
                image_K2 = transform(invert(view["affine"]), crop_K2)
                flipped = bool(view["parameters"][2])
                if flipped:
                    image_K2 = image_K2[list(LSP.flip_indices)]
                exact_K2 = transform(view["affine"], samples.joints_NK2[index])
                low, high = -0.5, geometry.crop_px - 0.5
                inside = ((exact_K2 >= low) & (exact_K2 <= high)).all(axis=-1)
                scale = view["parameters"][0]
                pixel = geometry.stride_px * samples.side_N[index] * scale / geometry.crop_px
                error = np.abs(image_K2 - samples.joints_NK2[index]).max(axis=-1)
                assert (error[inside] < 0.05 * pixel).all()
                has_target = weights[0].numpy()
                if flipped:
                    has_target = has_target[list(LSP.flip_indices)]
                assert has_target[inside].all()
                counts[flipped] += int(inside.sum())
        assert min(counts.values()) > 100


def distance_to_a_maximum(heatmap: Tensor, decoded: Tensor) -> float:
    """The distance along the axes to the nearest of the highest pixels."""
    values = heatmap.float().numpy()
    y, x = np.nonzero(values == values.max())
    return float(np.maximum(np.abs(x - decoded[0].item()), np.abs(y - decoded[1].item())).min())


def awkward_maps() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20, 2, 9, 9, generator=generator)
    plateau = torch.zeros(1, 1, 9, 9)
    plateau[..., 3:6, 2:8] = 1.0
    edge_plateau = torch.zeros(1, 1, 9, 9)
    edge_plateau[..., :3, 7:] = 0.7
    return {
        "noise": noise,
        "negative noise": -noise.abs() - 0.1,
        "smooth noise": torch.nn.functional.avg_pool2d(noise, 3, 1, 1),
        "tiny noise": noise * 1e-30,
        "large noise": noise * 1e30,
        "half noise": noise.half(),
        "3 x 3": noise[..., :3, :3],
        "zero": torch.zeros(1, 1, 9, 9),
        "flat": torch.full((1, 1, 9, 9), 0.3),
        "flat negative": torch.full((1, 1, 9, 9), -0.3),
        "plateau": plateau,
        "plateau at the edge": edge_plateau,
        "plateau above negatives": edge_plateau - 0.5,
        "ramp": torch.arange(81.0).reshape(1, 1, 9, 9),
        "steep ramp": torch.exp(torch.arange(81.0)).reshape(1, 1, 9, 9),
        "faint peak": encode(joints((4.3, 5.2)), 9, 1.0)[0] * 1e-8,
        "peak among negatives": encode(joints((4.3, 5.2)), 9, 1.0)[0] - 0.2,
    }


@pytest.mark.parametrize("kind", awkward_maps())
def test_awkward_maps_give_finite_positions_near_their_maximum(kind) -> None:
    heatmaps = awkward_maps()[kind]
    decoded, peaks = decode(heatmaps)
    assert torch.isfinite(decoded).all() and torch.isfinite(peaks).all()
    for b in range(heatmaps.shape[0]):
        for k in range(heatmaps.shape[1]):
            assert distance_to_a_maximum(heatmaps[b, k], decoded[b, k]) <= 1.0
            assert peaks[b, k] == heatmaps[b, k].max()


def test_a_single_bright_pixel_is_decoded() -> None:
    """In the middle, on edges and in corners."""
    heatmaps = torch.eye(25).reshape(1, 25, 5, 5)
    decoded, _ = decode(heatmaps)
    expected = [[float(i % 5), float(i // 5)] for i in range(25)]
    assert np.abs(decoded[0].numpy() - expected).max() <= 0.5


def test_a_peak_at_the_edge_with_a_broad_base_stays_at_the_edge() -> None:
    """Logarithms that curve upwards have no maximum: the highest pixel is the result."""
    line = torch.tensor([1.0, 0.1, 0.09, 0.08, 0.07])
    decoded, _ = decode((line[:, None] * line)[None, None])
    assert decoded.max() <= 0.5
    decoded, _ = decode((line[:, None] * line).flip(0, 1)[None, None])
    assert decoded.min() >= 3.5


quarters = st.tuples(*[st.integers(-80, 400).map(lambda n: n / 4)] * 2)


@fuzz
@given(positions=st.lists(quarters, min_size=14, max_size=14), sigma=SIGMAS)
def test_maps_of_flipped_joints_are_flipped_maps(positions, sigma) -> None:
    """At any sub-pixel position; left joints become right joints."""
    original = joints(*positions)
    flipped = original[:, list(LSP.flip_indices)] * torch.tensor([-1.0, 1.0]) + torch.tensor(
        [63.0, 0.0]
    )
    maps, weights = encode(original, 64, sigma)
    maps_of_flipped, weights_of_flipped = encode(flipped, 64, sigma)
    np.testing.assert_allclose(
        maps_of_flipped.numpy(), flip_heatmaps(maps, LSP.flip_indices).numpy(), rtol=0, atol=1e-6
    )
    assert torch.equal(weights_of_flipped, weights[:, list(LSP.flip_indices)])


def test_flipping_a_small_example() -> None:
    maps = torch.arange(2 * 3 * 2 * 4.0).reshape(2, 3, 2, 4)
    flipped = flip_heatmaps(maps, (1, 0, 2))
    assert flipped.shape == maps.shape
    assert flipped[1, 0].tolist() == [[35.0, 34.0, 33.0, 32.0], [39.0, 38.0, 37.0, 36.0]]
    assert flipped[0, 2].tolist() == [[19.0, 18.0, 17.0, 16.0], [23.0, 22.0, 21.0, 20.0]]


def test_flipping_twice_changes_nothing() -> None:
    maps = torch.rand(2, 14, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(flip_heatmaps(flip_heatmaps(maps, LSP.flip_indices), LSP.flip_indices), maps)
    assert not torch.equal(flip_heatmaps(maps, LSP.flip_indices), maps)


def test_targets_of_a_flipped_view_are_flipped_targets(make_samples) -> None:
    """A student flips stored maps, a flipped view flips labels: both give the same targets."""
    samples = make_samples(np.random.default_rng(0).uniform(10, 90, (1, 14, 2)))
    geometry = Geometry(crop_px=64)
    views = Views(samples, geometry, Augmentation(), seed=0)
    number = next(v for v in range(20) if views.parameters(0, v)[2])
    view = views[0, number]
    unflipped_K2 = transform(view["affine"], samples.joints_NK2[0])
    unflipped_K2[:, 0] = 63 - unflipped_K2[:, 0]  # the same view, not flipped
    unflipped = torch.from_numpy(geometry.to_heatmap(unflipped_K2).astype(np.float32))[None]
    maps, _ = encode(unflipped, 16, 1.0)
    maps_of_view, _ = encode(torch.from_numpy(view["joints"])[None], 16, 1.0)
    np.testing.assert_allclose(
        maps_of_view.numpy(), flip_heatmaps(maps, LSP.flip_indices).numpy(), rtol=0, atol=1e-5
    )
