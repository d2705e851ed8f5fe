"""Read persons' boxes: COCO's annotations or detections, a plain list, or CSV.

    {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [{"image_id": 7, "bbox": [...]}]}
    [{"image_id": 7, "bbox": [x, y, w, h], "score": 0.9, "category_id": 1}]     detections
    [{"image": "a.jpg", "bbox": [x, y, w, h]}]                                  a plain list
    [{"image": "a.jpg", "x": x, "y": y, "w": w, "h": h}]                        `readers.folder`'s
    image,x,y,w,h                                                               CSV with this header
    image,x,y,width,height,score                                                or with this one

x and y are the left and top *edge* of a box, so that a whole image of W x H pixels is [0, 0, W, H]:
COCO's convention. (In joint coordinates, integers are pixel centers: see `samples`.) Images are
identified by file name, with or without suffix; in a list of detections with numbers only, 7 means
`000000000007.jpg`, as COCO's files are named.

Not every box is a person to predict: `people_boxes` leaves out crowd regions, other categories, low
scores and annotations without a box.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from ..limits import MIN_SCORE
from .annotations import MAX_DIGITS, as_flag, as_id, as_number, found
from .coco_format import records_by_id
from .files import parse_json, read_bytes
from .images import IMAGE_SUFFIXES

MAX_FILE_BYTES = 1 << 28
MAX_BOXES = 1_000_000
MAX_SIDE_PX = 1 << 30
"""A larger width or height of an image is taken for none."""
CSV_COLUMNS = ("image", "x", "y", "w", "h")
SAME_COLUMNS = {"width": "w", "height": "h"}
"""Other names of columns."""
LINE = "\0line"
"""The key of a row's line number, for messages. No column of CSV is called so."""
PERSON = "person"
"""The name of COCO's category of people, and of every detector's that is trained on COCO."""
PERSON_CATEGORY_ID = 1
"""Its id in COCO."""
PERSON_CLASS = 0
"""Its number in lists of classes that are counted from 0, as YOLO's; COCO has no category 0."""

Id = int | str
T = TypeVar("T")


@dataclass(frozen=True)
class Box:
    """One person's box.

    Attributes:
        image: the image's file name, with folders if the file has them, or COCO's number for it.
        xywh: left edge, top edge, width and height, pixels, finite; None: the record has no box.
        image_id: the image's id in written results; None: its file name.
        category_id: COCO's category; None: the record has none.
        score: the detector's score; 1 if the file has none.
        is_crowd: whether it is a region with several people (COCO's `iscrowd`).
        image_size: the image's (width, height) by the file, pixels; None: the file has none.
    """

    image: Id
    xywh: tuple[float, float, float, float] | None
    image_id: Id | None = None
    category_id: Id | None = None
    score: float = 1.0
    is_crowd: bool = False
    image_size: tuple[int, int] | None = None

    @property
    def image_name(self) -> str:
        """The file's name without folders, accents composed; "" for a number."""
        return "" if isinstance(self.image, int) else _composed(PurePosixPath(self.image).name)


@dataclass(frozen=True)
class BoxFile:
    """A file of boxes.

    Attributes:
        boxes: in the file's order.
        categories: names by id, if the file has them.
        with_joints: ids of the categories that have names of keypoints.
    """

    path: Path
    boxes: list[Box]
    categories: Mapping[Id, str] = field(default_factory=dict)
    with_joints: frozenset[Id] = frozenset()


def read_boxes(path: Path) -> BoxFile:
    """Read a file of boxes.

    Raises:
        ValueError: the file cannot be read or has another form, or a field of a box has; the
            message names it.
    """
    images: dict[Id, dict[str, Any]] = {}
    categories: dict[Id, dict[str, Any]] = {}
    if path.suffix.lower() == ".csv":
        rows = read_csv(path)
    else:
        rows, images, categories = _read_json(path)
    if not 1 <= len(rows) <= MAX_BOXES:
        raise ValueError(f"{path}: expected 1 to {MAX_BOXES} boxes, found {len(rows)}")
    boxes = [_box(path, number, row, images) for number, row in enumerate(rows, 1)]
    return BoxFile(
        path,
        boxes,
        categories={key: str(record.get("name")) for key, record in categories.items()},
        with_joints=frozenset(key for key, record in categories.items() if record.get("keypoints")),
    )


