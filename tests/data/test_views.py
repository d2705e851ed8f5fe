"""Views: joints and pixels are transformed together, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from fpd.data.augmentation import affine_23, draw_parameters, invert, transform
from fpd.data.geometry import Geometry
from fpd.data.io.images import ImageFolder
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import id_hash
from fpd.data.sections import Augmentation
from fpd.data.skeletons import LSP
from fpd.data.views import CENTER_CROP, TeacherCrop, Views, crop_image

fuzz = settings(deadline=None, max_examples=25, database=None)

CROP = Geometry(crop_px=96, stride_px=4)
STRONG = Augmentation(scale=(0.7, 1.4), rotation_deg=180)

# One blob per channel, at joints that a flip renames.
RED, GREEN, BLUE = "right ankle", "left wrist", "neck"
BLOBS = {RED: (41.3, 52.8), GREEN: (73.65, 37.2), BLUE: (58.1, 68.45)}
SHIFT = 6  # cv2.circle takes positions in 64ths of a pixel


def blob_image(width: int, height: int, blobs: dict[str, tuple[float, float]], radius: float):
    """Bright round blobs on black, one in each of R, G, B, uint8 (H, W, 3).

    Discs drawn by OpenCV at sub-pixel positions, then blurred, which keeps their centroids.
    """
    channels = []
    for x, y in blobs.values():
        channel = np.zeros((height, width), np.uint8)
        center = round(x * 2**SHIFT), round(y * 2**SHIFT)
        cv2.circle(channel, center, round(radius * 2**SHIFT), 255, -1, cv2.LINE_AA, SHIFT)
        channels.append(cv2.GaussianBlur(channel, (0, 0), radius / 3))
    return np.stack(channels, axis=-1)


def joints_of(blobs: dict[str, tuple[float, float]]) -> NDArray[np.float64]:
    """(14, 2) joints at the blobs; the others are not labeled."""
    joints = np.full((14, 2), np.nan)
    for name, position in blobs.items():
        joints[LSP.joints.index(name)] = position
    return joints


def centroid(channel: NDArray[np.uint8]) -> NDArray[np.float64]:
    weight = np.where(channel > 12, channel, 0).astype(np.float64)
    y, x = np.mgrid[: channel.shape[0], : channel.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def other_side(name: str) -> str:
    sides = {"left": "right", "right": "left"}
    return " ".join(sides.get(word, word) for word in name.split())


def blob_errors(views: Views, number: int, blobs: dict[str, tuple[float, float]]) -> list[float]:
    """Each blob's distance from its joint in the crop, crop pixels.

    In a flipped view, the right ankle's blob is at the joint named left ankle.
    """
    view = views[0, number]
    flipped = bool(view["parameters"][2])
    crop_K2 = views.geometry.to_crop(view["joints"].astype(np.float64))
    names = [other_side(name) if flipped else name for name in blobs]
    joints = [crop_K2[LSP.joints.index(name)] for name in names]
    return [
        float(np.linalg.norm(centroid(view["crop"][..., channel]) - joint))
        for channel, joint in enumerate(joints)
    ]


@pytest.fixture
def sample_set(make_samples):
    """One sample with three labeled joints, in a 120 x 110 image with blobs at the joints."""
    return make_samples([joints_of(BLOBS)], [blob_image(120, 110, BLOBS, 4.0)], center=(58.0, 54.0))


def test_joints_and_pixels_are_transformed_together(sample_set) -> None:
    views = Views(sample_set, CROP, STRONG, seed=1)
    errors = {bool(views.parameters(0, v)[2]): [] for v in range(40)}
    for number in range(40):
        flipped = bool(views.parameters(0, number)[2])
        errors[flipped] += blob_errors(views, number, BLOBS)
    assert len(errors[False]) > 30 and len(errors[True]) > 30
    # Measured: 0.04 at most, 0.015 on average: systematic sub-pixel shifts would show.
    assert max(errors[False]) < 0.15 and max(errors[True]) < 0.15
    assert np.mean(errors[False] + errors[True]) < 0.05


def test_the_center_crop_is_not_augmented(sample_set) -> None:
    plain = Views(sample_set, CROP, STRONG, seed=1)[0, CENTER_CROP]
    assert plain["parameters"].tolist() == [1.0, 0.0, 0.0]
    # The box of 100 pixels around (58, 54) becomes 96 pixels around 47.5.
    crop_K2 = CROP.to_crop(plain["joints"].astype(np.float64))
    for name, position in BLOBS.items():
        expected = (np.array(position) - (58.0, 54.0)) * 0.96 + 47.5
        np.testing.assert_allclose(crop_K2[LSP.joints.index(name)], expected, atol=1e-5)
    assert max(blob_errors(Views(sample_set, CROP, STRONG, seed=1), CENTER_CROP, BLOBS)) < 0.15


def test_the_center_crop_is_the_same_with_any_augmentation(sample_set) -> None:
    one = Views(sample_set, CROP, STRONG, seed=1)[0, CENTER_CROP]
    other = Views(sample_set, CROP, Augmentation(), seed=2)[0, CENTER_CROP]
    np.testing.assert_array_equal(one["crop"], other["crop"])
    np.testing.assert_array_equal(one["joints"], other["joints"])


def test_a_views_parameters_are_a_copy(sample_set) -> None:
    views = Views(sample_set, CROP, Augmentation(), seed=1)
    for number in (CENTER_CROP, 0):
        expected = views.parameters(0, number).copy()
        views[0, number]["parameters"][:] = 3.0
        np.testing.assert_array_equal(views.parameters(0, number), expected)


def test_types_and_shapes_of_a_view(sample_set) -> None:
    view = Views(sample_set.take([0]), CROP, STRONG, seed=1)[0, 3]
    assert set(view) == {"crop", "joints", "affine", "parameters", "index"}
    assert view["crop"].shape == (96, 96, 3) and view["crop"].dtype == np.uint8
    assert view["joints"].shape == (14, 2) and view["joints"].dtype == np.float32
    assert view["affine"].shape == (2, 3) and view["affine"].dtype == np.float64
    assert view["parameters"].shape == (3,) and view["parameters"].dtype == np.float64
    assert view["index"] == 0
    expected = draw_parameters(STRONG, 1, id_hash("sample/0"), 3)
    np.testing.assert_array_equal(view["parameters"], expected)
    affine = affine_23(np.array([58.0, 54.0]), 100.0, expected, 96)
    np.testing.assert_array_equal(view["affine"], affine)


def test_unlabeled_joints_stay_unlabeled(sample_set) -> None:
    views = Views(sample_set, CROP, STRONG, seed=1)
    both = set()
    for number in range(8):
        view = views[0, number]
        flipped = bool(view["parameters"][2])
        both.add(flipped)
        expected = {other_side(name) if flipped else name for name in BLOBS}
        labeled = ~np.isnan(view["joints"]).any(axis=-1)
        assert {LSP.joints[k] for k in np.flatnonzero(labeled)} == expected
    assert both == {False, True}


def test_flipped_views_swap_joints_by_the_skeleton(make_samples) -> None:
    rng = np.random.default_rng(0)
    samples = make_samples(rng.uniform(20, 80, (1, 14, 2)))
    views = Views(samples, CROP, STRONG, seed=5)
    number = next(v for v in range(20) if views.parameters(0, v)[2])
    view = views[0, number]
    transformed = CROP.to_heatmap(transform(view["affine"], samples.joints_NK2[0]))
    for k, name in enumerate(LSP.joints):
        source = LSP.joints.index(other_side(name))
        np.testing.assert_allclose(view["joints"][k], transformed[source], atol=1e-4)


def test_a_view_depends_on_the_id_not_on_the_position(make_samples) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(3)]
    samples = make_samples(rng.uniform(20, 80, (3, 14, 2)), images)
    all_three = Views(samples, CROP, STRONG, seed=1)
    reordered = Views(samples.take([2, 0]), CROP, STRONG, seed=1)
    assert len(all_three) == 3 and len(reordered) == 2
    for new, old in ((0, 2), (1, 0)):
        for number in (CENTER_CROP, 0, 5):
            one, other = reordered[new, number], all_three[old, number]
            for key in ("crop", "joints", "affine", "parameters"):
                np.testing.assert_array_equal(one[key], other[key])
            assert (one["index"], other["index"]) == (new, old)
    assert (all_three[0, 1]["parameters"] != all_three[1, 1]["parameters"]).any()


SCRIPT = """
import hashlib
from fpd.data.augmentation import Augmentation
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.views import Geometry, Views
samples = synthetic_samples("train", 4)
print(sorted(samples.fingerprint().items()))
views = Views(samples, Geometry(crop_px=64), Augmentation(), seed=2**64 - 1)
for key in ((0, -1), (0, 0), (3, 11), (2, 2**40)):
    view = views[key]
    parts = (view[part].tobytes() for part in ("crop", "joints", "affine", "parameters"))
    print(key, hashlib.sha256(b"".join(parts)).hexdigest())
