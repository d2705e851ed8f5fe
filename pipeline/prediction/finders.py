"""What finds the people on a picture: a detector, one box for all pictures, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable

from ...data.io.boxes import Box
from ..detectors import Detector, find_people
from .people import Pictures

Finder = Callable[[Pictures, int], list[Box | None]]
"""From pictures and the index of one, its people's boxes; a box that is None: the whole picture."""


def same_box(box: tuple[float, float, float, float] | None) -> Finder:
    """Find one person in the same place on all pictures.

    Args:
        box: (x, y, w, h), edges in pixels; None: the whole picture.
    """

    def find(pictures: Pictures, index: int) -> list[Box | None]:
        return [None if box is None else Box(pictures.names[index], box)]

    return find


def detected(detector: Detector, min_score: float) -> Finder:
    """Find whom a detector finds, best first; `min_score` is the least score of a box."""

    def find(pictures: Pictures, index: int) -> list[Box | None]:
        people = find_people(detector, pictures, index, min_score)
        rows = zip(people.xywh_N4.round(1).tolist(), people.score_N.tolist(), strict=True)
        return [Box(pictures.names[index], tuple(xywh), score=score) for xywh, score in rows]

    return find
