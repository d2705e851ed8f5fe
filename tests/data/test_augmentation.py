"""Views' parameters by Philox from (seed, settings, id, view), and the affine map they make."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from fpd.data.augmentation import (
    PARAMETERS,
    UNAUGMENTED,
    Augmentation,
    affine_23,
    draw_parameters,
    invert,
    transform,
)

fuzz = settings(deadline=None, max_examples=60, database=None)

WORD = 2**64
words = st.integers(0, WORD - 1)
coordinates = st.floats(-2000, 2000, allow_subnormal=False)
parameters = st.tuples(
    st.floats(0.2, 5), st.floats(-180, 180, allow_subnormal=False), st.sampled_from([0.0, 1.0])
)
boxes = st.tuples(coordinates, coordinates, st.floats(10, 3000))
crops = st.sampled_from([16, 96, 256, 255])


def philox4x64_10(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Ten rounds as in Salmon et al., SC 2011, section 3.3, on Python's whole numbers."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        product_0, product_1 = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (
            (product_1 >> 64) ^ b ^ left,
            product_1 % WORD,
            (product_0 >> 64) ^ d ^ right,
            product_0 % WORD,
        )
        left = (left + 0x9E3779B97F4A7C15) % WORD
        right = (right + 0xBB67AE8584CAA73B) % WORD
    return [a, b, c, d]


# (counter, key) and words: philox4x64-10 in Random123's kat_vectors.
ALL = WORD - 1
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        (ALL, ALL, ALL, ALL),
        (ALL, ALL),
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, expected) -> None:
    expected = [int(word, 16) for word in expected.split()]
    assert philox4x64_10(counter, key) == expected
    # NumPy counts up before the first block: a 256-bit number, word 0 the lowest.
    before = (sum(word << 64 * i for i, word in enumerate(counter)) - 1) % 2**256
    numpys = np.random.Philox(
        key=np.array(key, np.uint64),
        counter=np.array([before >> 64 * i & ALL for i in range(4)], np.uint64),
    )
    assert [int(word) for word in numpys.random_raw(4)] == expected


cents = st.integers(10, 1000).map(lambda n: n / 100)


@fuzz
@given(
    seed=words,
    id_hash=words,
    view=words,
    scale=st.tuples(cents, cents).map(sorted),
    rotation=st.integers(0, 18000).map(lambda n: n / 100),
    mirror=st.booleans(),
)
def test_parameters_follow_the_written_rule(seed, id_hash, view, scale, rotation, mirror) -> None:
    low, high = map(float, scale)
    text = f"scale {low!r} {high!r} rotation_deg {float(rotation)!r} mirror {mirror!r}"
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    uniform = [
        (philox4x64_10((operation + 1, view, id_hash, 0), (seed, digest))[0] >> 11) / 2**53
        for operation in range(3)
    ]
    low, high = scale
    augmentation = Augmentation(scale=(low, high), rotation_deg=rotation, mirror=mirror)
    drawn = draw_parameters(augmentation, seed, id_hash, view)
    assert drawn.dtype == np.float64 and drawn.shape == (3,) == (len(PARAMETERS),)
    assert drawn[0] == pytest.approx(low + uniform[0] * (high - low), rel=1e-12)
    assert drawn[1] == pytest.approx(-rotation + uniform[1] * 2 * rotation, abs=1e-10)
    assert drawn[2] == (1.0 if mirror and uniform[2] < 0.5 else 0.0)


@fuzz
@given(seed=words, id_hash=words, view=words)
def test_the_upper_53_bits_of_a_word_are_kept(seed, id_hash, view) -> None:
    """64 degrees x (2 u - 1) is exact, so all bits of u can be had back."""
    augmentation = Augmentation(rotation_deg=64)
    word = philox4x64_10((2, view, id_hash, 0), (seed, augmentation.digest))[0]
    rotation = draw_parameters(augmentation, seed, id_hash, view)[1]
    assert (rotation / 64 + 1) * 2.0**52 == word >> 11


def test_digest_of_the_papers_settings() -> None:
    """`printf 'scale 0.75 1.25 rotation_deg 30.0 mirror True' | b2sum -l 64`."""
    assert Augmentation().digest == int.from_bytes(bytes.fromhex("f17fdd6fc9ebc17d"), "little")
    assert Augmentation(scale=(0.75, 1.25), rotation_deg=30).digest == Augmentation().digest


SCRIPT = """
from fpd.data.augmentation import Augmentation, draw_parameters
from fpd.data.samples import id_hash
for view in (0, 1, 7, 2**40):
    for name in ("lsp/im0001", "figures/train/000003"):
        drawn = draw_parameters(Augmentation(flip=view < 5), 2**64 - 1, id_hash(name), view)
        print(view, name, *(value.hex() for value in drawn.tolist()))
