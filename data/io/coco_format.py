"""Files in COCO's format: every field is read in all forms in which tools write it, or refused.

    images        id, file_name, width, height (may be missing)
    categories    id, name, keypoints (joint names), skeleton (pairs of joints)
    annotations   id, image_id, category_id, keypoints, bbox, area, iscrowd, num_keypoints

* Ids are whole numbers or text; "7" and 7.0 are 7.
* Numbers may be text. NaN, null, "" and [] stand for what is missing.
* `iscrowd` is 0, 1, false or true, also as text; missing: 0.
* `keypoints` are x, y, v of every joint, in one list or a list for each joint. A joint is labeled
  where v is 1 or 2 and its coordinates are numbers.
* `bbox` is x, y, w, h; `num_keypoints` is compared with the keypoints and otherwise not used.

Shape letters: N annotations, K joints.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .annotations import as_flag, as_id, as_number, found, object_list, read_json

Id = int | str

MAX_LISTED_IDS = 5
MAX_SIDE_PX = 1 << 24
"""Of an image's stated width and height; larger numbers are no sizes."""

LISTS = ("images", "categories", "annotations")


@dataclass(frozen=True, eq=False)
class CocoFile:
    """A file's records; their ids are in the form of `as_id`.

    Attributes:
        images: by id.
        categories: by id.
        annotations: all of them, in the file's order.
        image_ids, category_ids: of each annotation.
    """

    path: Path
    images: dict[Id, dict[str, Any]]
    categories: dict[Id, dict[str, Any]]
    annotations: list[dict[str, Any]]
    image_ids: list[Id]
    category_ids: list[Id]


@dataclass(frozen=True, eq=False)
class People:
    """The annotations of some categories, in columns.

    Attributes:
        ids: as the file has them.
        image_ids: in the form of `as_id`.
        is_crowd_N: bool.
        joints_NK2: float64, pixels from 0; NaN where a joint is not labeled.
        visibility_NK: int64, v: 0, 1 or 2; 0 where a joint is not labeled.
        box_N4: float64 (x, y, w, h); NaN where there is none.
        area_N: float64; NaN where there is none.
        other_categories: the number of annotations of other categories.
        notes: what is unusual in the file, for the user.
    """

    ids: tuple[Id, ...]
    image_ids: tuple[Id, ...]
    is_crowd_N: NDArray[np.bool_]
    joints_NK2: NDArray[np.float64]
    visibility_NK: NDArray[np.int64]
    box_N4: NDArray[np.float64]
    area_N: NDArray[np.float64]
    other_categories: int
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_box_N(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.box_N4).any(-1))


def read(path: Path, missing: str) -> CocoFile:
    """Read a file in COCO's format.

    Args:
        missing: the message's end if there is no such file.

    Raises:
        ValueError: the file is missing or damaged, has another format, or two of its images or
            categories have one id.
    """
    return parse(path, read_json(path, missing))


def parse(path: Path, dataset: Any) -> CocoFile:
    """The records of a file whose JSON has been read; see `read`."""
    if not isinstance(dataset, dict) or not all(key in dataset for key in LISTS):
        raise ValueError(f"{path}: expected COCO's format, an object with {', '.join(LISTS)}")
    images, categories, annotations = (object_list(path, dataset[key]) for key in LISTS)
    return CocoFile(
        path=path,
        images=records_by_id(path, "image", images, "file_name"),
        categories=records_by_id(path, "category", categories, None),
        annotations=annotations,
        image_ids=_id_column(path, annotations, "image_id"),
        category_ids=_id_column(path, annotations, "category_id"),
    )


def people(file: CocoFile, categories: Collection[Id], joints: int) -> People:
    """The annotations of some of a file's categories, checked.

    Args:
        joints: K.

    Raises:
        ValueError: an annotation's field cannot be read, its image or its category is not in the
            file, or two annotations have one id.
    """
    path = file.path
    _refuse_unknown(file)
    chosen = [i for i, category in enumerate(file.category_ids) if category in categories]
    records = [file.annotations[i] for i in chosen]
    names = [f"annotation {r.get('id', i + 1)}" for i, r in zip(chosen, records, strict=True)]
    ids = _annotation_ids(path, records, chosen)
    is_crowd_N = np.array(
        [
            _field(path, name, "iscrowd", as_flag, record.get("iscrowd"))
            for name, record in zip(names, records, strict=True)
        ],
        bool,
    )
    joints_NK2, visibility_NK, nan_joints = _joints(path, names, records, joints)
    return People(
        ids=ids,
        image_ids=tuple(file.image_ids[i] for i in chosen),
        is_crowd_N=is_crowd_N,
        joints_NK2=joints_NK2,
        visibility_NK=visibility_NK,
        box_N4=_boxes(path, names, records),
        area_N=_areas(path, names, records),
        other_categories=len(file.annotations) - len(records),
        notes=_notes(path, names, records, visibility_NK, nan_joints),
    )


