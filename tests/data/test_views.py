"""Views: joints and pixels move together, the same in every process."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from fpd.data.augmentation import Augmentation, affine_23, draw_parameters, invert, transform
from fpd.data.io.images import ImageFolder
from fpd.data.samples import id_hash
from fpd.data.skeletons import LSP
from fpd.data.views import CENTER_CROP, Geometry, Views, cut

fuzz = settings(deadline=None, max_examples=60, database=None)

CROP = Geometry(crop_px=96, stride_px=4)
WILD = Augmentation(scale=(0.7, 1.4), rotation_deg=180)

# One blob a channel, at joints that a mirrored view renames.
RED, GREEN, BLUE = "right ankle", "left wrist", "neck"
BLOBS = {RED: (41.3, 52.8), GREEN: (73.65, 37.2), BLUE: (58.1, 68.45)}
SHIFT = 6  # cv2.circle takes positions in 64ths of a pixel


def picture(width: int, height: int, blobs: dict[str, tuple[float, float]], radius: float):
    """Bright round blobs on black, one in each of R, G, B, uint8 (H, W, 3).

    Discs drawn by OpenCV with fractions of pixels, then blurred: their centroids stay.
    """
    channels = []
    for x, y in blobs.values():
        channel = np.zeros((height, width), np.uint8)
        center = round(x * 2**SHIFT), round(y * 2**SHIFT)
        cv2.circle(channel, center, round(radius * 2**SHIFT), 255, -1, cv2.LINE_AA, SHIFT)
        channels.append(cv2.GaussianBlur(channel, (0, 0), radius / 3))
    return np.stack(channels, axis=-1)


def joints_of(blobs: dict[str, tuple[float, float]]) -> NDArray[np.float64]:
    """(14, 2), all others not labeled."""
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


def blob_errors(views: Views, view: int, blobs: dict[str, tuple[float, float]]) -> list[float]:
    """How far each blob is from the joint that should be on it, crop pixels.

    In a mirrored view the person's right ankle is seen as a left ankle.
    """
    seen = views[0, view]
    mirrored = bool(seen["parameters"][2])
    crop_K2 = views.geometry.to_crop(seen["joints"].astype(np.float64))
    names = [other_side(name) if mirrored else name for name in blobs]
    joints = [crop_K2[LSP.joints.index(name)] for name in names]
    return [
        float(np.linalg.norm(centroid(seen["crop"][..., channel]) - joint))
        for channel, joint in enumerate(joints)
    ]


@pytest.fixture
def person(make_people):
    """A person of three joints in a 120 x 110 picture, and the blobs upon them."""
    return make_people([joints_of(BLOBS)], [picture(120, 110, BLOBS, 4.0)], center=(58.0, 54.0))


def test_joints_and_pixels_move_together(person) -> None:
    views = Views(person, CROP, WILD, seed=1)
    errors = {bool(views.parameters(0, v)[2]): [] for v in range(40)}
    for view in range(40):
        mirrored = bool(views.parameters(0, view)[2])
        errors[mirrored] += blob_errors(views, view, BLOBS)
    assert len(errors[False]) > 30 and len(errors[True]) > 30
    # Measured: 0.04 at most, 0.015 on average. No shift by a fraction of a pixel can hide here.
    assert max(errors[False]) < 0.15 and max(errors[True]) < 0.15
    assert np.mean(errors[False] + errors[True]) < 0.05


def test_the_plain_view_is_not_augmented(person) -> None:
    plain = Views(person, CROP, WILD, seed=1)[0, CENTER_CROP]
    assert plain["parameters"].tolist() == [1.0, 0.0, 0.0]
    # Box of 100 pixels around (58, 54), as 96 pixels around 47.5.
    crop_K2 = CROP.to_crop(plain["joints"].astype(np.float64))
    for name, position in BLOBS.items():
        expected = (np.array(position) - (58.0, 54.0)) * 0.96 + 47.5
        np.testing.assert_allclose(crop_K2[LSP.joints.index(name)], expected, atol=1e-5)
    assert max(blob_errors(Views(person, CROP, WILD, seed=1), CENTER_CROP, BLOBS)) < 0.15


def test_the_plain_view_is_the_same_under_any_settings(person) -> None:
    one = Views(person, CROP, WILD, seed=1)[0, CENTER_CROP]
    other = Views(person, CROP, Augmentation(), seed=2)[0, CENTER_CROP]
    np.testing.assert_array_equal(one["crop"], other["crop"])
    np.testing.assert_array_equal(one["joints"], other["joints"])


def test_changing_a_view_does_not_change_the_next(person) -> None:
    views = Views(person, CROP, Augmentation(), seed=1)
    for view in (CENTER_CROP, 0):
        before = views.parameters(0, view).copy()
        parameters = views[0, view]["parameters"]
        if parameters.flags.writeable:
            kept = parameters.copy()
            parameters[:] = 3.0
            try:
                np.testing.assert_array_equal(views.parameters(0, view), before)
            finally:
                parameters[:] = kept


def test_a_view_holds_what_it_says(person) -> None:
    view = Views(person.take([0]), CROP, WILD, seed=1)[0, 3]
    assert set(view) == {"crop", "joints", "affine", "parameters", "index"}
    assert view["crop"].shape == (96, 96, 3) and view["crop"].dtype == np.uint8
    assert view["joints"].shape == (14, 2) and view["joints"].dtype == np.float32
    assert view["affine"].shape == (2, 3) and view["affine"].dtype == np.float64
    assert view["parameters"].shape == (3,) and view["parameters"].dtype == np.float64
    assert view["index"] == 0
    expected = draw_parameters(WILD, 1, id_hash("person/0"), 3)
    np.testing.assert_array_equal(view["parameters"], expected)
    affine = affine_23(np.array([58.0, 54.0]), 100.0, expected, 96)
    np.testing.assert_array_equal(view["affine"], affine)


def test_unlabeled_joints_stay_unlabeled(person) -> None:
    views = Views(person, CROP, WILD, seed=1)
    kinds = set()
    for view in range(8):
        seen = views[0, view]
        mirrored = bool(seen["parameters"][2])
        kinds.add(mirrored)
        labeled = {other_side(name) if mirrored else name for name in BLOBS}
        known = ~np.isnan(seen["joints"]).any(axis=-1)
        assert {LSP.joints[k] for k in np.flatnonzero(known)} == labeled
    assert kinds == {False, True}


def test_mirrored_views_swap_joints_by_the_skeleton(make_people) -> None:
    rng = np.random.default_rng(0)
    people = make_people(rng.uniform(20, 80, (1, 14, 2)))
    views = Views(people, CROP, WILD, seed=5)
    mirrored = next(v for v in range(20) if views.parameters(0, v)[2])
    seen = views[0, mirrored]
    moved = CROP.to_heatmap(transform(seen["affine"], people.joints_NK2[0]))
    for k, name in enumerate(LSP.joints):
        source = LSP.joints.index(other_side(name))
        np.testing.assert_allclose(seen["joints"][k], moved[source], atol=1e-4)


def test_a_view_hangs_on_the_id_and_not_on_the_place(make_people) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(3)]
    people = make_people(rng.uniform(20, 80, (3, 14, 2)), pictures)
    all_three = Views(people, CROP, WILD, seed=1)
    reordered = Views(people.take([2, 0]), CROP, WILD, seed=1)
    assert len(all_three) == 3 and len(reordered) == 2
    for new, old in ((0, 2), (1, 0)):
        for view in (CENTER_CROP, 0, 5):
            one, other = reordered[new, view], all_three[old, view]
            for part in ("crop", "joints", "affine", "parameters"):
                np.testing.assert_array_equal(one[part], other[part])
            assert (one["index"], other["index"]) == (new, old)
    assert (all_three[0, 1]["parameters"] != all_three[1, 1]["parameters"]).any()


SCRIPT = """
import hashlib
from fpd.data.augmentation import Augmentation
from fpd.data.readers.synthetic.people import synthetic_people
from fpd.data.views import Geometry, Views
views = Views(synthetic_people("train", 4), Geometry(crop_px=64), Augmentation(), seed=2**64 - 1)
for key in ((0, -1), (0, 0), (3, 11)):
    view = views[key]
    parts = (view[part].tobytes() for part in ("crop", "joints", "affine", "parameters"))
    print(key, hashlib.sha256(b"".join(parts)).hexdigest())
