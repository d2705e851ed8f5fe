"""The synthetic data set: reproducible samples with exact labels."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from unittest.mock import Mock

import numpy as np
import pytest

from fpd.data.readers.synthetic import drawing, people
from fpd.data.readers.synthetic.people import VERSION, synthetic_samples
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.data.validation import check


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """Some tests change how images are drawn: no test sees images drawn by another."""
    people._image.cache_clear()
    yield
    people._image.cache_clear()


def pixels(samples: SampleSet, index: int) -> np.ndarray:
    image, reduction = samples.images.read(samples[index].image, 1.0)
    assert reduction == 1
    return image


def columns(samples: SampleSet) -> list[np.ndarray]:
    return [samples.joints_NK2, samples.center_N2, samples.side_N, samples.normalizer_N]


def test_joints_and_boxes_are_those_of_this_version() -> None:
    """Fails on any change of pose, label or box: increase VERSION, then update the digest here."""
    samples = synthetic_samples("train", 200)
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns(samples)))
    assert (VERSION, digest.hexdigest()[:16]) == (1, "74197ab19e809d37")


def test_a_sample_does_not_depend_on_the_count() -> None:
    few, many = synthetic_samples("train", 5), synthetic_samples("train", 60)
    for a, b in zip(columns(few), columns(many), strict=True):
        np.testing.assert_array_equal(a, b[:5])
    assert few.ids == many.ids[:5]
    np.testing.assert_array_equal(pixels(few, 4), pixels(many, 4))


def test_an_image_is_drawn_once_and_cannot_be_changed(monkeypatch) -> None:
    paint = Mock(wraps=drawing.paint)
    monkeypatch.setattr(drawing, "paint", paint)
    samples = synthetic_samples("train", 1, seed=11)
    image = pixels(samples, 0)
    np.testing.assert_array_equal(image, pixels(samples, 0))
    assert paint.call_count == 1
    with pytest.raises(ValueError, match="read-only"):
        image[:] = 0


def test_ids_and_names() -> None:
    samples = synthetic_samples("train", 3)
    assert samples.ids[2] == "figures/train/000002"  # ids never change
    assert samples.image_N.tolist() == [0, 1, 2]
    assert samples.images.locate(2) == "image 2 of synthetic/train"
    assert samples.skeleton is LSP


def test_splits_and_seeds_have_different_samples() -> None:
    sets = [
        synthetic_samples("train", 4),
        synthetic_samples("test", 4),
        synthetic_samples("train", 4, seed=1),
    ]
    assert len({samples.joints_NK2.tobytes() for samples in sets}) == 3
    assert len({pixels(samples, 0).tobytes() for samples in sets}) == 3
    identities = {samples.images.identity(i) for samples in sets for i in range(4)}
    assert len(identities) == 12
    assert all(f"version {VERSION}" in identity for identity in identities)


def test_joints_are_inside_their_images() -> None:
    samples = synthetic_samples("test", 1000, seed=3)
    size_N2 = np.array([samples.images.size(i) for i in range(1000)])
    assert size_N2.min() == 128 and size_N2.max() == 220
    assert (samples.joints_NK2 >= 0).all()
    assert (samples.joints_NK2 <= size_N2[:, None] - 1).all()
    assert (samples.normalizer_N > 0.05 * size_N2.min(axis=-1)).all()
    check(samples)


def test_box_and_normalizer_are_those_of_the_joints() -> None:
    sample = synthetic_samples("train", 1)[0]
    low, high = sample.joints_K2.min(axis=0), sample.joints_K2.max(axis=0)
    np.testing.assert_allclose(sample.center_2, (low + high) / 2)
    assert sample.side_px == pytest.approx(1.25 * (high - low).max())
    left_shoulder, right_hip = sample.joints_K2[9], sample.joints_K2[2]
    assert sample.normalizer_px == pytest.approx(np.linalg.norm(left_shoulder - right_hip))


def test_images_have_their_declared_sizes() -> None:
    samples = synthetic_samples("test", 10)
    for i in range(10):
        image = pixels(samples, i)
        width, height = samples.images.size(i)
        assert image.shape == (height, width, 3) and image.dtype == np.uint8


def test_shapes_are_painted_at_subpixel_positions() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    disc = 9 * drawing.DISC + (40.25, 30.75)
    drawing._fill(image, [drawing.Shape(0, disc, [200.0] * 3)])
    weight = image[..., 0] / image[..., 0].sum()
    y, x = np.mgrid[:60, :80]
    assert ((weight * x).sum(), (weight * y).sum()) == pytest.approx((40.25, 30.75), abs=0.05)


def test_joints_are_on_the_drawn_person(monkeypatch) -> None:
    samples = synthetic_samples("test", 40)
    with_person = [pixels(samples, i).astype(int) for i in range(40)]
    for part in ("_limbs", "_trunk", "_head"):
        monkeypatch.setattr(drawing, part, lambda *_: [])
    people._image.cache_clear()
    on_person = []
    for i, image in enumerate(with_person):
        changed = np.abs(image - pixels(samples, i)).max(axis=-1) > 8
        # Joints are inside the drawn parts, except head tops, which are on an edge: move them in.
        joints = samples.joints_NK2[i].copy()
        joints[13] += 0.2 * (joints[12] - joints[13])
        x, y = np.rint(joints).astype(int).T
        on_person.append(changed[y, x])
    share_K = np.mean(on_person, axis=0)
    # Not 1: occluders may hide a joint, and clothes may have the background's color.
    assert share_K.min() > 0.8 and share_K.mean() > 0.93


def test_left_and_right_are_person_centric() -> None:
    """In the image, the right side is on the left of upright people who face the camera."""
    joints = synthetic_samples("train", 600).joints_NK2
    spine = joints[:, 12] - (joints[:, 2] + joints[:, 3]) / 2
    upright = -spine[:, 1] > 0.8 * np.linalg.norm(spine, axis=-1)
    points_NP3 = people._poses(0, "train", range(600)).points_NP3
    faces_camera = np.array([drawing._faces_camera(points_P3) for points_P3 in points_NP3])
    for right, left in ((8, 9), (2, 3)):
        right_is_on_the_left = joints[:, right, 0] < joints[:, left, 0]
        assert (right_is_on_the_left == faces_camera)[upright].mean() > 0.97
    assert upright.mean() > 0.5
    assert faces_camera.mean() == pytest.approx(0.75, abs=0.05)


def test_poses_vary() -> None:
    joints = synthetic_samples("train", 600).joints_NK2
    stature = np.linalg.norm(np.ptp(joints, axis=1), axis=-1)
    relative = (joints - joints.mean(axis=1, keepdims=True)) / stature[:, None, None]
    assert (relative.std(axis=0)[[0, 5, 6, 11]] > 0.12).all(), "ankles and wrists move"
    wrist_above_head = joints[:, 6, 1] < joints[:, 13, 1]
    assert 0.1 < wrist_above_head.mean() < 0.5


def test_images_are_cheap_to_send() -> None:
    images = synthetic_samples("train", 1000).images
    pickled = pickle.dumps(images)
    assert len(pickled) < 200
    image, _ = pickle.loads(pickled).read(999, 1.0)
    np.testing.assert_array_equal(image, images.read(999, 1.0)[0])


@pytest.mark.parametrize(
    ("split", "count", "seed", "message"),
    [
        ("validation", 1, 0, "split: expected 'train' or 'test', got 'validation'"),
        ("train", 0, 0, "count: expected at least 1, got 0"),
        ("train", 1, 2**64, "seed: expected 0 to"),
    ],
)
def test_bad_arguments_are_named(split, count, seed, message) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_samples(split, count, seed=seed)
