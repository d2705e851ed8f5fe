"""Sample sets: consistent columns, stable ids, fingerprints that show what differs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import SampleSet, id_hash, join, joint_boxes, normalizer_lengths
from fpd.data.skeletons import COCO, LSP

JOINTS = np.arange(3 * 14 * 2, dtype=np.float64).reshape(3, 14, 2)


@pytest.fixture
def samples(make_samples) -> SampleSet:
    return make_samples(JOINTS, ids=["b", "a", "c"], side=[100.0, 90.0, 80.0])


def test_columns_of_unequal_length_are_refused(samples) -> None:
    for column in ("ids", "image_N", "joints_NK2", "center_N2", "side_N", "normalizer_N"):
        with pytest.raises(ValueError, match=r"^toy: expected columns of one length, got \["):
            dataclasses.replace(samples, **{column: getattr(samples, column)[:2]})


def test_duplicate_ids_are_refused(samples) -> None:
    with pytest.raises(ValueError, match=r"^toy: expected unique sample ids"):
        dataclasses.replace(samples, ids=("a", "b", "a"))
    with pytest.raises(ValueError, match="unique"):
        samples.take([0, 1, 0])


def test_a_sample_is_one_row_of_every_column(samples) -> None:
    sample = samples[1]
    assert (sample.id, sample.image, sample.side_px, sample.normalizer_px) == ("a", 1, 90.0, 20.0)
    np.testing.assert_array_equal(sample.joints_K2, JOINTS[1])
    np.testing.assert_array_equal(sample.center_2, [50.0, 40.0])
    assert type(sample.image) is int and type(sample.side_px) is float
    with pytest.raises(IndexError):
        samples[3]


@pytest.mark.parametrize("container", [list, np.array])
def test_take_selects_rows_in_the_given_order(samples, container) -> None:
    taken = samples.take(container([2, 0]))
    assert len(taken) == 2 and taken.ids == ("c", "b")
    assert taken.images is samples.images and taken.name == samples.name
    for new, old in ((0, 2), (1, 0)):
        assert (taken[new].image, taken[new].side_px) == (samples[old].image, samples[old].side_px)
        np.testing.assert_array_equal(taken[new].joints_K2, samples[old].joints_K2)
    np.testing.assert_array_equal(taken.id_hash_N, samples.id_hash_N[[2, 0]])


def test_a_set_may_be_empty(samples) -> None:
    empty = samples.take([])
    assert len(empty) == 0 and empty.joints_NK2.shape == (0, 14, 2)
    assert empty.fingerprint()["samples"] == 0


# `printf ID | b2sum -l 64`, the bytes read as a little-endian number.
HASHES = {
    "lsp/im0001": "1dbf10eae629b3d4",
    "Größe/人": "921a5b365f92db37",
    "": "e4a6a0577479b2b4",
}


@pytest.mark.parametrize(("text", "b2sum"), HASHES.items())
def test_id_hash_is_blake2b(text, b2sum) -> None:
    assert id_hash(text) == int.from_bytes(bytes.fromhex(b2sum), "little")


def test_id_hashes_are_a_column(make_samples) -> None:
    samples = make_samples(JOINTS, ids=list(HASHES))
    assert samples.id_hash_N.dtype == np.uint64
    assert samples.id_hash_N.tolist() == [
        int.from_bytes(bytes.fromhex(b2sum), "little") for b2sum in HASHES.values()
    ]


def changed(one: SampleSet, other: SampleSet) -> set[str]:
    """The keys in which two fingerprints differ."""
    a, b = one.fingerprint(), other.fingerprint()
    assert set(a) == set(b) == {"name", "samples", "ids", "images", "labels"}
    return {key for key in a if a[key] != b[key]}


def test_fingerprint_is_the_same_for_the_same_samples(make_samples, samples) -> None:
    copy = make_samples(JOINTS.copy(), ids=["b", "a", "c"], side=[100.0, 90.0, 80.0])
    assert changed(samples, copy) == set()
    assert changed(samples, samples.take([0, 1, 2])) == set()


def test_fingerprint_shows_what_changed(samples) -> None:
    moved = samples.joints_NK2.copy()
    moved[2, 13, 1] += 1e-9
    assert changed(samples, dataclasses.replace(samples, joints_NK2=moved)) == {"labels"}

    unlabeled = samples.joints_NK2.copy()
    unlabeled[0, 0] = np.nan
    assert changed(samples, dataclasses.replace(samples, joints_NK2=unlabeled)) == {"labels"}

    for column in ("center_N2", "side_N"):
        box = getattr(samples, column).copy()
        box[1] += 1e-9
        assert changed(samples, dataclasses.replace(samples, **{column: box})) == {"images"}

    assert changed(samples, dataclasses.replace(samples, ids=("b", "a", "d"))) == {"ids"}
    assert changed(samples, dataclasses.replace(samples, name="others")) == {"name"}
    assert changed(samples, dataclasses.replace(samples, image_N=np.array([0, 2, 1]))) == {"images"}
    # PCK's unit decides scores, not heatmaps.
    other_unit = dataclasses.replace(samples, normalizer_N=np.ones(3))
    assert changed(samples, other_unit) == set()


def test_fingerprint_changes_with_the_images(make_samples, samples) -> None:
    images = [np.zeros((90, 120, 3), np.uint8)] * 2 + [np.zeros((90, 121, 3), np.uint8)]
    other = make_samples(JOINTS, images, ids=["b", "a", "c"], side=[100.0, 90.0, 80.0])
    assert changed(samples, other) == {"images"}


def test_fingerprint_changes_with_order_and_number(samples) -> None:
    assert changed(samples, samples.take([1, 0, 2])) == {"ids", "images", "labels"}
    assert changed(samples, samples.take([0, 1])) == {"samples", "ids", "images", "labels"}


def test_boxes_are_squares_around_the_labeled_joints() -> None:
    nan = np.nan
    joints = np.array(
        [
            [[10.0, 20.0], [30.0, 100.0], [14.0, 40.0]],  # tall: 20 x 80
            [[-5.0, 3.0], [nan, nan], [15.0, 4.0]],  # wide, one joint missing
            [[7.0, 8.0], [nan, 1.0], [900.0, nan]],  # half-labeled joints do not count
        ]
    )
    center, side = joint_boxes(joints, margin=1.25)
    np.testing.assert_allclose(center, [[20.0, 60.0], [5.0, 3.5], [7.0, 8.0]])
    np.testing.assert_allclose(side, [100.0, 25.0, 0.0])


def test_unlabeled_samples_have_no_box() -> None:
    joints = np.full((2, 14, 2), np.nan)
    joints[1] = [[0.0, 0.0], [8.0, 4.0]] * 7
    center, side = joint_boxes(joints, margin=2.0)
    assert np.isnan(center[0]).all() and np.isnan(side[0])
    assert center[1].tolist() == [4.0, 2.0] and side[1] == 16.0
    assert center.shape == (2, 2) and side.shape == (2,)


def test_boxes_of_an_empty_set() -> None:
    center, side = joint_boxes(np.empty((0, 14, 2)), margin=1.0)
    assert center.shape == (0, 2) and side.shape == (0,)


def test_every_sample_is_in_one_part() -> None:
    samples = synthetic_samples("train", 200)
    masks = np.stack([samples.part(number, 4) for number in range(4)])
    assert (masks.sum(axis=0) == 1).all() and masks.dtype == np.bool_
    assert masks.sum(axis=1).min() > 25  # of 50 on average
    np.testing.assert_array_equal(samples.take([7, 3]).part(2, 4), masks[2, [7, 3]])


def test_normalizers_are_distances_between_two_joints() -> None:
    joints = JOINTS.copy()
    joints[1, 9] = np.nan  # a left shoulder
    expected = np.linalg.norm(joints[:, 9] - joints[:, 2], axis=-1)
    np.testing.assert_allclose(normalizer_lengths(joints, LSP), expected)
    assert np.isnan(expected).tolist() == [False, True, False]
    assert np.isnan(normalizer_lengths(np.zeros((2, 17, 2)), COCO)).tolist() == [True, True]


def test_sets_of_different_skeletons_cannot_be_joined(samples) -> None:
    other = dataclasses.replace(samples, skeleton=COCO)
    with pytest.raises(ValueError, match="expected samples of one skeleton, got lsp and coco"):
        join(samples, other, "suffix")