"""


def test_views_and_fingerprints_are_the_same_in_another_process(capsys) -> None:
    exec(SCRIPT, {})
    expected = capsys.readouterr().out
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
    ).stdout
    assert output == expected
    assert len({line.split()[-1] for line in expected.splitlines()}) == 5


@fuzz
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    crop_px=st.sampled_from([16, 96, 100, 256]),
    zoom=st.floats(0.1, 8),
    rotation_deg=st.floats(-180, 180),
    flip=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_crops_equal_a_three_channel_warp(
    make_samples, size, crop_px, zoom, rotation_deg, flip, seed
) -> None:
    """A view is defined as one bilinear warp of the three channels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    center = rng.uniform(0, size[::-1])
    samples = make_samples([np.full((14, 2), 1.0)], [image], center=tuple(center))
    affine = affine_23(center, crop_px / zoom, np.array([1.0, rotation_deg, flip]), crop_px)
    crop = crop_image(samples.images, samples[0], affine, crop_px)
    expected = cv2.warpAffine(image, affine, (crop_px, crop_px), flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop, expected)
    assert crop.flags.c_contiguous


def test_pixels_beyond_the_image_are_black(make_samples) -> None:
    white = np.full((40, 40, 3), 255, np.uint8)
    views = Views(
        make_samples([np.full((14, 2), 20.0)], [white], center=(19.5, 19.5), side=80.0),
        Geometry(crop_px=80),
        Augmentation(),
        seed=0,
    )
    crop = views[0, CENTER_CROP]["crop"]
    expected = np.zeros((80, 80, 3), np.uint8)
    expected[20:60, 20:60] = 255
    np.testing.assert_array_equal(crop, expected)


