"""Run a detector on a folder of photographs, and write the boxes that it finds as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...data.io.boxes import MAX_BOXES
from ...data.io.images import ImageFolder
from ...data.samples import ImageSource
from ..runtime.files import atomic
from ..runtime.interrupt import Interrupted, Stop
from .detector import Detector, People

COLUMNS = ("image", "x", "y", "width", "height", "score")

MIN_SIDE_PX = 8.0
"""Smaller boxes have too few pixels for a pose."""


class Detected(NamedTuple):
    """Numbers of photographs, of those without a person, and of people."""

    photographs: int
    empty: int
    people: int


def detect(
    detector: Detector,
    photos: ImageFolder,
    path: Path,
    *,
    min_score: float,
    stop: Stop | None = None,
) -> Detected:
    """Find the people on all photographs, and write their boxes to a CSV file.

    Args:
        path: of the file; it is written once all photographs are done.
        min_score: the least score of a box.
        stop: checked after every photograph.

    Raises:
        ValueError: a photograph cannot be read, or there are too many people.
        Interrupted: if `stop` is set; nothing is written.
    """
    rows: list[tuple[str, ...]] = []
    empty = 0
    for index in tqdm(
        range(len(photos.names)), desc="detecting people", unit="photo", disable=None
    ):
        if stop is not None and stop.is_set():
            raise Interrupted("detection stopped; run the same command again", stop.signal)
        found = _rows(detector, photos, index, min_score)
        rows += found
        empty += not found
        if len(rows) > MAX_BOXES:
            raise ValueError(
                f"expected up to {MAX_BOXES} people, found more: raise data.photos.min_score"
            )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    with atomic(path) as temporary:
        temporary.write_text(text.getvalue(), "utf-8")
    return Detected(len(photos.names), empty, len(rows))


def _rows(
    detector: Detector, photos: ImageFolder, index: int, min_score: float
) -> list[tuple[str, ...]]:
    """The lines of one photograph, best person first, as text that reads back to 0.1 pixels."""
    people = find_people(detector, photos, index, min_score)
    return [
        (photos.names[index], *(f"{value:.1f}" for value in xywh_4), f"{score:.3f}")
        for xywh_4, score in zip(people.xywh_N4, people.score_N, strict=True)
    ]


def find_people(detector: Detector, pictures: ImageSource, index: int, min_score: float) -> People:
    """The people on one picture, best first, without tiny ones.

    Args:
        min_score: the least score of a box.

    Returns:
        Boxes inside the picture, in its pixels.

    Raises:
        ValueError: the picture cannot be read.
    """
    size = pictures.size(index)
    image_HW3, reduction = pictures.read(index, min(1.0, detector.side_px / max(size)))
    people = detector(image_HW3, min_score)
    xywh_N4 = clip(people.xywh_N4 * reduction, size)
    order = np.argsort(-people.score_N, kind="stable")
    order = order[(xywh_N4[order, 2:] >= MIN_SIDE_PX).all(-1)]
    return People(xywh_N4[order], people.score_N[order])


def clip(xywh_N4: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes without what is outside of a picture of (width, height)."""
    low_N2 = np.clip(xywh_N4[:, :2], 0, size)
    high_N2 = np.clip(xywh_N4[:, :2] + xywh_N4[:, 2:], 0, size)
    return np.concatenate([low_N2, high_N2 - low_N2], -1)
