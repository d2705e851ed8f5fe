"""A folder of images without labels, for students that train on a teacher's heatmaps.

    FOLDER/**/*.jpg ...
    FOLDER/boxes.json    a list of {"image": "a.jpg", "x": 10, "y": 20, "w": 80, "h": 160}
    FOLDER/boxes.csv     or the same as columns, with the header image,x,y,w,h

Boxes are as in COCO: x and y are the left and top edge, in pixels. Each box is one sample; an image
may have several, and images without a box are excluded. Where boxes have the fields `iscrowd`,
`category_id` or `score`, those of crowds, of other categories than people's and with low scores are
left out and counted (`io.boxes.people_boxes`), as by `fpd predict`. Without a file of boxes, each
image is one sample whose box is the whole image.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import (
    MAX_SAMPLES,
    numbered_ids,
    unique_images,
)
from ..io.boxes import people_boxes, read_boxes
from ..io.images import IMAGE_SUFFIXES, ImageFolder
from ..samples import SampleSet, Tally
from ..skeletons import Skeleton
from ..validation import MIN_BOX_PX

BOX_FILES = ("boxes.json", "boxes.csv")
BOX_MARGIN = 1.25


def folder(root: Path, skeleton: Skeleton) -> SampleSet:
    """The samples of a folder; all joints are NaN.

    Args:
        skeleton: the joints of the teacher that makes the heatmaps.

    Raises:
        ValueError: there is no such folder, it has no images, or its file of boxes is damaged.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder of images, found none")
    box_files = [root / name for name in BOX_FILES if (root / name).is_file()]
    if len(box_files) > 1:
        raise ValueError(f"{root}: expected one of {' and '.join(BOX_FILES)}, found both")
    box_file = box_files[0] if box_files else None
    left_out: dict[str, int] = {}
    if box_file is None:
        names, center_N2, side_N = _whole_images(root)
    else:
        (names, center_N2, side_N), left_out = _read_crops(box_file, skeleton)
    images, image_N = unique_images(names)
    count = len(names)
    return SampleSet(
        name="folder",
        skeleton=skeleton,
        images=ImageFolder(root, images, label_file=box_file),
        ids=numbered_ids("folder", names),
        image_N=image_N,
        joints_NK2=np.full((count, skeleton.num_joints, 2), np.nan),
        center_N2=center_N2,
        side_N=side_N,
        normalizer_N=np.full(count, np.nan),
        tallies=(
            Tally(
                file=str(box_file or root),
                people=count + sum(left_out.values()),
                left_out=tuple(left_out.items()),
            ),
        ),
    )


Crops = tuple[list[str], NDArray[np.float64], NDArray[np.float64]]
"""Image names, and the crops' float64 centers (N, 2) and sides (N,), pixels."""


def _read_crops(path: Path, skeleton: Skeleton) -> tuple[Crops, dict[str, int]]:
    """The crops of people's boxes, and the number of other boxes by reason."""
    file = read_boxes(path)
    people, left_out = people_boxes(
        file,
        {0: file.boxes},
        skeleton=skeleton.name,
        remedy="remove category_id where all boxes are of people",
    )
    boxes = people.get(0, [])
    if not boxes:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(f"{path}: expected a person's box, found none; left out: {reasons}")
    numbers = [box.image for box in boxes if isinstance(box.image, int)]
    if numbers:
        raise ValueError(f"{path}: image: expected the name of a file, found {numbers[0]}")
    box_N4 = np.array([box.xywh for box in boxes], np.float64)
    center_N2 = box_N4[:, :2] + box_N4[:, 2:] / 2 - 0.5
    names = [str(box.image) for box in boxes]
    return (names, center_N2, BOX_MARGIN * box_N4[:, 2:].max(-1)), left_out


def _whole_images(root: Path) -> Crops:
    names = image_names(root)
    size_N2 = image_sizes(ImageFolder(root, names))
    return names, (size_N2 - 1) / 2, size_N2.max(-1)


def image_names(root: Path) -> list[str]:
    """The names of all images below a folder, relative to it, sorted.

    Raises:
        ValueError: there are none, or too many.
    """
    names = sorted(
        str((Path(parent) / name).relative_to(root))
        for parent, _, files in os.walk(root)
        for name in files
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
    )
    if not 1 <= len(names) <= MAX_SAMPLES:
        raise ValueError(f"{root}: expected 1 to {MAX_SAMPLES} images, found {len(names)}")
    return names


def image_sizes(images: ImageFolder, unknown_px: float = MIN_BOX_PX) -> NDArray[np.float64]:
    """float64 (N, 2), pixels.

    Args:
        unknown_px: of a file that is missing or not an image, so that boxes in it pass
            `validation.check`, which then reports the file itself.
    """
    size_N2 = np.full((len(images.names), 2), unknown_px)
    for index in range(len(images.names)):
        try:
            size_N2[index] = images.size(index)
        except ValueError:
            continue
    return size_N2
