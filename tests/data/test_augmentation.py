"""View parameters from Philox, keyed by (seed, settings, id, view), and their affine maps."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from fpd.data.augmentation import (
    PARAMETERS,
    UNAUGMENTED,
    affine_23,
    draw_parameters,
    invert,
    transform,
)
from fpd.data.sections import Augmentation

fuzz = settings(deadline=None, max_examples=25, database=None)

WORD = 2**64
words = st.integers(0, WORD - 1)
coordinates = st.floats(-2000, 2000, allow_subnormal=False)
parameters = st.tuples(
    st.floats(0.2, 5), st.floats(-180, 180, allow_subnormal=False), st.sampled_from([0.0, 1.0])
)
boxes = st.tuples(coordinates, coordinates, st.floats(10, 3000))
crops = st.sampled_from([16, 96, 256, 255])


def philox4x64_10(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Ten rounds as in Salmon et al., SC 2011, section 3.3, with Python's integers."""
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


# (counter, key) and output words: philox4x64-10 in Random123's kat_vectors.
ALL = WORD - 1
TEST_VECTORS = [
    ((0, 0, 0, 0), (0, 0), "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
    (
        (ALL, ALL, ALL, ALL),
        (ALL, ALL),
        "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), TEST_VECTORS)
def test_philox_gives_the_published_words(counter, key, expected) -> None:
    expected = [int(word, 16) for word in expected.split()]
    assert philox4x64_10(counter, key) == expected
    # NumPy increments the counter, a 256-bit number with word 0 the lowest, before the first block.
    before = (sum(word << 64 * i for i, word in enumerate(counter)) - 1) % 2**256
    generator = np.random.Philox(
        key=np.array(key, np.uint64),
        counter=np.array([before >> 64 * i & ALL for i in range(4)], np.uint64),
    )
    assert [int(word) for word in generator.random_raw(4)] == expected


cents = st.integers(10, 1000).map(lambda n: n / 100)


@fuzz
@given(
    seed=words,
    id_hash=words,
    view=words,
    scale=st.tuples(cents, cents).map(sorted),
    rotation=st.integers(0, 18000).map(lambda n: n / 100),
    flip=st.booleans(),
)
def test_parameters_follow_the_documented_rule(seed, id_hash, view, scale, rotation, flip) -> None:
    low, high = map(float, scale)
    text = f"scale {low!r} {high!r} rotation_deg {float(rotation)!r} mirror {flip!r}"
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    uniform = [
        (philox4x64_10((operation + 1, view, id_hash, 0), (seed, digest))[0] >> 11) / 2**53
        for operation in range(3)
    ]
    low, high = scale
    augmentation = Augmentation(scale=(low, high), rotation_deg=rotation, flip=flip)
    drawn = draw_parameters(augmentation, seed, id_hash, view)
    assert drawn.dtype == np.float64 and drawn.shape == (3,) == (len(PARAMETERS),)
    assert drawn[0] == pytest.approx(low + uniform[0] * (high - low), rel=1e-12)
    assert drawn[1] == pytest.approx(-rotation + uniform[1] * 2 * rotation, abs=1e-10)
    assert drawn[2] == (1.0 if flip and uniform[2] < 0.5 else 0.0)


@fuzz
@given(seed=words, id_hash=words, view=words)
def test_the_upper_53_bits_of_a_word_are_kept(seed, id_hash, view) -> None:
    """64 degrees x (2 u - 1) is exact, so all bits of u can be recovered."""
    augmentation = Augmentation(rotation_deg=64)
    word = philox4x64_10((2, view, id_hash, 0), (seed, augmentation.digest))[0]
    rotation = draw_parameters(augmentation, seed, id_hash, view)[1]
    assert (rotation / 64 + 1) * 2.0**52 == word >> 11


def test_digest_of_the_papers_settings() -> None:
    """`printf 'scale 0.75 1.25 rotation_deg 30.0 mirror True' | b2sum -l 64`."""
    assert Augmentation().digest == int.from_bytes(bytes.fromhex("f17fdd6fc9ebc17d"), "little")
    assert Augmentation(scale=(0.75, 1.25), rotation_deg=30).digest == Augmentation().digest


def test_draws_are_independent_of_other_draws_and_of_numpys_global_state() -> None:
    augmentation = Augmentation()
    expected = draw_parameters(augmentation, 3, 99, 5)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    for view in range(20):
        for id_hash in (98, 99, 100):
            draw_parameters(augmentation, 3, id_hash, view)
    np.testing.assert_array_equal(draw_parameters(Augmentation(), 3, 99, 5), expected)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def draws(augmentation: Augmentation, seed: int = 0, samples: int = 100, views: int = 20):
    """The parameters of many views, float64 (samples x views, 3)."""
    return np.array(
        [
            draw_parameters(augmentation, seed, p * 7919, v)
            for p in range(samples)
            for v in range(views)
        ]
    )


def test_parameters_are_uniform_in_their_ranges() -> None:
    augmentation = Augmentation(scale=(0.6, 1.5), rotation_deg=45)
    scale, rotation, flip = draws(augmentation).T
    assert scale.min() >= 0.6 and scale.max() < 1.5
    assert rotation.min() >= -45 and rotation.max() < 45
    assert stats.kstest(scale, stats.uniform(0.6, 0.9).cdf).pvalue > 0.001
    assert stats.kstest(rotation, stats.uniform(-45, 90).cdf).pvalue > 0.001
    assert set(flip) == {0.0, 1.0}
    assert stats.binomtest(int(flip.sum()), len(flip), 0.5).pvalue > 0.001
    assert np.abs(np.corrcoef([scale, rotation, flip]) - np.eye(3)).max() < 0.08


def test_neighboring_views_and_samples_are_uncorrelated() -> None:
    scale_PV = draws(Augmentation())[:, 0].reshape(100, 20)
    assert len(np.unique(scale_PV)) == scale_PV.size
    between_views = np.corrcoef(scale_PV[:, :-1].ravel(), scale_PV[:, 1:].ravel())[0, 1]
    between_samples = np.corrcoef(scale_PV[:-1].ravel(), scale_PV[1:].ravel())[0, 1]
    assert abs(between_views) < 0.08 and abs(between_samples) < 0.08


def test_augmentations_can_be_switched_off() -> None:
    plain = draws(Augmentation(scale=(1, 1), rotation_deg=0, flip=False), samples=20)
    np.testing.assert_array_equal(plain, np.broadcast_to(UNAUGMENTED, plain.shape))
    assert UNAUGMENTED.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "change", [{"rotation_deg": 31}, {"flip": False}, {"scale": (0.75, 1.26)}], ids=str
)
def test_any_changed_setting_changes_all_random_words(change) -> None:
    """Also those of the unchanged settings: the digest of all settings is part of the key."""

    def uniforms(augmentation: Augmentation) -> np.ndarray:
        low, high = augmentation.scale
        scale, rotation, _ = draws(augmentation, samples=5).T
        return np.stack([(scale - low) / (high - low), rotation / augmentation.rotation_deg])

    difference = uniforms(Augmentation()) - uniforms(Augmentation(**change))
    assert (np.abs(difference) > 1e-6).all()


def test_another_seed_changes_all_random_words() -> None:
    one, other = (draws(Augmentation(), seed=seed, samples=5)[:, :2] for seed in (0, 1))
    assert (one != other).all()


@pytest.mark.parametrize("scale", [(1.25, 0.75), (0.05, 1.0), (1.0, 11.0)], ids=str)
def test_bad_scale_ranges_are_refused(scale) -> None:
    with pytest.raises(ValidationError, match=r"expected 0.1 <= low <= high <= 10, got \("):
        Augmentation(scale=scale)


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


def test_the_crop_of_a_whole_image_has_the_identity_map() -> None:
    """The edges of a 64 x 64 image are at -0.5 and 63.5, so its box is centered at 31.5."""
    affine = affine_23(np.array([31.5, 31.5]), 64.0, UNAUGMENTED, 64)
    np.testing.assert_allclose(affine, [[1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_a_larger_scale_shows_more() -> None:
    """At scale 2, a point half a box side from the center is a quarter of the crop away from it."""
    affine = affine_23(np.array([50.0, 50.0]), 40.0, np.array([2.0, 0.0, 0.0]), 100)
    np.testing.assert_allclose(apply(affine, (70.0, 50.0)), [[49.5 + 25, 49.5]])


def test_positive_rotation_is_clockwise_on_screen() -> None:
    """Points right of the center move below it (y points down); points above it move right."""
    affine = affine_23(np.array([50.0, 50.0]), 100.0, np.array([1.0, 90.0, 0.0]), 100)
    rotated = apply(affine, (60.0, 50.0), (50.0, 40.0))
    np.testing.assert_allclose(rotated, [[49.5, 59.5], [59.5, 49.5]])
    by_30_deg = affine_23(np.array([50.0, 50.0]), 100.0, np.array([1.0, 30.0, 0.0]), 100)
    np.testing.assert_allclose(
        apply(by_30_deg, (60.0, 50.0)), [[49.5 + 10 * math.sqrt(3) / 2, 49.5 + 5]]
    )


@fuzz
@given(box=boxes, view=parameters, crop_px=crops, point=st.tuples(coordinates, coordinates))
def test_a_flip_mirrors_the_rotated_crop(box, view, crop_px, point) -> None:
    x, y, side = box
    scale, rotation, _ = view
    plain, flipped = (
        apply(affine_23(np.array([x, y]), side, np.array([scale, rotation, flip]), crop_px), point)
        for flip in (0.0, 1.0)
    )
    expected = np.array([[crop_px - 1 - plain[0, 0], plain[0, 1]]])
    np.testing.assert_allclose(flipped, expected, rtol=1e-12, atol=1e-6)


def test_a_flip_is_exact_on_the_grid() -> None:
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
    recovered = transform(invert(affine), apply(affine, *points))
    np.testing.assert_allclose(recovered, points, atol=1e-6)


def test_maps_are_similarities() -> None:
    """Lengths are scaled by crop / (side x scale) in all directions; angles are preserved."""
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
