"""YOLO's folders of poses, as Ultralytics trains on them.

    root/data.yaml                                 lists, joints, classes
    root/images/train/a.jpg ...                    root/images/val/ ...
    root/labels/train/a.txt ...                    one line a person

    path        folder of the lists, if it is one inside the root; else, data.yaml's own
    train, val, test   images: a folder, a list of names (.txt), or several of these
    kpt_shape   [K, 2] or [K, 3]: x, y, or x, y, v of every joint
    flip_idx    for each joint, the index of the joint that it becomes in a flipped picture
    kpt_names   the joints' names, by class
    names       the classes' names

    class cx cy w h  x y v  x y v ...              as shares of the picture's width and height

Conventions:

* "train" is the file's `train`, "test" its `val`, its `test`, or a tenth of the images of `train`
  (`data.yolo.test`). As in every format, validation samples are held out from "train".
* The labels of images/b/a.jpg are in labels/b/a.txt (of several folders called "images", the last
  one counts), and beside an image that has no such folder. No file: nobody is on the picture.
* A joint is labeled where v is 1 or 2; without v, where x and y are not negative and not both 0.
* x times the width is a pixel index from 0, as in COCO, whose labels Ultralytics converts so. Boxes
  are measured from the corner of the picture: their center is at cx times the width - 0.5.
* Pictures are turned upright by their orientation tags, as Ultralytics does.
* Names: `kpt_names`; without, COCO's for 17 joints with COCO's flip_idx, or "joint 0" and so on.
* No name leads out of the root: a leading ../ is left out where it would lead there, as in the
  files of Roboflow.

Shape letters: N people, K joints.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import MAX_SAMPLES, numbered_ids, unique_images
from ..io.images import IMAGE_SUFFIXES
from ..io.photos import UprightFolder
from ..io.yolo_boxes import SLACK, text_lines
from ..samples import SampleSet, Tally
from ..selection import held_out_images
from .coco import BOX_MARGIN, TEST_SHARE, too_few_joints
from .coco_settings import HELD_OUT
from .folder import image_sizes
from .yolo_description import Description, read_description
from .yolo_lists import listed_images
from .yolo_settings import Yolo

BOX_VALUES = 5
"""Of a line, before the joints: class, cx, cy, w, h."""

UNKNOWN_SIDE_PX = 1 << 16
"""Of a picture that cannot be read: the smallest box is of more than 4 pixels in it."""

CLASSES_FILE = "classes.txt"
"""Labeling tools write the classes' names into it, beside the labels."""

LABELED = (1, 2)
"""Values of v."""


class Rows(NamedTuple):
    """All lines of the text files.

    Attributes:
        values: float64 (N, columns).
        paths: the text file of each listed image.
        image_N: int64, indices of their images.
        line_N: int64, their numbers in their files, from 1.
    """

    values: NDArray[np.float64]
    paths: list[Path]
    image_N: NDArray[np.int64]
    line_N: NDArray[np.int64]


def yolo(root: Path, split: str, settings: Yolo) -> SampleSet:
    """The samples of one split, "train" or "test".

    PCK's unit is the longer side of the person's box.

    Raises:
        ValueError: a file is missing, damaged, or does not have the format described above.
    """
    description = read_description(root, settings)
    listed = _split_images(description, split, settings)
    rows = _read_rows(description, listed)
    joints_NK2 = _joints(description, rows)
    reasons_N = _reasons(description, rows, joints_NK2, settings.min_keypoints)
    kept = np.flatnonzero(reasons_N == "")
    names = [listed[index] for index in rows.image_N[kept]]
    used, image_N = unique_images(names)
    images = UprightFolder(root, used, label_file=description.path)
    size_N2 = image_sizes(images, UNKNOWN_SIDE_PX)[image_N]
    box_N2 = rows.values[kept, 3:BOX_VALUES] * size_N2
    return SampleSet(
        name="yolo",
        skeleton=description.skeleton,
        images=images,
        ids=numbered_ids("yolo", names),
        image_N=image_N,
        joints_NK2=joints_NK2[kept] * size_N2[:, None],
        center_N2=rows.values[kept, 1:3] * size_N2 - 0.5,
        side_N=BOX_MARGIN * box_N2.max(-1, initial=0.0),
        normalizer_N=box_N2.max(-1, initial=0.0),
        tallies=(_tally(description, listed, rows, reasons_N),),
    )


