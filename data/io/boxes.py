"""People's boxes from a file: COCO's annotations or detections, a plain list, or CSV.

    {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [{"image_id": 7, "bbox": [...]}]}
    [{"image_id": 7, "bbox": [x, y, w, h], "score": 0.9, "category_id": 1}]     detections
    [{"image": "a.jpg", "bbox": [x, y, w, h]}]                                  a plain list
    [{"image": "a.jpg", "x": x, "y": y, "w": w, "h": h}]                        `readers.folder`'s
    image,x,y,w,h                                                               CSV, with this line

x and y are of a box's left and top *edge*, so that a whole image of W x H pixels is [0, 0, W, H]:
COCO's convention. (Joints are where pixels have their centers: `samples`.) Images go by their file
names; where a list of detections has numbers alone, 7 means `000000000007.jpg`, as COCO's files are
named.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .files import parse_json, read_bytes

MAX_FILE_BYTES = 1 << 28
MAX_BOXES = 1_000_000
MAX_DIGITS = 18
CSV_COLUMNS = ("image", "x", "y", "w", "h")
PERSON = 1
"""COCO's category of people."""


@dataclass(frozen=True)
class Box:
    """One person's box.

    Attributes:
        image: a file's name without folders, or COCO's number of it.
        xywh: left and top edge, width and height, pixels, finite.
        image_id: what results give as the image; None: its file's name.
        category_id: COCO's, 1 for people.
        score: of the detector that found it; 1 where nobody gave one.
    """

    image: str | int
    xywh: tuple[float, float, float, float]
    image_id: int | str | None = None
    category_id: int = PERSON
    score: float = 1.0


def keys_of(file_name: str) -> tuple[str | int, ...]:
    """What `Box.image` may be for an image file of this name: that, or the number that it is."""
    stem = PurePath(file_name).stem
    is_number = stem.isascii() and stem.isdigit() and len(stem) <= MAX_DIGITS
    return (file_name, int(stem)) if is_number else (file_name,)


def read_boxes(path: Path) -> list[Box]:
    """The boxes of a file, in its order.

    Raises:
        ValueError: it cannot be read, is of none of the forms, or a box is not four finite numbers.
    """
    rows = read_csv(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    boxes = [_box(path, number, row) for number, row in enumerate(rows, 1)]
    if not 1 <= len(boxes) <= MAX_BOXES:
        raise ValueError(f"{path}: expected 1 to {MAX_BOXES} boxes, found {len(boxes)}")
    return boxes


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The lines of a CSV file of boxes, by the names in its first: `CSV_COLUMNS`, and others.

    Raises:
        ValueError: it cannot be read, is no CSV in UTF-8, or lacks one of the columns.
    """
    content = read_bytes(path, MAX_FILE_BYTES, "boxes")
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")), skipinitialspace=True)
        named = list(reader.fieldnames or ())
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not set(CSV_COLUMNS) <= set(named):
        raise ValueError(
            f"{path}: expected a first line with {','.join(CSV_COLUMNS)}, found "
            f"{','.join(named)[:100]!r}"
        )
    return rows


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = parse_json(path, read_bytes(path, MAX_FILE_BYTES, "boxes"), "JSON")
    names: dict[Any, Any] = {}
    if isinstance(content, dict):
        images, content = content.get("images", []), content.get("annotations")
        if _are_tables(images):
            names = {str(image.get("id")): image.get("file_name") for image in images}
    if not _are_tables(content):
        raise ValueError(
            f'{path}: expected COCO\'s {{"images": [...], "annotations": [...]}}, or a list of '
            '{"image": name, "bbox": [x, y, w, h]}, found neither'
        )
    return [{"image": names.get(str(row.get("image_id")))} | row for row in content]


def _are_tables(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(row, dict) for row in content)


def _box(path: Path, number: int, row: dict[str, Any]) -> Box:
    """A row as a box.

    Raises:
        ValueError: naming it by its number, from 1.
    """
    image_id = row.get("image_id")
    image = row.get("image") or row.get("file_name") or image_id
    bbox = row["bbox"] if "bbox" in row else [row.get(name) for name in CSV_COLUMNS[1:]]
    try:
        xywh = np.array(bbox, np.float64)
        score = float(_given(row, "score", 1.0))
        category = int(_given(row, "category_id", PERSON))
    except (TypeError, ValueError, OverflowError):
        xywh, score, category = np.array(np.nan), 1.0, PERSON
    if xywh.shape != (4,) or not np.isfinite(xywh).all() or not np.isfinite(score):
        raise ValueError(
            f"{path}: expected four finite numbers x, y, w, h as box {number}, found "
            f"{str(bbox)[:80]}"
        )
    if not isinstance(image, str | int):
        raise ValueError(f'{path}: expected an "image" or "image_id" of box {number}, found none')
    x, y, w, h = xywh.tolist()
    name = PurePath(image.replace("\\", "/")).name if isinstance(image, str) else image
    given = image_id if isinstance(image_id, str | int) else None
    return Box(name, (x, y, w, h), given, category, score)


def _given(row: dict[str, Any], key: str, default: float) -> Any:
    """A field, or the default where it is absent or empty, as in CSV."""
    value = row.get(key)
    return default if value in (None, "") else value