"""


def test_same_parameters_in_another_process(capsys) -> None:
    exec(SCRIPT, {})
    here = capsys.readouterr().out
    for hash_seed in ("0", "12345"):
        there = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        assert there == here
    assert len(set(here.splitlines())) == 8


def test_draws_do_not_disturb_each_other() -> None:
    augmentation = Augmentation()
    alone = draw_parameters(augmentation, 3, 99, 5)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    for view in range(20):
        for id_hash in (98, 99, 100):
            draw_parameters(augmentation, 3, id_hash, view)
    np.testing.assert_array_equal(draw_parameters(Augmentation(), 3, 99, 5), alone)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def draws(augmentation: Augmentation, seed: int = 0, people: int = 100, views: int = 20):
    """The parameters of many views, float64 (people x views, 3)."""
    return np.array(
        [
            draw_parameters(augmentation, seed, p * 7919, v)
            for p in range(people)
            for v in range(views)
        ]
    )


def test_parameters_are_uniform_in_their_ranges() -> None:
    augmentation = Augmentation(scale=(0.6, 1.5), rotation_deg=45)
    scale, rotation, mirror = draws(augmentation).T
    assert scale.min() >= 0.6 and scale.max() < 1.5
    assert rotation.min() >= -45 and rotation.max() < 45
    assert stats.kstest(scale, stats.uniform(0.6, 0.9).cdf).pvalue > 0.001
    assert stats.kstest(rotation, stats.uniform(-45, 90).cdf).pvalue > 0.001
    assert set(mirror) == {0.0, 1.0}
    assert stats.binomtest(int(mirror.sum()), len(mirror), 0.5).pvalue > 0.001
    assert np.abs(np.corrcoef([scale, rotation, mirror]) - np.eye(3)).max() < 0.08


def test_neighboring_views_and_people_are_independent() -> None:
    scale_PV = draws(Augmentation())[:, 0].reshape(100, 20)
    assert len(np.unique(scale_PV)) == scale_PV.size
    between_views = np.corrcoef(scale_PV[:, :-1].ravel(), scale_PV[:, 1:].ravel())[0, 1]
    between_people = np.corrcoef(scale_PV[:-1].ravel(), scale_PV[1:].ravel())[0, 1]
    assert abs(between_views) < 0.08 and abs(between_people) < 0.08


def test_what_is_switched_off_stays_off() -> None:
    still = draws(Augmentation(scale=(1, 1), rotation_deg=0, mirror=False), people=20)
    np.testing.assert_array_equal(still, np.broadcast_to(UNAUGMENTED, still.shape))
    assert UNAUGMENTED.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "other", [{"rotation_deg": 31}, {"mirror": False}, {"scale": (0.75, 1.26)}], ids=str
)
def test_other_settings_draw_other_words(other) -> None:
    """Even what the changed setting leaves alone: the digest of all of them is in the key."""
    standard = draws(Augmentation(), people=5)
    changed = draws(Augmentation(**other), people=5)
    as_share = (standard[:, 0] - 0.75) / 0.5, standard[:, 1] / 30
    new = Augmentation(**other)
    low, high = new.scale
    new_share = (changed[:, 0] - low) / (high - low), changed[:, 1] / new.rotation_deg
    for a, b in zip(as_share, new_share, strict=True):
        assert (np.abs(a - b) > 1e-6).all()


def test_another_seed_draws_other_words() -> None:
    assert (draws(Augmentation(), seed=0)[:, :2] != draws(Augmentation(), seed=1)[:, :2]).all()


@pytest.mark.parametrize(
    "scale",
    [(1.25, 0.75), (0.0, 1.0), (-1.0, 1.0), (0.05, 1.0), (1.0, 11.0)],
    ids=str,
)
def test_bad_scale_ranges_are_refused(scale) -> None:
    with pytest.raises(ValidationError, match=r"expected 0.1 <= low <= high <= 10, got \("):
        Augmentation(scale=scale)


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": (math.nan, 1.0)},
        {"scale": (1.0, math.inf)},
        {"scale": (1.0,)},
        {"rotation_deg": -1},
        {"rotation_deg": 181},
        {"rotation_deg": math.nan},
        {"shear": 3},
    ],
    ids=str,
)
def test_bad_settings_are_refused(bad) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Augmentation(**bad)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Augmentation().mirror = False  # type: ignore[misc]


def apply(affine: np.ndarray, *points: tuple[float, float]) -> np.ndarray:
    return transform(affine, np.array(points, dtype=np.float64))


@fuzz
@given(box=boxes, view=parameters, crop_px=crops)
def test_box_center_goes_to_the_crops_center(box, view, crop_px) -> None:
    x, y, side = box
    affine = affine_23(np.array([x, y]), side, np.array(view), crop_px)
    assert affine.shape == (2, 3) and affine.dtype == np.float64
    np.testing.assert_allclose(apply(affine, (x, y)), [[(crop_px - 1) / 2] * 2], atol=1e-6)


@fuzz
@given(box=boxes, crop_px=crops)
def test_box_edges_go_to_crop_edges(box, crop_px) -> None:
    x, y, side = box
    affine = affine_23(np.array([x, y]), side, UNAUGMENTED, crop_px)
    half = side / 2
    corners = apply(affine, (x - half, y - half), (x + half, y - half), (x + half, y + half))
    low, high = -0.5, crop_px - 0.5
    np.testing.assert_allclose(corners, [[low, low], [high, low], [high, high]], atol=1e-6)


def test_an_image_that_is_its_own_crop_stays_as_it_is() -> None:
    """Edges of a 64 x 64 image lie at -0.5 and 63.5, so its box is centerd at 31.5."""
    affine = affine_23(np.array([31.5, 31.5]), 64.0, UNAUGMENTED, 64)
    np.testing.assert_allclose(affine, [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_a_larger_scale_shows_more() -> None:
    """At scale 2, a point half the box's side from the center is a quarter of the crop away."""
    affine = affine_23(np.array([50.0, 50.0]), 40.0, np.array([2.0, 0.0, 0.0]), 100)
    np.testing.assert_allclose(apply(affine, (70.0, 50.0)), [[49.5 + 25, 49.5]])


