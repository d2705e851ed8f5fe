"""Read YOLO's text files of boxes: one file a photograph, one line a box.

    labels/a.txt        for a.jpg       class cx cy w h [confidence]
    labels/deep/b.txt   for deep/b.jpg

cx, cy, w and h are the box's center and size, as shares of the photograph's width and height. Class
0 is a person. Lines with more values (keypoints) are read up to the box. A photograph without a
file has no people: so YOLO writes it.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

from .boxes import MAX_BOXES, PERSON_CATEGORY_ID, Box, BoxFile
from .files import read_bytes
from .images import ImageFolder

MAX_TEXT_BYTES = 1 << 20
"""Limit of one photograph's file: about 20,000 boxes."""

MIN_VALUES, VALUES_WITH_SCORE = 5, 6
SLACK = 0.01
"""Values may leave 0..1 by rounding."""


def read_yolo(folder: Path, photos: ImageFolder) -> BoxFile:
    """The boxes of a folder's text files, one for each photograph that has one.

    Raises:
        ValueError: a line has another form, or no photograph has a file.
    """
    boxes: list[Box] = []
    for index, name in enumerate(photos.names):
        path = _text_file(folder, name)
        if path is None:
            continue
        boxes += _boxes(path, name, photos.size(index))
        if len(boxes) > MAX_BOXES:
            raise ValueError(f"{folder}: expected up to {MAX_BOXES} boxes, found more")
    if not boxes:
        expected = PurePosixPath(photos.names[0]).with_suffix(".txt")
        raise ValueError(
            f"{folder}: expected YOLO's text files of the photographs, such as {expected}, found "
            "none with a box"
        )
    return BoxFile(folder, boxes)


def _text_file(folder: Path, name: str) -> Path | None:
    """A photograph's file: in the same folder below, or directly in `folder`."""
    relative = PurePosixPath(name).with_suffix(".txt")
    paths = (folder / relative, folder / relative.name)
    return next((path for path in paths if path.is_file()), None)


def text_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not empty, with their numbers from 1.

    Args:
        what: what the file is read as, for messages.

    Raises:
        ValueError: the file cannot be read, or is too large.
    """
    content = read_bytes(path, MAX_TEXT_BYTES, what)
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _boxes(path: Path, name: str, size: tuple[int, int]) -> list[Box]:
    return [_box(path, number, line, name, size) for number, line in text_lines(path, "boxes")]


def _box(path: Path, number: int, line: str, name: str, size: tuple[int, int]) -> Box:
    words = line.split()
    try:
        values = [float(word) for word in words[:VALUES_WITH_SCORE]]
    except ValueError:
        values = []
    has_score = len(words) == VALUES_WITH_SCORE
    shares = values[1:] if has_score else values[1:MIN_VALUES]
    fits = len(values) >= MIN_VALUES and values[0] >= 0 and values[0] == math.floor(values[0])
    if not fits or not all(-SLACK <= share <= 1 + SLACK for share in shares):
        raise ValueError(
            f"{path}, line {number}: expected a class and cx, cy, w, h from 0 to 1, as shares of "
            f"the photograph, found {line.strip()[:80]!r}"
        )
    width, height = size
    cx, cy, w, h = values[1:MIN_VALUES]
    return Box(
        image=name,
        xywh=((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height),
        # COCO's id of a person; others are only told apart from it.
        category_id=int(values[0]) + PERSON_CATEGORY_ID,
        score=values[MIN_VALUES] if has_score else 1.0,
    )