def file_name(file: CocoFile, image_id: Id) -> str:
    """The name of an image's file.

    Raises:
        ValueError: the image has none.
    """
    name = file.images[image_id].get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"{file.path}: image {image_id}: file_name: expected a name, found {found(name)}"
        )
    return name


def image_size(file: CocoFile, image_id: Id) -> tuple[int, int]:
    """The (width, height) that the file states of an image, pixels; (0, 0) if it does not.

    Raises:
        ValueError: they are not whole numbers.
    """
    image = file.images[image_id]
    sizes = []
    for key in ("width", "height"):
        size = _field(file.path, f"image {image_id}", key, as_number, image.get(key))
        if math.isnan(size):
            size = 0.0
        if not (0 <= size <= MAX_SIDE_PX and size.is_integer()):
            raise ValueError(
                f"{file.path}: image {image_id}: {key}: expected a whole number of pixels, found "
                f"{found(image[key])}"
            )
        sizes.append(int(size))
    return (sizes[0], sizes[1]) if all(sizes) else (0, 0)


def records_by_id(
    path: Path, what: str, records: Iterable[dict[str, Any]], same: str | None
) -> dict[Id, dict[str, Any]]:
    """Records by id; two of one id are refused, unless they agree in the field `same`."""
    by_id: dict[Id, dict[str, Any]] = {}
    repeated: dict[Id, None] = {}
    for number, record in enumerate(records, 1):
        key = _field(path, f"{what} {number} of the list", "id", as_id, record.get("id"))
        other = by_id.setdefault(key, record)
        if other is not record and (same is None or other.get(same) != record.get(same)):
            repeated[key] = None
    if repeated:
        raise ValueError(
            f"{path}: expected a different id for every {what}, found {_listed(repeated)} more "
            "than once: files that were joined need new ids"
        )
    return by_id


def _id_column(path: Path, records: list[dict[str, Any]], key: str) -> list[Id]:
    return [
        value
        if type(value := record.get(key)) is int
        else _field(path, f"annotation {record.get('id', number)}", key, as_id, value)
        for number, record in enumerate(records, 1)
    ]


def _annotation_ids(path: Path, records: list[dict[str, Any]], places: list[int]) -> tuple[Id, ...]:
    """The annotations' ids, as written; in the form of `as_id`, they differ from each other."""
    ids: list[Any] = []
    counts = Counter[Id]()
    for record, place in zip(records, places, strict=True):
        value = record.get("id")
        name = f"annotation {place + 1} of the list"
        counts[_field(path, name, "id", as_id, value)] += 1
        ids.append(value)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{path}: expected a different id for every annotation, found {_listed(repeated)} "
            "more than once: files that were joined need new ids"
        )
    return tuple(ids)


def _refuse_unknown(file: CocoFile) -> None:
    """Refuse annotations of images and categories that the file does not list."""
    for key, what, values, known in (
        ("image_id", "image", file.image_ids, file.images),
        ("category_id", "category", file.category_ids, file.categories),
    ):
        unknown = next((i for i, value in enumerate(values) if value not in known), None)
        if unknown is not None:
            name = file.annotations[unknown].get("id", unknown + 1)
            raise ValueError(
                f"{file.path}: annotation {name}: {key}: expected the id of one of the file's "
                f"{'images' if what == 'image' else 'categories'}, found {values[unknown]!r:.80}"
            )