def test_a_crop_of_the_whole_image_is_the_image(make_samples) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    samples = make_samples([np.full((14, 2), 20.0)], [image], center=(31.5, 31.5), side=64.0)
    views = Views(samples, Geometry(crop_px=64), Augmentation(), seed=0)
    np.testing.assert_array_equal(views[0, CENTER_CROP]["crop"], image)


# (side of the box, reduction) for a crop of 96 pixels. The boxes are about as small as each
# reduction allows, so that a shift by half a reduced pixel would be half a crop pixel.
REDUCTIONS = [(780, 8), (400, 4), (200, 2), (150, 1)]
WIDTH, HEIGHT = 1007, 807  # not divisible by 2, 4 or 8


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A folder with a JPEG for each box side, with blobs around (500, 400); and the blobs."""
    folder = tmp_path_factory.mktemp("photograph")
    blobs_of_side = {}
    for side, _ in REDUCTIONS:
        around = np.array([(-0.13, 0.04), (0.12, -0.11), (0.03, 0.14)])
        blobs = dict(zip(BLOBS, map(tuple, (500.3, 400.7) + side * around), strict=True))
        image = blob_image(WIDTH, HEIGHT, blobs, 0.05 * side)
        options = [
            cv2.IMWRITE_JPEG_QUALITY,
            97,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ]
        bgr = np.ascontiguousarray(image[..., ::-1])
        assert cv2.imwrite(str(folder / f"{side}.jpg"), bgr, options)
        blobs_of_side[side] = blobs
    return folder, blobs_of_side


@pytest.mark.parametrize(("side", "reduction"), REDUCTIONS)
def test_blobs_of_reduced_jpegs_are_at_their_joints(
    make_samples, photograph, side, reduction
) -> None:
    folder, blobs_of_side = photograph
    blobs = blobs_of_side[side]
    images = ImageFolder(folder, [f"{side}.jpg"])
    image, actual_reduction = images.read(0, 96 / side)
    assert actual_reduction == reduction
    assert image.shape == (-(-HEIGHT // reduction), -(-WIDTH // reduction), 3)
    # The crop has no more pixels than the decoded box.
    assert side / reduction >= 96 or reduction == 1
    samples = make_samples([joints_of(blobs)], images, center=(500.0, 400.0), side=float(side))
    views = Views(samples, CROP, Augmentation(scale=(1, 1), rotation_deg=180), seed=1)
    flipped = [v for v in range(40) if views.parameters(0, v)[2]]
    not_flipped = [v for v in range(40) if not views.parameters(0, v)[2]]
    for number in (CENTER_CROP, *flipped[:2], *not_flipped[:2]):
        assert max(blob_errors(views, number, blobs)) < 0.1  # measured: 0.03


def test_colors_are_red_green_blue(sample_set) -> None:
    """Channel 0 is red: at the red blob, channels 1 and 2 are dark."""
    crop = Views(sample_set, CROP, STRONG, seed=1)[0, CENTER_CROP]["crop"]
    for channel in range(3):
        x, y = np.rint(centroid(crop[..., channel])).astype(int)
        assert np.argmax(crop[y, x]) == channel and crop[y, x, channel] > 200


def test_colors_of_files_are_red_green_blue(make_samples, tmp_path) -> None:
    Image.new("RGB", (64, 64), (250, 120, 10)).save(tmp_path / "orange.jpg", quality=95)
    samples = make_samples(
        [np.full((14, 2), 20.0)],
        ImageFolder(tmp_path, ["orange.jpg"]),
        center=(31.5, 31.5),
        side=60.0,
    )
    for crop_px in (16, 64):
        crop = Views(samples, Geometry(crop_px=crop_px), Augmentation(), 0)[0, CENTER_CROP]["crop"]
        assert np.abs(crop.astype(int) - (250, 120, 10)).max() <= 4


@fuzz
@given(
    stride=st.integers(1, 16),
    heatmap_px=st.integers(4, 64),
    positions=st.lists(st.tuples(*[st.floats(-3000, 3000)] * 2), min_size=1, max_size=5),
)
def test_crop_and_heatmap_coordinates_are_inverse(stride, heatmap_px, positions) -> None:
    crop_px = stride * max(heatmap_px, -(-16 // stride))
    geometry = Geometry(crop_px=crop_px, stride_px=stride)
    crop = np.array(positions)
    heatmap = geometry.to_heatmap(crop)
    np.testing.assert_allclose(heatmap, [[(v + 0.5) / stride - 0.5 for v in p] for p in positions])
    np.testing.assert_allclose(geometry.to_crop(heatmap), crop, rtol=1e-12, atol=1e-9)
    assert geometry.heatmap_px * stride == crop_px


def test_both_grids_have_the_same_edges_and_center() -> None:
    geometry = Geometry()
    assert (geometry.crop_px, geometry.stride_px, geometry.heatmap_px) == (256, 4, 64)
    assert geometry.to_heatmap(np.array([-0.5, 127.5, 255.5])).tolist() == [-0.5, 31.5, 63.5]
    # The first heatmap pixel covers crop pixels 0 to 3, whose center is 1.5.
    assert geometry.to_heatmap(np.array([1.5])).tolist() == [0.0]
    assert geometry.to_crop(np.array([0.0, 63.0])).tolist() == [1.5, 253.5]


def test_flipping_is_exact_on_both_grids() -> None:
    geometry = Geometry(crop_px=128, stride_px=4)
    crop_x = np.arange(-8, 140) / 4
    flipped = geometry.to_heatmap(127 - crop_x)
    np.testing.assert_array_equal(flipped, 31 - geometry.to_heatmap(crop_x))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"crop_px": 254}, "expected crop_px a multiple of 4, got 254"),
        ({"crop_px": 64, "stride_px": 3}, "expected crop_px a multiple of 3, got 64"),
    ],
)
def test_impossible_geometry_is_refused(sizes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Geometry(**sizes)


def test_a_views_affine_maps_its_joints_back_to_the_image(sample_set) -> None:
    views = Views(sample_set, CROP, STRONG, seed=1)
    for number in range(6):
        view = views[0, number]
        crop_K2 = CROP.to_crop(view["joints"].astype(np.float64))
        in_image = transform(invert(view["affine"]), crop_K2)
        if view["parameters"][2]:
            in_image = in_image[[LSP.joints.index(other_side(name)) for name in LSP.joints]]
        np.testing.assert_allclose(in_image, sample_set.joints_NK2[0], atol=1e-3)


@pytest.mark.parametrize("crop_px", [96, 100])
def test_flipping_a_view_is_exact(sample_set, crop_px: int) -> None:
    views = Views(sample_set, Geometry(crop_px=crop_px, stride_px=4), STRONG, seed=1)
    swap = [LSP.joints.index(other_side(name)) for name in LSP.joints]
    for number in range(6):
        view = views[0, number]
        copy = {key: np.copy(value) for key, value in view.items()}
        flipped = views.flipped(view)
        for key, value in copy.items():  # the view itself is unchanged
            np.testing.assert_array_equal(view[key], value)
        assert flipped.keys() == view.keys()
        assert {key: np.asarray(value).dtype for key, value in flipped.items()} == {
            key: value.dtype for key, value in copy.items()
        }
        np.testing.assert_array_equal(flipped["crop"], view["crop"][:, ::-1])
        assert flipped["crop"].flags.c_contiguous
        expected = view["joints"][swap]
        expected[:, 0] = crop_px // 4 - 1 - expected[:, 0]
        np.testing.assert_array_equal(flipped["joints"], expected)
        scale, rotation_deg, flip = copy["parameters"]
        assert flipped["parameters"].tolist() == [scale, rotation_deg, 1 - flip]
        assert flipped["index"] == view["index"]
        for key, value in views.flipped(flipped).items():
            np.testing.assert_allclose(value, copy[key], rtol=1e-6, atol=1e-6)


def test_a_flipped_views_affine_maps_the_image_to_its_joints(sample_set) -> None:
    views = Views(sample_set, CROP, STRONG, seed=1)
    swap = [LSP.joints.index(other_side(name)) for name in LSP.joints]
    for number in range(6):
        flipped = views.flipped(views[0, number])
        expected_K2 = transform(flipped["affine"], sample_set.joints_NK2[0])
        if flipped["parameters"][2]:
            expected_K2 = expected_K2[swap]
        crop_K2 = CROP.to_crop(flipped["joints"].astype(np.float64))
        np.testing.assert_allclose(crop_K2, expected_K2, atol=1e-4)


def test_a_flipped_views_affine_is_that_of_its_parameters(sample_set) -> None:
    views = Views(sample_set, CROP, STRONG, seed=1)
    sample = sample_set[0]
    for number in range(6):
        flipped = views.flipped(views[0, number])
        expected = affine_23(sample.center_2, sample.side_px, flipped["parameters"], 96)
        np.testing.assert_allclose(flipped["affine"], expected, atol=1e-9)


@pytest.mark.parametrize("teacher_px", [48, 200])
def test_a_teacher_crop_is_the_same_view_at_another_size(teacher_px: int) -> None:
    samples = synthetic_samples("train", 4)
    views = Views(samples, CROP, STRONG, 7, teacher_crop=TeacherCrop(teacher_px))
    at_its_size = Views(samples, Geometry(crop_px=teacher_px, stride_px=4), STRONG, 7)
    for key in ((0, 0), (3, 5), (2, CENTER_CROP)):
        np.testing.assert_array_equal(views[key]["teacher_crop"], at_its_size[key]["crop"])
        np.testing.assert_array_equal(
            views[key]["crop"], Views(samples, CROP, STRONG, 7)[key]["crop"]
        )
    assert "teacher_crop" not in Views(samples, CROP, STRONG, 7)[0, 0]


def test_a_wider_teacher_crop_shares_the_center_of_the_view() -> None:
    samples = synthetic_samples("train", 4)
    views = Views(samples, CROP, STRONG, 7, teacher_crop=TeacherCrop(64, 2.0))
    twice = Views(replace(samples, side_N=2 * samples.side_N), Geometry(crop_px=64), STRONG, 7)
    for key in ((0, 0), (3, 5), (2, CENTER_CROP)):
        np.testing.assert_array_equal(views[key]["teacher_crop"], twice[key]["crop"])
        assert "teacher_torso" not in views[key]


def test_the_labeled_torso_is_in_pixels_of_the_teacher_crop(make_samples) -> None:
    joints_K2 = np.full((14, 2), np.nan)
    for name, xy in {
        "left hip": (40, 70),
        "right hip": (44, 74),
        "left shoulder": (60, 30),
        "right shoulder": (66, 34),
    }.items():
        joints_K2[LSP.joints.index(name)] = xy
    without = joints_K2.copy()
    without[LSP.joints.index("right hip")] = np.nan
    samples = make_samples([joints_K2, without], center=(50.0, 40.0), side=80.0)
    crop = TeacherCrop(64, 2.0, torso=True)
    views = Views(samples, CROP, STRONG, 1, teacher_crop=crop)
    # 160 pixels of the image are 64 of the crop.
    expected = (np.array([(42.0, 72.0), (63.0, 32.0)]) - (50, 40)) * 0.4 + 31.5
    torso = views[0, CENTER_CROP]["teacher_torso"]
    assert torso.dtype == np.float32
    np.testing.assert_allclose(torso, expected, atol=1e-5)
    flipped = set()
    for number in range(8):
        parameters = views.parameters(0, number)
        flipped.add(parameters[2])
        affine = affine_23(np.array([50.0, 40.0]), 160.0, parameters, 64)
        expected = transform(affine, np.array([(42.0, 72.0), (63.0, 32.0)]))
        np.testing.assert_allclose(views[0, number]["teacher_torso"], expected, atol=1e-4)
    assert flipped == {0.0, 1.0}
    assert np.isnan(views[1, 0]["teacher_torso"]).all()
