"""A folder of images without a single label: for the teacher to teach on.

    FOLDER/**/*.jpg ...
    FOLDER/boxes.json    a list of {"image": "a.jpg", "x": 10, "y": 20, "w": 80, "h": 160}
    FOLDER/boxes.csv     or the same in columns, the first line naming them

Boxes are COCO's: from the image's top left corner, in pixels, a person each, several a picture if
need be; images that no box names are left out. Without a file of boxes every image is one person,
who fills it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import MAX_PEOPLE, column, numbered_ids, people_list, read_json, shared
from ..io.boxes import read_csv
from ..io.images import ImageFolder
from ..samples import SampleSet
from ..skeletons import Skeleton
from ..validation import MIN_BOX_PX

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
BOXES = ("boxes.json", "boxes.csv")
BOX_MARGIN = 1.25


def folder(root: Path, skeleton: Skeleton) -> SampleSet:
    """Everybody in a folder; all joints NaN.

    Args:
        skeleton: of the teacher that is to teach on them.

    Raises:
        ValueError: there is no such folder, it has no images, or its boxes are damaged.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder of images, found none")
    boxes = [root / name for name in BOXES if (root / name).is_file()]
    if len(boxes) > 1:
        raise ValueError(f"{root}: expected one of {' and '.join(BOXES)}, found both")
    names, center_N2, side_N = _boxed(boxes[0]) if boxes else _whole(root)
    images, image_N = shared(names)
    count = len(names)
    return SampleSet(
        "folder",
        skeleton,
        ImageFolder(root, images),
        numbered_ids("folder", names),
        image_N,
        np.full((count, skeleton.num_joints, 2), np.nan),
        center_N2,
        side_N,
        np.full(count, np.nan),
    )


Boxes = tuple[list[str], NDArray[np.float64], NDArray[np.float64]]
"""Names of the images, centers (N, 2) and sides (N,) of the crops, pixels."""


def _boxed(path: Path) -> Boxes:
    rows = read_csv(path) if path.suffix == ".csv" else read_json(path, "")
    people = people_list(path, rows)
    names = [str(person.get("image", "")) for person in people]
    box_N4 = np.stack([column(path, people, key, ()) for key in "xywh"], axis=-1)
    center_N2 = box_N4[:, :2] + box_N4[:, 2:] / 2 - 0.5
    return names, center_N2, BOX_MARGIN * box_N4[:, 2:].max(-1)


def _whole(root: Path) -> Boxes:
    names = sorted(
        str((Path(parent) / name).relative_to(root))
        for parent, _, files in os.walk(root)
        for name in files
        if Path(name).suffix.lower() in SUFFIXES
    )
    if not 1 <= len(names) <= MAX_PEOPLE:
        raise ValueError(f"{root}: expected 1 to {MAX_PEOPLE} images, found {len(names)}")
    size_N2 = _sizes(ImageFolder(root, names))
    return names, (size_N2 - 1) / 2, size_N2.max(-1)


def _sizes(images: ImageFolder) -> NDArray[np.float64]:
    """(N, 2) in pixels; for what is no image the least that `checks` lets pass, for it to name."""
    size_N2 = np.full((len(images.names), 2), MIN_BOX_PX)
    for index in range(len(images.names)):
        try:
            size_N2[index] = images.size(index)
        except ValueError:
            continue
    return size_N2
