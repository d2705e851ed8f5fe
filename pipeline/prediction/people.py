"""People on pictures: from boxes to samples that a model predicts, and to rows of results.

Shape letters: N people, K joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.io.boxes import Box
from ...data.io.images import REDUCED_FLAGS
from ...data.samples import ImageSource, SampleSet
from ...data.skeletons import Skeleton
from ...data.validation import MIN_BOX_PX
from ..evaluation.overlay import draw_overlay

BOX_MARGIN = 1.25
"""A crop's side, as a multiple of the longer side of a person's box: as for LSP and MPII in
training."""

MAX_BOX_IMAGES = 100
"""Largest side of a box, as a multiple of its image's longer side."""


@dataclass(frozen=True)
class Person:
    """A box on an image, and the square crop around it."""

    image: int  # index into the pictures
    box: Box
    center_2: tuple[float, float]
    side_px: float


class Pictures(ImageSource, Protocol):
    """Images with names, for messages and ids."""

    @property
    def names(self) -> Sequence[str]: ...


class PixelSource(ImageSource):
    """Pictures in memory."""

    def __init__(
        self, images: Sequence[NDArray[np.uint8]], names: Sequence[str], *, reduces: bool = False
    ) -> None:
        """Use these pictures, uint8 (H, W, 3) RGB.

        Args:
            reduces: give smaller ones for small crops, as JPEG files do: sampling a large picture
                bilinearly would alias.
        """
        self.images, self.names, self.reduces = images, names, reduces
        self._reduced: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        reduction = next(r for r in REDUCED_FLAGS if r == 1 or zoom * r <= 1) if self.reduces else 1
        if (index, reduction) not in self._reduced:
            self._reduced[index, reduction] = _reduce(self.images[index], reduction)
        return self._reduced[index, reduction], reduction

    def size(self, index: int) -> tuple[int, int]:
        return self.images[index].shape[1], self.images[index].shape[0]

    def identity(self, index: int) -> str:
        return ""

    def locate(self, index: int) -> str:
        return self.names[index]

    def note(self, index: int) -> str | None:
        return None


def _reduce(image_HW3: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
    """Mean of blocks of `reduction` x `reduction` pixels; partial ones are right and bottom."""
    if reduction == 1:
        return image_HW3
    height, width = image_HW3.shape[:2]
    below, right = -height % reduction, -width % reduction
    if below or right:
        image_HW3 = cv2.copyMakeBorder(image_HW3, 0, below, 0, right, cv2.BORDER_REPLICATE).astype(
            np.uint8, copy=False
        )
    size = ((width + right) // reduction, (height + below) // reduction)
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def make_person(
    pictures: Pictures, image: int, box: Box | None, width_height: tuple[int, int]
) -> Person:
    """The square crop around a box.

    Args:
        box: None: the whole image, without a margin.

    Raises:
        ValueError: the box is empty, far too large, or outside the image.
    """
    width, height = width_height
    name = Path(pictures.names[image]).name
    margin = BOX_MARGIN
    if box is None:  # the image is taken as a crop of a person already
        box, margin = Box(name, (0.0, 0.0, float(width), float(height))), 1.0
    assert box.xywh is not None  # `people_boxes` leaves out the others
    x, y, w, h = box.xywh
    where = f"{pictures.names[image]}: box {x:g},{y:g},{w:g},{h:g}"
    if not (w > 0 and h > 0 and max(w, h) * margin >= MIN_BOX_PX):
        raise ValueError(
            f"{where} is empty or tiny: expected x,y,w,h with {MIN_BOX_PX:g} pixels at least"
        )
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(f"{where} is outside the image of {width} x {height} pixels")
    if max(w, h) > MAX_BOX_IMAGES * max(width, height):
        raise ValueError(f"{where} is far larger than the image of {width} x {height} pixels")
    # From edges to pixel centers: a left edge at 0 is half a pixel left of the first center.
    return Person(image, box, (x + w / 2 - 0.5, y + h / 2 - 0.5), max(w, h) * margin)


def sample_set(pictures: Pictures, people: Sequence[Person], skeleton: Skeleton) -> SampleSet:
    """People as samples without labels, as `PoseModel.predict` takes them."""
    count = len(people)
    return SampleSet(
        name="photos",
        skeleton=skeleton,
        images=pictures,
        ids=tuple(f"{pictures.names[p.image]}#{number}" for number, p in enumerate(people)),
        image_N=np.array([person.image for person in people], np.int64),
        joints_NK2=np.full((count, skeleton.num_joints, 2), np.nan),
        center_N2=np.array([person.center_2 for person in people], np.float64).reshape(count, 2),
        side_N=np.array([person.side_px for person in people], np.float64),
        normalizer_N=np.full(count, np.nan),
    )


def pose(
    person: Person, joints_K2: NDArray[np.float64], peaks_K: NDArray[np.float64]
) -> dict[str, Any]:
    """A person's joints in COCO's terms: "bbox", "keypoints" and "score"."""
    return {
        "bbox": list(person.box.xywh or ()),
        "keypoints": np.column_stack([joints_K2, peaks_K]).round(4).ravel().tolist(),
        "score": float(peaks_K.mean()) * person.box.score,
    }


def draw_poses(
    image_HW3: NDArray[np.uint8], poses: Sequence[dict[str, Any]], skeleton: Skeleton
) -> NDArray[np.uint8]:
    """Draw what `pose` describes over a copy of an image: uint8 (H, W, 3) RGB."""
    keypoints = [row["keypoints"] for row in poses]
    keypoints_NK3 = np.array(keypoints, np.float64).reshape(len(poses), skeleton.num_joints, 3)
    sides_N = [max(row["bbox"][2:]) for row in poses]
    boxes_N4 = np.array([row["bbox"] for row in poses], np.float64).reshape(-1, 4)
    scores_N = [row["score"] for row in poses]
    return draw_overlay(
        image_HW3, keypoints_NK3, sides_N, skeleton, boxes_N4=boxes_N4, scores_N=scores_N
    )


def describe_skeleton(skeleton: Skeleton) -> dict[str, Any]:
    """What the numbers of results refer to: names of joints, and limbs, for JSON."""
    return {
        "skeleton": skeleton.name,
        "joints": list(skeleton.joints),
        "limbs": [list(pair) for pair in skeleton.limbs],
    }
