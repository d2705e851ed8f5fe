"""MPII Human Pose from its own label file, as published on the benchmark's site.

    root/mpii/mpii_human_pose_v1_u12_1.mat   root/mpii/images/

    RELEASE                    struct
      img_train     1 x I      1: the image is a training image
      annolist      1 x I      struct
        image.name
        annorect    1 x P      struct, one element per person
          x1 y1 x2 y2          the head's box
          scale     objpos.x objpos.y          as in `mpii.py`
          annopoints.point     1 x J struct: x, y, id (the joint, 0 to 15), is_visible

A value that a person lacks is an empty array, or a field missing from the image's struct.
Coordinates are 1-based. A joint with a point is annotated, occluded or not. Excluded are the
benchmark's own test images, which have no labels, and training samples without joints, position or
scale. Andriluka et al., CVPR 2014.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import MAX_SAMPLES, gc_disabled
from ..io.arrays import read_struct
from ..samples import SampleSet, Tally, id_hash
from .mpii import SC_BIAS, K, sample_set

FILE = "mpii_human_pose_v1_u12_1.mat"

TEST_SHARE = 0.1
"""The share of the labeled images in "test", selected by the hash of their names."""

HEAD_BOX = ("x1", "y1", "x2", "y2")


class _Record(NamedTuple):
    """One labeled person of the file; coordinates are 1-based pixels."""

    image: str
    position: tuple[float, float]
    scale: float
    head: tuple[float, ...]  # x1, y1, x2, y2; zeros without a head box
    joints_K2: NDArray[np.float64]


def mpii_official(root: Path, split: str) -> SampleSet:
    """The labeled samples: those of about nine images in ten are "train", the others "test".

    The 2,958 samples known as MPII's validation set are not marked in this file: they are a list of
    Tompson et al. (CVPR 2015) that HRNet and pytorch-pose ship. To compare scores with theirs, use
    their files (`data.reader = "mpii"` or `"pytorch-pose"`). Here, "test" is selected by the hash
    of the image's name: it is the same in every copy and shares no image with "train". PCKh's unit
    is from the head boxes in both splits.

    Raises:
        ValueError: the file is missing, damaged, or does not have the format described above.
    """
    path = root / "mpii" / FILE
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: expected mpii/{FILE} and mpii/images/ as published; set their "
            "parent folder with --set data.root=FOLDER"
        )
    all_records, unlabeled = _read(path)
    records = [record for record in all_records if _is_test(record.image) == (split == "test")]
    left_out = (
        ("of the other split", len(all_records) - len(records)),
        ("without joints, position or scale", unlabeled),
    )
    return sample_set(
        root,
        prefix="official",
        image_names=[record.image for record in records],
        joints_NK2=np.array([record.joints_K2 for record in records]).reshape(-1, K, 2) - 1,
        position_N2=np.array([record.position for record in records]).reshape(-1, 2),
        scale_N=np.array([record.scale for record in records]),
        normalizer_N=_normalizers(np.array([record.head for record in records]).reshape(-1, 2, 2)),
        tally=Tally(f"the training images of {path}", len(all_records) + unlabeled, left_out),
    )


def _is_test(image: str) -> bool:
    return id_hash(f"mpii/{image}") < TEST_SHARE * 2.0**64


def _normalizers(head_N22: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(SC_BIAS * np.linalg.norm(head_N22[:, 1] - head_N22[:, 0], axis=-1))


def _read(path: Path) -> tuple[list[_Record], int]:
    """The labeled persons of the training images, and the number of those without labels."""
    with gc_disabled():
        release = read_struct(path, "RELEASE")
        try:
            images = np.ravel(release["annolist"][0, 0])
            is_train = np.ravel(release["img_train"][0, 0]).astype(bool)
            if len(images) != len(is_train):
                raise ValueError("annolist and img_train of different lengths")
        except (IndexError, ValueError, TypeError) as error:
            raise ValueError(
                f"{path}: expected MPII's RELEASE with annolist and img_train ({error})"
            ) from None
        people = [
            record
            for index in np.flatnonzero(is_train).tolist()
            for record in _image_records(path, index + 1, images[index])
        ]
    records = [record for record in people if record is not None]
    if not 1 <= len(records) <= MAX_SAMPLES:
        raise ValueError(
            f"{path}: expected 1 to {MAX_SAMPLES} labeled samples, found {len(records)}"
        )
    return records, len(people) - len(records)


def _image_records(path: Path, number: int, image: Any) -> Iterator[_Record | None]:
    """The persons of image `number`, from 1; None: one without joints, position or scale."""
    person = 0
    try:
        name = str(image["image"]["name"][0, 0][0])
        for person, fields in enumerate(_rows(image["annorect"]), 1):  # noqa: B007 (for the message)
            yield _record(name, fields)
    except (IndexError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{path}: image {number}, person {person}: expected finite numbers nested as in MPII's "
            f"release, found something else ({error})"
        ) from None


def _rows(structs: Any) -> Iterator[dict[str, Any]]:
    """The elements of a struct array as dicts, without their empty fields.

    Reads the array field by field: reading each element's fields is twenty times as slow.
    """
    names = structs.dtype.names or ()
    columns = [structs[name].ravel().tolist() for name in names]
    for values in zip(*columns, strict=True):
        yield {n: v for n, v in zip(names, values, strict=True) if np.size(v)}


def _record(image: str, fields: dict[str, Any]) -> _Record | None:
    """One person's labels; None if joints, position or scale are missing."""
    if not {"annopoints", "scale", "objpos"} <= fields.keys():
        return None
    joints_K2 = _joints(fields["annopoints"]["point"][0, 0])
    if np.isnan(joints_K2).all():
        return None
    objpos = next(_rows(fields["objpos"]))
    has_head = fields.keys() >= set(HEAD_BOX)
    return _Record(
        image=image,
        position=(_number(objpos["x"]), _number(objpos["y"])),
        scale=_number(fields["scale"]),
        head=tuple(_number(fields[f]) if has_head else 0.0 for f in HEAD_BOX),
        joints_K2=joints_K2,
    )


def _joints(points: Any) -> NDArray[np.float64]:
    """1-based (K, 2), NaN for joints without a point."""
    columns = (points[f].ravel().tolist() for f in ("id", "x", "y"))
    joint_J, x_J, y_J = (np.array([v.item() for v in column], np.float64) for column in columns)
    if not (np.isin(joint_J, np.arange(K)).all() and np.isfinite([x_J, y_J]).all()):
        raise ValueError("a joint without coordinates, or not one of MPII's")
    joints_K2 = np.full((K, 2), np.nan)
    joints_K2[joint_J.astype(int)] = np.stack([x_J, y_J], axis=-1)
    return joints_K2


def _number(array: Any) -> float:
    value = float(array.item())
    if not math.isfinite(value):
        raise ValueError(f"{value}")
    return value