def _joints(
    path: Path, names: list[str], records: list[dict[str, Any]], joints: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Coordinates, v, and the number of joints whose coordinates are NaN in spite of their v."""
    values_NK3 = _keypoint_values(path, names, records, joints)
    xy_NK2, v_NK = values_NK3[..., :2], values_NK3[..., 2]
    nan_NK2 = np.isnan(xy_NK2)
    both_nan_NK = nan_NK2.all(-1)
    absent_NK = both_nan_NK | ((xy_NK2 == 0).all(-1) & np.isnan(v_NK))
    v_NK = np.where(np.isnan(v_NK) & absent_NK, 0, v_NK)
    bad_NK = (
        np.isinf(values_NK3).any(-1)
        | (nan_NK2.any(-1) & ~both_nan_NK & ~(v_NK <= 0))
        | ~((v_NK <= 0) | (v_NK == 1) | (v_NK == 2))
    )
    if bad_NK.any():
        sample, joint = np.argwhere(bad_NK)[0]
        raise ValueError(
            f"{path}: {names[sample]}: keypoints: expected finite x and y, and v of 0, 1 or 2, "
            f"found {', '.join(f'{value:g}' for value in values_NK3[sample, joint])} as joint "
            f"{joint + 1}"
        )
    labeled_NK = (v_NK > 0) & ~both_nan_NK
    nan_joints = int(((v_NK > 0) & both_nan_NK).sum())
    joints_NK2 = np.where(labeled_NK[..., None], xy_NK2, np.nan)
    return joints_NK2, np.where(labeled_NK, v_NK, 0).astype(np.int64), nan_joints


def _keypoint_values(
    path: Path, names: list[str], records: list[dict[str, Any]], joints: int
) -> NDArray[np.float64]:
    """float64 (N, K, 3) as written; zeros for annotations without keypoints."""
    none = [0.0] * (3 * joints)
    lists = [record.get("keypoints") or none for record in records]
    try:  # all at once is faster than one by one, which other forms and the message need
        values = np.array(lists, np.float64)
        if values.shape == (len(lists), 3 * joints):
            return values.reshape(len(lists), joints, 3)
    except (TypeError, ValueError, OverflowError):
        pass
    values = np.empty((len(lists), joints, 3))
    for index, value in enumerate(lists):
        try:
            row = np.array([_numbers(item) for item in value], np.float64)
            values[index] = row.reshape(joints, 3) if row.shape == (3 * joints,) else row
            if row.shape not in ((3 * joints,), (joints, 3)):
                raise ValueError(row.shape)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"{path}: {names[index]}: keypoints: expected {3 * joints} numbers, x, y, v of "
                f"{joints} joints, found {found(value)}"
            ) from None
    return values


def _numbers(item: Any) -> Any:
    """A number, or a list of numbers; "" is NaN."""
    return [as_number(part) for part in item] if isinstance(item, list) else as_number(item)


def _boxes(path: Path, names: list[str], records: list[dict[str, Any]]) -> NDArray[np.float64]:
    box_N4 = np.full((len(records), 4), np.nan)
    for index, record in enumerate(records):
        value = record.get("bbox")
        if value is None or value in ([], ""):
            continue
        try:
            row = np.array([as_number(part) for part in value], np.float64)
        except (TypeError, ValueError):
            row = np.array(np.nan)
        if row.shape != (4,) or np.isinf(row).any() or np.isnan(row).any() != np.isnan(row).all():
            raise ValueError(
                f"{path}: {names[index]}: bbox: expected four finite numbers x, y, w, h, found "
                f"{found(value)}"
            )
        box_N4[index] = row
    return box_N4


def _areas(path: Path, names: list[str], records: list[dict[str, Any]]) -> NDArray[np.float64]:
    area_N = np.full(len(records), np.nan)
    for index, record in enumerate(records):
        area = _field(path, names[index], "area", as_number, record.get("area"))
        if area < 0 or math.isinf(area):
            raise ValueError(
                f"{path}: {names[index]}: area: expected a number of pixels, found {area:g}"
            )
        area_N[index] = area if area > 0 else np.nan
    return area_N


def _notes(
    path: Path,
    names: list[str],
    records: list[dict[str, Any]],
    visibility_NK: NDArray[np.int64],
    nan_joints: int,
) -> tuple[str, ...]:
    labeled_N = (visibility_NK > 0).sum(-1)
    stated_N = np.array(
        [
            _field(path, name, "num_keypoints", as_number, record.get("num_keypoints"))
            for name, record in zip(names, records, strict=True)
        ],
        np.float64,
    )
    different = np.flatnonzero(~np.isnan(stated_N) & (stated_N != labeled_N))
    notes = []
    if len(different):
        notes.append(
            f"num_keypoints differs from the labeled keypoints in {len(different)} annotations "
            f"(first: {names[different[0]]}); the keypoints are used"
        )
    if nan_joints:
        notes.append(f"{nan_joints} joints without coordinates (NaN) count as not labeled")
    return tuple(notes)


def _field(path: Path, name: str, key: str, convert: Any, value: Any) -> Any:
    """A field's value, converted; refused with file, record and field if that is impossible."""
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{path}: {name[:200]}: {key}: {error}") from None


def _listed(ids: Iterable[Id]) -> str:
    """The first ids as text for messages."""
    listed = list(ids)
    more = len(listed) - MAX_LISTED_IDS
    shown = ", ".join(f"{key!r:.80}" for key in listed[:MAX_LISTED_IDS])
    return f"{shown} and {more} others" if more > 0 else shown
