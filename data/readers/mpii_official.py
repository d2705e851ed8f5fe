"""MPII Human Pose from its own label file, as the benchmark's site has it.

    root/mpii/mpii_human_pose_v1_u12_1.mat   root/mpii/images/

    RELEASE                    struct
      img_train     1 x I      1: the image is a training image
      annolist      1 x I      struct
        image.name
        annorect    1 x P      struct, a person each
          x1 y1 x2 y2          the head's box
          scale     objpos.x objpos.y          as in `mpii.py`
          annopoints.point     1 x J struct: x, y, id (the joint, 0 to 15), is_visible

Whatever a person lacks is an empty array, or a field that the image's struct doesn't have.
Coordinates are 1-based. A joint that has a point is annotated, occluded or not. The benchmark's own
test images have no labels: they are left out, and so are training people without joints, position
or scale. Andriluka et al., CVPR 2014.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import MAX_PEOPLE, no_collection
from ..io.arrays import read_struct
from ..samples import SampleSet, id_hash
from .mpii import SC_BIAS, K, sample_set

FILE = "mpii_human_pose_v1_u12_1.mat"

TEST_SHARE = 0.1
"""The part of the labeled images that "test" is, by the hash of their names."""

HEAD_BOX = ("x1", "y1", "x2", "y2")


class _Person(NamedTuple):
    image: str
    position: tuple[float, float]
    scale: float
    head: tuple[float, ...]
    joints_K2: NDArray[np.float64]


def mpii_official(root: Path, split: str) -> SampleSet:
    """The people with labels, of nine images in ten for "train", of the tenth for "test".

    The 2,958 people that the field calls MPII's validation set are not marked in this file: they
    are a list of Tompson et al. (CVPR 2015) that HRNet and pytorch-pose ship, so that scores to
    compare with theirs take their files (`data.reader = "mpii"` or `"pytorch-pose"`). Here "test"
    is a part of the labeled people, drawn by the hash of the image's name: the same ones in every
    copy, and nobody of it shares an image with "train". The unit of PCKh is the head box, for all.

    Raises:
        ValueError: the file is missing, damaged, or not as described above.
    """
    path = root / "mpii" / FILE
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected mpii/{FILE} and mpii/images/ as published; set their "
            "parent folder with --set data.root=FOLDER"
        )
    people = _read(path)
    wanted = [person for person in people if _is_test(person.image) == (split == "test")]
    return sample_set(
        root,
        "official",
        [person.image for person in wanted],
        np.array([person.joints_K2 for person in wanted]).reshape(-1, K, 2) - 1,
        np.array([person.position for person in wanted]).reshape(-1, 2),
        np.array([person.scale for person in wanted]),
        _units(np.array([person.head for person in wanted]).reshape(-1, 2, 2)),
    )


def _is_test(image: str) -> bool:
    return id_hash(f"mpii/{image}") < TEST_SHARE * 2.0**64


def _units(head_N22: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(SC_BIAS * np.linalg.norm(head_N22[:, 1] - head_N22[:, 0], axis=-1))


def _read(path: Path) -> list[_Person]:
    with no_collection():
        release = read_struct(path, "RELEASE")
        try:
            images = np.ravel(release["annolist"][0, 0])
            trains = np.ravel(release["img_train"][0, 0]).astype(bool)
            if len(images) != len(trains):
                raise ValueError("annolist and img_train of different lengths")
        except (IndexError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: expected MPII's RELEASE with annolist and img_train ({error})"
            ) from None
        people = [
            person
            for number, (image, is_train) in enumerate(zip(images, trains, strict=True), 1)
            if is_train
            for person in _people(path, number, image)
        ]
    if not 1 <= len(people) <= MAX_PEOPLE:
        raise ValueError(f"{path}: expected 1 to {MAX_PEOPLE} labeled people, found {len(people)}")
    return people


def _people(path: Path, number: int, image: Any) -> Iterator[_Person]:
    """The labeled people of image `number`, from 1."""
    person = 0
    try:
        name = str(image["image"]["name"][0, 0][0])
        for person, fields in enumerate(_rows(image["annorect"]), 1):  # noqa: B007 (the message has it)
            found = _person(name, fields)
            if found is not None:
                yield found
    except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path}: image {number}, person {person}: expected finite numbers nested as in MPII's "
            f"release, found something else ({error})"
        ) from None


def _rows(structs: Any) -> Iterator[dict[str, Any]]:
    """The elements of a struct array, of its fields that are not empty.

    Field by field: to take an element's fields from the element is twenty times as slow.
    """
    names = structs.dtype.names or ()
    columns = [structs[name].ravel().tolist() for name in names]
    for values in zip(*columns, strict=True):
        yield {n: v for n, v in zip(names, values, strict=True) if np.size(v)}


def _person(name: str, fields: dict[str, Any]) -> _Person | None:
    """Nothing, where joints, position or scale are missing."""
    if not {"annopoints", "scale", "objpos"} <= fields.keys():
        return None
    joints_K2 = _joints(fields["annopoints"]["point"][0, 0])
    if np.isnan(joints_K2).all():
        return None
    where = next(_rows(fields["objpos"]))
    at = _number(where["x"]), _number(where["y"])
    has_head = fields.keys() >= set(HEAD_BOX)
    head = tuple(_number(fields[f]) if has_head else 0.0 for f in HEAD_BOX)
    return _Person(name, at, _number(fields["scale"]), head, joints_K2)


def _joints(points: Any) -> NDArray[np.float64]:
    """1-based (K, 2), NaN where there is no point."""
    columns = (points[f].ravel().tolist() for f in ("id", "x", "y"))
    joint_J, x_J, y_J = (np.array([v.item() for v in column], np.float64) for column in columns)
    if not (np.isin(joint_J, np.arange(K)).all() and np.isfinite([x_J, y_J]).all()):
        raise ValueError("a joint without a place, or none of MPII's")
    joints_K2 = np.full((K, 2), np.nan)
    joints_K2[joint_J.astype(int)] = np.stack([x_J, y_J], axis=-1)
    return joints_K2


def _number(array: Any) -> float:
    value = float(array.item())
    if not math.isfinite(value):
        raise ValueError(f"{value}")
    return value