"""


def test_a_view_is_the_same_in_another_process(capsys) -> None:
    exec(SCRIPT, {})
    here = capsys.readouterr().out
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    assert there == here
    assert len({line.split()[-1] for line in here.splitlines()}) == 3


@fuzz
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    crop_px=st.sampled_from([16, 96, 100, 256]),
    zoom=st.floats(0.1, 8),
    rotation_deg=st.floats(-180, 180),
    mirror=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_fourth_channel_of_the_warp_changes_no_pixel(
    make_people, size, crop_px, zoom, rotation_deg, mirror, seed
) -> None:
    """What version 1 of the views says: one bilinear warp of the three channels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    center = rng.uniform(0, size[::-1])
    people = make_people([np.full((14, 2), 1.0)], [image], center=tuple(center))
    affine = affine_23(center, crop_px / zoom, np.array([1.0, rotation_deg, mirror]), crop_px)
    crop = cut(people.images, people[0], affine, crop_px)
    expected = cv2.warpAffine(image, affine, (crop_px, crop_px), flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(crop, expected)
    assert crop.flags.c_contiguous


def test_beyond_the_image_is_black(make_people) -> None:
    white = np.full((40, 40, 3), 255, np.uint8)
    views = Views(
        make_people([np.full((14, 2), 20.0)], [white], center=(19.5, 19.5), side=80.0),
        Geometry(crop_px=80),
        Augmentation(),
        seed=0,
    )
    crop = views[0, CENTER_CROP]["crop"]
    expected = np.zeros((80, 80, 3), np.uint8)
    expected[20:60, 20:60] = 255
    np.testing.assert_array_equal(crop, expected)


def test_a_crop_of_the_whole_image_is_the_image(make_people) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    people = make_people([np.full((14, 2), 20.0)], [image], center=(31.5, 31.5), side=64.0)
    views = Views(people, Geometry(crop_px=64), Augmentation(), seed=0)
    np.testing.assert_array_equal(views[0, CENTER_CROP]["crop"], image)


# (side of the box, reduction) for a crop of 96 pixels. The boxes are as small as the reduction
# allows, so that a shift by half a reduced pixel would be half a crop pixel.
REDUCTIONS = [(1500, 8), (780, 8), (400, 4), (200, 2), (150, 1)]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    """A folder with a 1999 x 1503 JPEG: blobs around (900, 700), 14 pixels in radius and more."""
    folder = tmp_path_factory.mktemp("photograph")
    made = {}
    for side, _ in REDUCTIONS:
        around = np.array([(-0.13, 0.04), (0.12, -0.11), (0.03, 0.14)])
        blobs = dict(zip(BLOBS, map(tuple, (900.3, 700.7) + side * around), strict=True))
        image = picture(1999, 1503, blobs, 0.05 * side)
        options = [
            cv2.IMWRITE_JPEG_QUALITY,
            97,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
        ]
        bgr = np.ascontiguousarray(image[..., ::-1])
        assert cv2.imwrite(str(folder / f"{side}.jpg"), bgr, options)
        made[side] = blobs
    return folder, made


@pytest.mark.parametrize(("side", "reduction"), REDUCTIONS)
def test_blobs_of_reduced_jpegs_land_where_they_should(
    make_people, photograph, side, reduction
) -> None:
    folder, made = photograph
    blobs = made[side]
    images = ImageFolder(folder, [f"{side}.jpg"])
    image, found = images.read(0, 96 / side)
    assert found == reduction
    assert image.shape == (-(-1503 // reduction), -(-1999 // reduction), 3)
    # The crop needs no more pixels than were decoded.
    assert side / reduction >= 96 or reduction == 1
    people = make_people([joints_of(blobs)], images, center=(900.0, 700.0), side=float(side))
    turned = Augmentation(scale=(1, 1), rotation_deg=180)
    views = Views(people, CROP, turned, seed=1)
    mirrored = [v for v in range(40) if views.parameters(0, v)[2]]
    upright = [v for v in range(40) if not views.parameters(0, v)[2]]
    for view in (CENTER_CROP, *mirrored[:4], *upright[:4]):
        assert max(blob_errors(views, view, blobs)) < 0.1  # measured: 0.03


def test_colors_are_red_green_blue(person) -> None:
    """Channel 0 is red: where the red blob is, 1 and 2 are dark."""
    crop = Views(person, CROP, WILD, seed=1)[0, CENTER_CROP]["crop"]
    for channel in range(3):
        x, y = np.rint(centroid(crop[..., channel])).astype(int)
        assert np.argmax(crop[y, x]) == channel and crop[y, x, channel] > 200


def test_colors_of_files_are_red_green_blue(make_people, tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (250, 120, 10)).save(tmp_path / "orange.jpg", quality=95)
    people = make_people(
        [np.full((14, 2), 20.0)],
        ImageFolder(tmp_path, ["orange.jpg"]),
        center=(31.5, 31.5),
        side=60.0,
    )
    for crop_px in (16, 64):
        crop = Views(people, Geometry(crop_px=crop_px), Augmentation(), 0)[0, CENTER_CROP]["crop"]
        assert np.abs(crop.astype(int) - (250, 120, 10)).max() <= 4


@fuzz
@given(
    stride=st.integers(1, 16),
    cells=st.integers(4, 64),
    positions=st.lists(st.tuples(*[st.floats(-3000, 3000)] * 2), min_size=1, max_size=5),
)
def test_geometry_goes_there_and_back(stride, cells, positions) -> None:
    crop_px = stride * max(cells, -(-16 // stride))
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
    # The first heatmap pixel covers crop pixels 0 to 3, the middle of which is 1.5.
    assert geometry.to_heatmap(np.array([1.5])).tolist() == [0.0]
    assert geometry.to_crop(np.array([0.0, 63.0])).tolist() == [1.5, 253.5]


def test_mirroring_is_exact_on_both_grids() -> None:
    geometry = Geometry(crop_px=128, stride_px=4)
    crop_x = np.arange(-8, 140) / 4
    mirrored = geometry.to_heatmap(127 - crop_x)
    np.testing.assert_array_equal(mirrored, 31 - geometry.to_heatmap(crop_x))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"crop_px": 254}, "expected crop_px a multiple of 4, got 254"),
        ({"crop_px": 64, "stride_px": 3}, "expected crop_px a multiple of 3, got 64"),
        ({"crop_px": 8}, "crop_px"),
        ({"crop_px": 2048}, "crop_px"),
        ({"stride_px": 0}, "stride_px"),
        ({"stride": 4}, "stride"),
    ],
)
def test_impossible_geometry_is_refused(sizes, message) -> None:
    with pytest.raises(ValidationError, match=message):
        Geometry(**sizes)


def test_the_stored_affine_leads_back_to_the_image(person) -> None:
    views = Views(person, CROP, WILD, seed=1)
    for view in range(6):
        seen = views[0, view]
        crop_K2 = CROP.to_crop(seen["joints"].astype(np.float64))
        back = transform(invert(seen["affine"]), crop_K2)
        if seen["parameters"][2]:
            back = back[[LSP.joints.index(other_side(name)) for name in LSP.joints]]
        np.testing.assert_allclose(back, person.joints_NK2[0], atol=1e-3)


@pytest.mark.parametrize("crop_px", [96, 100])
def test_a_view_in_the_mirror_is_exact(person, crop_px: int) -> None:
    views = Views(person, Geometry(crop_px=crop_px, stride_px=4), WILD, seed=1)
    swap = [LSP.joints.index(other_side(name)) for name in LSP.joints]
    for view in range(6):
        seen = views[0, view]
        kept = {key: np.copy(value) for key, value in seen.items()}
        turned = views.mirrored(seen)
        for key, value in kept.items():  # it is not changed itself
            np.testing.assert_array_equal(seen[key], value)
        assert turned.keys() == seen.keys()
        assert {key: np.asarray(value).dtype for key, value in turned.items()} == {
            key: value.dtype for key, value in kept.items()
        }
        np.testing.assert_array_equal(turned["crop"], seen["crop"][:, ::-1])
        assert turned["crop"].flags.c_contiguous
        expected = seen["joints"][swap]
        expected[:, 0] = crop_px // 4 - 1 - expected[:, 0]
        np.testing.assert_array_equal(turned["joints"], expected)
        assert turned["parameters"].tolist() == [*kept["parameters"][:2], 1 - kept["parameters"][2]]
        assert turned["index"] == seen["index"]
        for key, value in views.mirrored(turned).items():
            np.testing.assert_allclose(value, kept[key], rtol=1e-6, atol=1e-6)


def test_the_mirrored_affine_leads_from_the_image_to_the_mirrored_joints(person) -> None:
    views = Views(person, CROP, WILD, seed=1)
    swap = [LSP.joints.index(other_side(name)) for name in LSP.joints]
    for view in range(6):
        turned = views.mirrored(views[0, view])
        crop_K2 = transform(turned["affine"], person.joints_NK2[0])
        if turned["parameters"][2]:
            crop_K2 = crop_K2[swap]
        found = CROP.to_crop(turned["joints"].astype(np.float64))
        np.testing.assert_allclose(found, crop_K2, atol=1e-4)


def test_a_view_in_the_mirror_is_the_view_of_its_mirrored_parameters(person) -> None:
    """The affine map is the one that those parameters call for, turned the other way."""
    views = Views(person, CROP, WILD, seed=1)
    sample = person[0]
    for view in range(6):
        turned = views.mirrored(views[0, view])
        expected = affine_23(sample.center_2, sample.side_px, turned["parameters"], 96)
        np.testing.assert_allclose(turned["affine"], expected, atol=1e-9)
