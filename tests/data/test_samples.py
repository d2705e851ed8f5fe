"""Sample sets: columns that agree, stable ids, fingerprints that name what differs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from fpd.data.samples import SampleSet, boxes, id_hash

JOINTS = np.arange(3 * 14 * 2, dtype=np.float64).reshape(3, 14, 2)


@pytest.fixture
def people(make_people) -> SampleSet:
    return make_people(JOINTS, ids=["b", "a", "c"], side=[100.0, 90.0, 80.0])


@pytest.mark.parametrize(
    "column", ["ids", "image_N", "joints_NK2", "center_N2", "side_N", "normalizer_N"]
)
def test_columns_of_unequal_length_are_refused(people, column) -> None:
    with pytest.raises(ValueError, match=r"^people: expected columns of one length, got \["):
        dataclasses.replace(people, **{column: getattr(people, column)[:2]})


def test_duplicate_ids_are_refused(people) -> None:
    with pytest.raises(ValueError, match=r"^people: expected unique sample ids"):
        dataclasses.replace(people, ids=("a", "b", "a"))
    with pytest.raises(ValueError, match="unique"):
        people.take([0, 1, 0])


def test_a_sample_is_one_row_of_every_column(people) -> None:
    sample = people[1]
    assert (sample.id, sample.image, sample.side_px, sample.normalizer_px) == ("a", 1, 90.0, 20.0)
    np.testing.assert_array_equal(sample.joints_K2, JOINTS[1])
    np.testing.assert_array_equal(sample.center_2, [50.0, 40.0])
    assert type(sample.image) is int and type(sample.side_px) is float
    with pytest.raises(IndexError):
        people[3]


@pytest.mark.parametrize("container", [list, tuple, np.array])
def test_take_keeps_rows_together_in_the_order_asked_for(people, container) -> None:
    taken = people.take(container([2, 0]))
    assert len(taken) == 2 and taken.ids == ("c", "b")
    assert taken.images is people.images and taken.name == people.name
    for new, old in ((0, 2), (1, 0)):
        assert (taken[new].image, taken[new].side_px) == (people[old].image, people[old].side_px)
        np.testing.assert_array_equal(taken[new].joints_K2, people[old].joints_K2)
    np.testing.assert_array_equal(taken.id_hash_N, people.id_hash_N[[2, 0]])


def test_nobody_may_be_taken(people) -> None:
    nobody = people.take([])
    assert len(nobody) == 0 and nobody.joints_NK2.shape == (0, 14, 2)
    assert nobody.fingerprint()["samples"] == 0


# `printf ID | b2sum -l 64`, the bytes read as a little-endian number.
HASHES = {
    "lsp/im0001": "1dbf10eae629b3d4",
    "Größe/人": "921a5b365f92db37",
    "": "e4a6a0577479b2b4",
}


@pytest.mark.parametrize(("text", "b2sum"), HASHES.items())
def test_id_hash_is_blake2b(text, b2sum) -> None:
    assert id_hash(text) == int.from_bytes(bytes.fromhex(b2sum), "little")


def test_id_hashes_come_as_a_column(make_people) -> None:
    people = make_people(JOINTS, ids=list(HASHES))
    assert people.id_hash_N.dtype == np.uint64
    assert people.id_hash_N.tolist() == [
        int.from_bytes(bytes.fromhex(b2sum), "little") for b2sum in HASHES.values()
    ]


def changed(one: SampleSet, other: SampleSet) -> set[str]:
    a, b = one.fingerprint(), other.fingerprint()
    assert set(a) == set(b) == {"name", "samples", "ids", "images", "labels"}
    return {key for key in a if a[key] != b[key]}


def test_fingerprint_is_the_same_for_the_same_people(make_people, people) -> None:
    again = make_people(JOINTS.copy(), ids=["b", "a", "c"], side=[100.0, 90.0, 80.0])
    assert changed(people, again) == set()
    assert changed(people, people.take([0, 1, 2])) == set()


def test_fingerprint_names_what_changed(people) -> None:
    moved = people.joints_NK2.copy()
    moved[2, 13, 1] += 1e-9
    assert changed(people, dataclasses.replace(people, joints_NK2=moved)) == {"labels"}

    unlabeled = people.joints_NK2.copy()
    unlabeled[0, 0] = np.nan
    assert changed(people, dataclasses.replace(people, joints_NK2=unlabeled)) == {"labels"}

    for column in ("center_N2", "side_N"):
        box = getattr(people, column).copy()
        box[1] += 1e-9
        assert changed(people, dataclasses.replace(people, **{column: box})) == {"images"}

    assert changed(people, dataclasses.replace(people, ids=("b", "a", "d"))) == {"ids"}
    assert changed(people, dataclasses.replace(people, name="others")) == {"name"}
    assert changed(people, dataclasses.replace(people, image_N=np.array([0, 2, 1]))) == {"images"}
    # The unit of PCK decides scores, not heatmaps.
    torso = dataclasses.replace(people, normalizer_N=np.ones(3))
    assert changed(people, torso) == set()


def test_fingerprint_sees_other_images(make_people, people) -> None:
    pictures = [np.zeros((90, 120, 3), np.uint8)] * 2 + [np.zeros((90, 121, 3), np.uint8)]
    other = make_people(JOINTS, pictures, ids=["b", "a", "c"], side=[100.0, 90.0, 80.0])
    assert changed(people, other) == {"images"}


def test_fingerprint_sees_order_and_number(people) -> None:
    assert changed(people, people.take([1, 0, 2])) == {"ids", "images", "labels"}
    assert changed(people, people.take([0, 1])) == {"samples", "ids", "images", "labels"}


def test_fingerprint_is_the_same_in_another_process() -> None:
    script = (
        "from fpd.data.readers.synthetic.people import synthetic_people\n"
        "print(sorted(synthetic_people('train', 5).fingerprint().items()))"
    )
    there = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    from fpd.data.readers.synthetic.people import synthetic_people

    assert there.strip() == str(sorted(synthetic_people("train", 5).fingerprint().items()))


def test_boxes_are_squares_around_the_labeled_joints() -> None:
    nan = np.nan
    joints = np.array(
        [
            [[10.0, 20.0], [30.0, 100.0], [14.0, 40.0]],  # tall: 20 x 80
            [[-5.0, 3.0], [nan, nan], [15.0, 4.0]],  # wide, one joint missing
            [[7.0, 8.0], [nan, 1.0], [900.0, nan]],  # half a position is no position
        ]
    )
    center, side = boxes(joints, margin=1.25)
    np.testing.assert_allclose(center, [[20.0, 60.0], [5.0, 3.5], [7.0, 8.0]])
    np.testing.assert_allclose(side, [100.0, 25.0, 0.0])


def test_nobody_labeled_has_no_box() -> None:
    joints = np.full((2, 14, 2), np.nan)
    joints[1] = [[0.0, 0.0], [8.0, 4.0]] * 7
    center, side = boxes(joints, margin=2.0)
    assert np.isnan(center[0]).all() and np.isnan(side[0])
    assert center[1].tolist() == [4.0, 2.0] and side[1] == 16.0
    assert center.shape == (2, 2) and side.shape == (2,)


def test_boxes_of_no_people() -> None:
    center, side = boxes(np.empty((0, 14, 2)), margin=1.0)
    assert center.shape == (0, 2) and side.shape == (0,)
