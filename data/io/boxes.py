"""Read persons' boxes: COCO's annotations or detections, a plain list, or CSV.

    {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [{"image_id": 7, "bbox": [...]}]}
    [{"image_id": 7, "bbox": [x, y, w, h], "score": 0.9, "category_id": 1}]     detections
    [{"image": "a.jpg", "bbox": [x, y, w, h]}]                                  a plain list
    [{"image": "a.jpg", "x": x, "y": y, "w": w, "h": h}]                        `readers.folder`'s
    image,x,y,w,h                                                               CSV with this header

x and y are the left and top *edge* of a box, so that a whole image of W x H pixels is [0, 0, W, H]:
COCO's convention. (In joint coordinates, integers are pixel centers: see `samples`.) Images are
identified by file name; in a list of detections with numbers only, 7 means `000000000007.jpg`, as
COCO's files are named.
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
PERSON_CATEGORY_ID = 1
"""COCO's category "person"."""


@dataclass(frozen=True)
class Box:
    """One person's box.

    Attributes:
        image: the image's file name without folders, or COCO's number for it.
        xywh: left edge, top edge, width and height, pixels, finite.
        image_id: the image's id in written results; None: its file name.
        category_id: COCO's category, 1 for persons.
        score: the detector's score; 1 if the file has none.
    """

    image: str | int
    xywh: tuple[float, float, float, float]
    image_id: int | str | None = None
    category_id: int = PERSON_CATEGORY_ID
    score: float = 1.0


def image_keys(file_name: str) -> tuple[str | int, ...]:
    """The values of `Box.image` that denote this file: its name and, if numeric, its number."""
    stem = PurePath(file_name).stem
    is_number = stem.isascii() and stem.isdigit() and len(stem) <= MAX_DIGITS
    return (file_name, int(stem)) if is_number else (file_name,)


def read_boxes(path: Path) -> list[Box]:
    """The boxes of a file, in its order.

    Raises:
        ValueError: the file cannot be read, has another form, or a box is not four finite numbers.
    """
    rows = read_csv(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    boxes = [_box(path, number, row) for number, row in enumerate(rows, 1)]
    if not 1 <= len(boxes) <= MAX_BOXES:
        raise ValueError(f"{path}: expected 1 to {MAX_BOXES} boxes, found {len(boxes)}")
    return boxes


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file of boxes, by column name: `CSV_COLUMNS`, and any others.

    Raises:
        ValueError: the file cannot be read, is not CSV in UTF-8, or lacks one of the columns.
    """
    content = read_bytes(path, MAX_FILE_BYTES, "boxes")
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")), skipinitialspace=True)
        header = list(reader.fieldnames or ())
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not set(CSV_COLUMNS) <= set(header):
        raise ValueError(
            f"{path}: expected a first line with {','.join(CSV_COLUMNS)}, found "
            f"{','.join(header)[:100]!r}"
        )
    return rows


def _json_rows(path: Path) -> list[dict[str, Any]]:
    content = parse_json(path, read_bytes(path, MAX_FILE_BYTES, "boxes"), "JSON")
    names: dict[Any, Any] = {}
    if isinstance(content, dict):
        images, content = content.get("images", []), content.get("annotations")
        if _is_object_list(images):
            names = {str(image.get("id")): image.get("file_name") for image in images}
    if not _is_object_list(content):
        raise ValueError(
            f'{path}: expected COCO\'s {{"images": [...], "annotations": [...]}}, or a list of '
            '{"image": name, "bbox": [x, y, w, h]}, found neither'
        )
    return [{"image": names.get(str(row.get("image_id")))} | row for row in content]


def _is_object_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _box(path: Path, number: int, row: dict[str, Any]) -> Box:
    """Convert a row to a box.

    Raises:
        ValueError: the row is not a box; the message names it by `number`, counted from 1.
    """
    image_id = row.get("image_id")
    image = row.get("image") or row.get("file_name") or image_id
    bbox = row["bbox"] if "bbox" in row else [row.get(name) for name in CSV_COLUMNS[1:]]
    try:
        xywh = np.array(bbox, np.float64)
        score = float(_value(row, "score", 1.0))
        category = int(_value(row, "category_id", PERSON_CATEGORY_ID))
    except (TypeError, ValueError, OverflowError):
        xywh, score, category = np.array(np.nan), 1.0, PERSON_CATEGORY_ID
    if xywh.shape != (4,) or not np.isfinite(xywh).all() or not np.isfinite(score):
        raise ValueError(
            f"{path}: expected four finite numbers x, y, w, h as box {number}, found "
            f"{str(bbox)[:80]}"
        )
    if not isinstance(image, str | int):
        raise ValueError(f'{path}: expected an "image" or "image_id" of box {number}, found none')
    x, y, w, h = xywh.tolist()
    name = PurePath(image.replace("\\", "/")).name if isinstance(image, str) else image
    return Box(
        image=name,
        xywh=(x, y, w, h),
        image_id=image_id if isinstance(image_id, str | int) else None,
        category_id=category,
        score=score,
    )


def _value(row: dict[str, Any], key: str, default: float) -> Any:
    """A field, or the default where it is absent or empty (as CSV fields are)."""
    value = row.get(key)
    return default if value in (None, "") else value