def _split_images(description: Description, split: str, settings: Yolo) -> list[str]:
    """The images of one split, relative to the root."""
    if settings.test != HELD_OUT:
        return listed_images(description, split if split == "train" else settings.test)
    listed = listed_images(description, "train")
    names = [name for name in listed if _has_people(description.root / label_name(name))]
    if len(names) < 2:
        raise ValueError(
            f"{description.path}: expected 2 or more images with people, to hold some of them out "
            f"(data.yolo.test = {HELD_OUT}), found {len(names)} among {len(listed)} images"
        )
    is_test = held_out_images([f"yolo/{name}" for name in names], TEST_SHARE)
    return [name for name, out in zip(names, is_test, strict=True) if out == (split == "test")]


def _has_people(path: Path) -> bool:
    """Whether an image's text file has anything in it; background images have an empty one."""
    return path.is_file() and path.stat().st_size > 0


def label_name(image: str) -> str:
    """The name of an image's text file: in the last folder `images`' place is `labels`."""
    parts = list(PurePosixPath(image).with_suffix(".txt").parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return "/".join(parts)


def _read_rows(description: Description, listed: list[str]) -> Rows:
    """All lines of the images' text files.

    Raises:
        ValueError: a line has another form, or there is none.
    """
    columns = BOX_VALUES + description.skeleton.num_joints * description.values_per_joint
    values: list[NDArray[np.float64]] = []
    places: list[tuple[int, int]] = []
    paths = [description.root / label_name(name) for name in listed]
    for index, path in enumerate(paths):
        if not path.is_file():
            continue
        lines = text_lines(path, "labels")
        if lines:
            values.append(np.array([_numbers(path, n, line, columns) for n, line in lines]))
            places += [(index, number) for number, _ in lines]
        if len(places) > MAX_SAMPLES:
            raise ValueError(f"{description.path}: expected up to {MAX_SAMPLES} people, found more")
    if not values:
        raise ValueError(
            f"{description.path}: expected text files with people, such as {paths[0]}, found none"
        )
    image_N, line_N = np.array(places, np.int64).T
    rows = Rows(np.concatenate(values), paths, image_N, line_N)
    _check_boxes(description, rows)
    return rows


def _numbers(path: Path, number: int, line: str, columns: int) -> list[float]:
    """The numbers of a line.

    Raises:
        ValueError: it has other words, or another number of them.
    """
    words = line.split()
    try:
        if len(words) == columns:
            return list(map(float, words))
    except ValueError:
        pass
    raise ValueError(
        f"{path}, line {number}: expected {columns} numbers, a class, cx, cy, w, h and the joints "
        f"as kpt_shape has them, found {len(words)}: {line.strip()[:80]!r}"
    )


def _check_boxes(description: Description, rows: Rows) -> None:
    """Check classes and boxes.

    Raises:
        ValueError: a class is not one of the file's, or a box is not in shares of the picture.
    """
    class_N, box_N4 = rows.values[:, 0], rows.values[:, 1:BOX_VALUES]
    if description.classes:
        is_class_N = np.isin(class_N, list(description.classes))
    else:
        is_class_N = (class_N >= 0) & (class_N == np.floor(class_N))
    is_share_N = np.asarray(_are_shares(box_N4).all(-1))
    _refuse_rows(rows, ~is_class_N, "a class of data.yaml's names")
    _refuse_rows(rows, ~is_share_N, "cx, cy, w, h from 0 to 1")


def _are_shares(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether values are from 0 to 1, but for rounding; NaN is not."""
    return np.asarray((values >= -SLACK) & (values <= 1 + SLACK))


def _refuse_rows(rows: Rows, is_bad_N: NDArray[np.bool_], expected: str) -> None:
    """Raise a ValueError that names the first bad line, if there is one."""
    if not is_bad_N.any():
        return
    row = int(np.flatnonzero(is_bad_N)[0])
    path = rows.paths[rows.image_N[row]]
    values = " ".join(f"{value:g}" for value in rows.values[row])
    raise ValueError(f"{path}, line {rows.line_N[row]}: expected {expected}, found {values[:80]!r}")


def _joints(description: Description, rows: Rows) -> NDArray[np.float64]:
    """Joints as shares of the picture, float64 (N, K, 2); NaN where not labeled.

    Raises:
        ValueError: a labeled joint is not on the picture, or v is not 0, 1 or 2.
    """
    width = description.values_per_joint
    values_NKC = rows.values[:, BOX_VALUES:].reshape(len(rows.values), -1, width)
    xy_NK2 = values_NKC[..., :2]
    if width == 3:
        v_NK = values_NKC[..., 2]
        bad_v_N = np.asarray(~np.isin(v_NK, (0, *LABELED)).all(-1))
        _refuse_rows(rows, bad_v_N, "v of 0, 1 or 2 for every joint")
        labeled_NK = np.isin(v_NK, LABELED)
    else:
        labeled_NK = np.asarray((xy_NK2 >= 0).all(-1) & (xy_NK2 > 0).any(-1))
    outside_N = np.asarray((labeled_NK & ~_are_shares(xy_NK2).all(-1)).any(-1))
    _refuse_rows(rows, outside_N, "labeled joints from 0 to 1")
    return np.where(labeled_NK[..., None], xy_NK2, np.nan)


def _reasons(
    description: Description,
    rows: Rows,
    joints_NK2: NDArray[np.float64],
    min_keypoints: int,
) -> NDArray[np.str_]:
    """Why each line is no sample; "": it is one."""
    labeled_N = (~np.isnan(joints_NK2[..., 0])).sum(-1)
    unchosen_N = np.zeros(len(rows.values), np.bool_)
    if description.chosen is not None:
        unchosen_N = ~np.isin(rows.values[:, 0], description.chosen)
    return np.select(
        [
            unchosen_N,
            _repeated(rows),
            labeled_N < min_keypoints,
            ~(rows.values[:, 3:BOX_VALUES] > 0).all(-1),
        ],
        ["of other classes", "repeated", too_few_joints(min_keypoints), "with a box without area"],
        "",
    )


def _repeated(rows: Rows) -> NDArray[np.bool_]:
    """The lines that their file has before."""
    seen: set[bytes] = set()
    repeated_N = np.zeros(len(rows.values), np.bool_)
    for row, values in enumerate(rows.values):
        if row and rows.image_N[row] != rows.image_N[row - 1]:
            seen.clear()
        key = values.tobytes()
        repeated_N[row] = key in seen
        seen.add(key)
    return repeated_N


def _tally(
    description: Description, listed: list[str], rows: Rows, reasons_N: NDArray[np.str_]
) -> Tally:
    """What became of the lines.

    Args:
        listed: the images in the split's list.
    """
    reasons, counts = np.unique(reasons_N[reasons_N != ""], return_counts=True)
    without = len(listed) - len(np.unique(rows.image_N))
    notes = [f"{without} of {len(listed)} pictures have no labels"] if without else []
    unused = _labels_without_picture(description.root, listed)
    if unused:
        notes.append(f"labels without a picture: {len(unused)}, such as {unused[0]}")
    return Tally(
        file=str(description.path),
        people=len(rows.values),
        left_out=tuple(zip(reasons.tolist(), counts.tolist(), strict=True)),
        notes=tuple(notes),
    )


def _labels_without_picture(root: Path, listed: list[str]) -> list[Path]:
    """Text files with people, beside those of the listed images, whose picture does not exist.

    A picture that is there and not listed is of another split. Text files that lie among the
    pictures may be of any kind.
    """
    unused: list[Path] = []
    for folder in sorted({PurePosixPath(name).parent for name in listed}):
        labels = root / PurePosixPath(label_name(str(folder / "x"))).parent
        if labels == root / folder or not (labels.is_dir() and (root / folder).is_dir()):
            continue
        pictures = {PurePosixPath(name).stem for name in listed} | {
            path.stem for path in (root / folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        }
        unused += sorted(
            path
            for path in labels.glob("*.txt")
            if path.stem not in pictures and path.name != CLASSES_FILE and _has_people(path)
        )
    return unused