def people_boxes(
    file: BoxFile,
    boxes_by_image: Mapping[int, Sequence[Box]],
    *,
    skeleton: str,
    category: str | None = None,
    min_score: float = MIN_SCORE,
    remedy: str = "choose with --category",
) -> tuple[dict[int, list[Box]], dict[str, int]]:
    """Those of a file's boxes that are of people.

    Args:
        skeleton: name of the model's skeleton, which for COCO's format is a category's name.
        category: name or id of the category to take; None: see `_person_category`.
        min_score: the least score of a box.
        remedy: the message's end if it is not clear which category is that of people.

    Returns:
        The boxes by image, without images that have none, and how many others there are by reason.

    Raises:
        ValueError: the category is not in the file, or none is given and it is not clear which of
            the file's categories is that of people.
    """
    wanted = (
        _person_category(file, skeleton, remedy) if category is None else _named(file, category)
    )
    people: dict[int, list[Box]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for image, box in ((image, box) for image, boxes in boxes_by_image.items() for box in boxes):
        reason = None
        if wanted and box.category_id is not None and box.category_id not in wanted:
            reason = f"of other categories than {_describe(file, wanted[0])}"
        elif box.is_crowd:
            reason = "around crowds"
        elif box.xywh is None:
            reason = "without numbers"
        elif box.score < min_score:
            reason = f"with a score below {min_score:g}"
        if reason is None:
            people[image].append(box)
        else:
            left_out[reason] += 1
    return dict(people), dict(left_out)


def _person_category(file: BoxFile, skeleton: str, remedy: str) -> list[Id]:
    """The category of people: by its name, else by COCO's or YOLO's number; empty: all boxes.

    More than one id if several categories have the name.

    Raises:
        ValueError: no category has one of them.
    """
    used = {box.category_id for box in file.boxes} - {None}
    if not used:
        return []
    if file.categories:
        # The skeleton of a model that was trained on COCO's format has the category's name.
        candidates = _ids_of(file, skeleton) or _ids_of(file, PERSON)
        if not candidates and len(file.categories) == len(file.with_joints) == 1:
            candidates = list(file.with_joints)
    else:
        numbers: tuple[Id, ...] = (PERSON_CLASS, PERSON_CATEGORY_ID)
        candidates = [key for key in numbers if key in used][:1]
    if not candidates:
        raise ValueError(
            f"{file.path}: expected boxes of the category {PERSON!r} or {PERSON_CATEGORY_ID}, "
            f"found {_listed(file)}: {remedy}"
        )
    return candidates


def _named(file: BoxFile, category: str) -> list[Id]:
    """The ids of the category that a user names."""
    used = {box.category_id for box in file.boxes} | set(file.categories)
    by_id = [as_id(category)] if category.strip() and as_id(category) in used else []
    ids = _ids_of(file, category) or by_id
    if not ids:
        raise ValueError(
            f"--category {category}: expected one of {file.path}, found {_listed(file)}"
        )
    return ids


def _ids_of(file: BoxFile, name: str) -> list[Id]:
    wanted = name.strip().casefold()
    return [key for key, other in file.categories.items() if other.strip().casefold() == wanted]


def _describe(file: BoxFile, key: Id) -> str:
    return repr(file.categories[key]) if key in file.categories else str(key)


def _listed(file: BoxFile, limit: int = 10) -> str:
    keys = dict.fromkeys([*file.categories, *(box.category_id for box in file.boxes)])
    listed = [_describe(file, key) for key in keys if key is not None]
    tail = [f"and {len(listed) - limit} more"] if len(listed) > limit else []
    return ", ".join([*listed[:limit], *tail]) or "none"


def match_images(file: BoxFile, photos: Sequence[Path]) -> tuple[dict[int, list[Box]], int]:
    """Assign boxes to photographs with different names.

    Returns:
        Boxes by their photograph's index, and the number of boxes of no given photograph.

    Raises:
        ValueError: it is not clear to which one boxes belong.
    """
    exact = {path.name: [index] for index, path in enumerate(photos)}
    composed, stems = _photos_by_name(photos), _photos_by_stem(photos)
    matched: dict[int, list[Box]] = defaultdict(list)
    for box in file.boxes:
        indices: Sequence[int] = ()
        if isinstance(box.image, int):
            indices = stems.get(box.image, ())
        elif box.image_name:
            indices = exact.get(PurePosixPath(box.image).name, [])
            indices = indices or composed.get(box.image_name, [])
            if PurePosixPath(box.image).suffix.lower() not in IMAGE_SUFFIXES:
                indices = indices or stems.get(as_id(box.image_name), [])
        if len(indices) > 1:
            first, second = (photos[index].name for index in indices[:2])
            raise ValueError(
                f"{file.path}: {box.image!r} can be {first} or {second}: predict them in two calls"
            )
        for index in indices:
            matched[index].append(box)
    by_photo = {
        index: _of_one_folder(file, boxes, photos[index]) for index, boxes in matched.items()
    }
    by_photo = {index: boxes for index, boxes in by_photo.items() if boxes}
    return by_photo, len(file.boxes) - sum(map(len, by_photo.values()))


def match_names(file: BoxFile, names: Sequence[str]) -> tuple[dict[int, list[Box]], int]:
    """Assign boxes to photographs below one folder, by their names relative to it.

    A box whose name is none of these is matched by the file's name alone, with or without suffix.

    Returns:
        Boxes by their photograph's index, and the number of boxes of no photograph.

    Raises:
        ValueError: several photographs have the name of a box's file.
    """
    exact = {_composed(name): index for index, name in enumerate(names)}
    paths = [Path(name) for name in names]
    composed, stems = _photos_by_name(paths), _photos_by_stem(paths)
    matched: dict[int, list[Box]] = defaultdict(list)
    for box in file.boxes:
        whole = exact.get(_composed(str(box.image)))
        if whole is not None:
            matched[whole].append(box)
            continue
        indices = composed.get(box.image_name, []) if box.image_name else []
        if PurePosixPath(str(box.image)).suffix.lower() not in IMAGE_SUFFIXES:
            indices = indices or stems.get(as_id(box.image_name or box.image), [])
        if len(indices) > 1:
            first, second = (names[index] for index in indices[:2])
            raise ValueError(
                f"{file.path}: {box.image!r} can be {first} or {second}: write names relative to "
                "the folder of photographs"
            )
        for index in indices:
            matched[index].append(box)
    return dict(matched), len(file.boxes) - sum(map(len, matched.values()))


def _photos_by_name(photos: Sequence[Path]) -> dict[str, list[int]]:
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(photos):
        by_name[_composed(path.name)].append(index)
    return by_name


def _photos_by_stem(photos: Sequence[Path]) -> dict[Id, list[int]]:
    """Photographs by their name without suffix and, if that is a number, by the number."""
    by_stem: dict[Id, list[int]] = defaultdict(list)
    for index, path in enumerate(photos):
        stem = _composed(path.stem)
        is_number = stem.isascii() and stem.isdigit() and len(stem) <= MAX_DIGITS
        keys: list[Id] = [stem, int(stem)] if is_number else [stem]
        for key in keys:
            by_stem[key].append(index)
    return by_stem


def _of_one_folder(file: BoxFile, boxes: list[Box], photo: Path) -> list[Box]:
    """Boxes of one file name that belong to a photograph: of several folders, those of its own."""
    images = {str(box.image) for box in boxes if box.image_name and "/" in str(box.image)}
    if len(images) <= 1:
        return boxes
    parts = photo.absolute().parts
    own = {
        image
        for image in images
        if parts[-len(PurePosixPath(image).parts) :] == PurePosixPath(image).parts
    }
    if not own:
        raise ValueError(
            f"{file.path} has boxes of several images called {photo.name} "
            f"({', '.join(sorted(images)[:2])}), none of which is {photo}: give the photographs "
            "with the folders of that file"
        )
    return [box for box in boxes if str(box.image) in own or str(box.image) not in images]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file of boxes, by column name: `CSV_COLUMNS`, and any others.

    Raises:
        ValueError: the file cannot be read, is not CSV in UTF-8, or lacks one of the columns.
    """
    content = read_bytes(path, MAX_FILE_BYTES, "boxes")
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig")), skipinitialspace=True)
        reader.fieldnames = [SAME_COLUMNS.get(name, name) for name in reader.fieldnames or ()]
        header = list(reader.fieldnames)
        rows = [row | {LINE: reader.line_num} for row in islice(reader, MAX_BOXES + 1)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from None
    if not set(CSV_COLUMNS) <= set(header):
        raise ValueError(
            f"{path}: expected a first line with {','.join(CSV_COLUMNS)}, found "
            f"{','.join(header)[:100]!r}"
        )
    for number, row in enumerate(rows, 1):
        if None in row or len(set(header)) != len(header):
            raise ValueError(
                f"{path}: {_where(number, row)}: expected one field for each of "
                f"{','.join(header)[:100]}, found more fields than names, or a name "
                "twice: names with commas need quotes"
            )
    return rows


def _read_json(
    path: Path,
) -> tuple[list[dict[str, Any]], dict[Id, dict[str, Any]], dict[Id, dict[str, Any]]]:
    """A JSON file's boxes, and its images and categories by id."""
    content = parse_json(path, read_bytes(path, MAX_FILE_BYTES, "boxes"), "JSON")
    images: dict[Id, dict[str, Any]] = {}
    categories: dict[Id, dict[str, Any]] = {}
    if isinstance(content, dict):
        images = _by_id(path, "images", content)
        categories = _by_id(path, "categories", content)
        content = content.get("annotations")
    if not _is_object_list(content):
        raise ValueError(
            f'{path}: expected COCO\'s {{"images": [...], "annotations": [...]}}, or a list of '
            '{"image": name, "bbox": [x, y, w, h]}, found neither'
        )
    return content, images, categories


def _by_id(path: Path, key: str, content: dict[str, Any]) -> dict[Id, dict[str, Any]]:
    records = content.get(key) or []
    if not _is_object_list(records):
        raise ValueError(f"{path}: {key}: expected a list of objects, found {found(records)}")
    what, same = {"images": ("image", "file_name"), "categories": ("category", "name")}[key]
    return records_by_id(path, what, records, same)


def _is_object_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _box(path: Path, number: int, row: dict[str, Any], images: dict[Id, dict[str, Any]]) -> Box:
    """Convert a row to a box.

    Raises:
        ValueError: a field has another form; the message names the box by `number`, from 1.
    """
    where = _where(number, row)
    image_id = row.get("image_id")
    key = None if image_id in (None, "") else _field(path, where, "image_id", as_id, image_id)
    record = images.get(key, {}) if key is not None else {}
    image = row.get("image") or record.get("file_name") or row.get("file_name") or key
    if not isinstance(image, str | int) or isinstance(image, bool):
        raise ValueError(f'{path}: expected an "image" or "image_id" of {where}, found none')
    category = row.get("category_id")
    score = _field(path, where, "score", as_number, _value(row, "score", 1.0))
    if not np.isfinite(score):
        raise ValueError(f"{path}: {where}: score: expected a finite number, found {score}")
    return Box(
        image=image.replace("\\", "/") if isinstance(image, str) else image,
        xywh=_xywh(path, number, row),
        image_id=None if key is None else image_id if isinstance(image_id, str | int) else key,
        category_id=None
        if category in (None, "")
        else _field(path, where, "category_id", as_id, category),
        score=score,
        is_crowd=_field(path, where, "iscrowd", as_flag, row.get("iscrowd")),
        image_size=_image_size(path, key, record),
    )


def _where(number: int, row: dict[str, Any]) -> str:
    """A box in messages: by its number and, in CSV, its line."""
    return f"box {number} (line {row[LINE]})" if LINE in row else f"box {number}"


def _xywh(path: Path, number: int, row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    bbox = row["bbox"] if "bbox" in row else [row.get(name) for name in CSV_COLUMNS[1:]]
    if bbox in (None, "", []) or (isinstance(bbox, list) and all(v in (None, "") for v in bbox)):
        return None
    try:
        xywh = np.array([as_number(value) for value in bbox], np.float64)
    except (TypeError, ValueError):
        xywh = np.array(np.nan)
    if xywh.shape != (4,) or not np.isfinite(xywh).all():
        raise ValueError(
            f"{path}: expected four finite numbers x, y, w, h as {_where(number, row)}, found "
            f"{str(bbox)[:80]}"
        )
    x, y, w, h = xywh.tolist()
    return x, y, w, h


def _image_size(path: Path, key: Id | None, record: dict[str, Any]) -> tuple[int, int] | None:
    width, height = (
        _field(path, f"image {key}", name, as_number, record.get(name))
        for name in ("width", "height")
    )
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        return None
    return int(width), int(height)


def _field(path: Path, where: str, key: str, convert: Callable[[Any], T], value: Any) -> T:
    """A field's value, converted; refused with file, record and field if that is impossible."""
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{path}: {where}: {key}: {error}") from None


def _value(row: dict[str, Any], key: str, default: float) -> Any:
    """A field, or the default where it is absent or empty (as CSV fields are)."""
    value = row.get(key)
    return default if value in (None, "") else value