def test_positive_rotation_is_clockwise_on_screen() -> None:
    """What was right of the center goes below it (y points down), what was above goes right."""
    affine = affine_23(np.array([50.0, 50.0]), 100.0, np.array([1.0, 90.0, 0.0]), 100)
    turned = apply(affine, (60.0, 50.0), (50.0, 40.0))
    np.testing.assert_allclose(turned, [[49.5, 59.5], [59.5, 49.5]])
    a_little = affine_23(np.array([50.0, 50.0]), 100.0, np.array([1.0, 30.0, 0.0]), 100)
    np.testing.assert_allclose(
        apply(a_little, (60.0, 50.0)), [[49.5 + 10 * math.sqrt(3) / 2, 49.5 + 5]]
    )


@fuzz
@given(box=boxes, view=parameters, crop_px=crops, point=st.tuples(coordinates, coordinates))
def test_mirroring_flips_the_finished_crop(box, view, crop_px, point) -> None:
    x, y, side = box
    scale, rotation, _ = view
    plain, mirrored = (
        apply(affine_23(np.array([x, y]), side, np.array([scale, rotation, m]), crop_px), point)
        for m in (0.0, 1.0)
    )
    expected = np.array([[crop_px - 1 - plain[0, 0], plain[0, 1]]])
    np.testing.assert_allclose(mirrored, expected, rtol=1e-12, atol=1e-6)


def test_mirroring_is_exact_on_the_grid() -> None:
    affine = affine_23(np.array([31.5, 31.5]), 64.0, np.array([1.0, 0.0, 1.0]), 64)
    points = apply(affine, *((float(x), 0.0) for x in range(64)))
    assert points[:, 0].tolist() == [float(63 - x) for x in range(64)]


@fuzz
@given(
    box=boxes,
    view=parameters,
    crop_px=crops,
    points=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5),
)
def test_invert_undoes_transform(box, view, crop_px, points) -> None:
    x, y, side = box
    affine = affine_23(np.array([x, y]), side, np.array(view), crop_px)
    back = transform(invert(affine), apply(affine, *points))
    np.testing.assert_allclose(back, points, atol=1e-6)
    again = invert(invert(affine))
    np.testing.assert_allclose(again, affine, rtol=1e-9, atol=1e-6)


def test_maps_are_similarities() -> None:
    """Lengths grow by crop / (side x scale), the same in all directions; angles are kept."""
    affine = affine_23(np.array([3.0, 4.0]), 80.0, np.array([1.25, 17.0, 1.0]), 256)
    linear = affine[:, :2]
    np.testing.assert_allclose(linear.T @ linear, (256 / 100) ** 2 * np.eye(2), atol=1e-12)
    assert np.linalg.det(linear) < 0


def test_transform_and_invert_take_batches() -> None:
    rng = np.random.default_rng(0)
    affines = rng.normal(size=(4, 5, 2, 3))
    points = rng.normal(size=(4, 5, 7, 2))
    moved, inverse = transform(affines, points), invert(affines)
    assert moved.shape == (4, 5, 7, 2) and inverse.shape == (4, 5, 2, 3)
    homogeneous = np.append(points[2, 3, 6], 1.0)
    np.testing.assert_allclose(moved[2, 3, 6], affines[2, 3] @ homogeneous)
    full = np.vstack([affines[1, 4], [0, 0, 1]])
    np.testing.assert_allclose(inverse[1, 4], np.linalg.inv(full)[:2], rtol=1e-6, atol=1e-8)


def test_unlabeled_joints_stay_unlabeled() -> None:
    affine = affine_23(np.array([3.0, 4.0]), 80.0, np.array([1.0, 10.0, 0.0]), 64)
    moved = apply(affine, (math.nan, math.nan), (3.0, 4.0))
    assert np.isnan(moved).tolist() == [[True, True], [False, False]]
