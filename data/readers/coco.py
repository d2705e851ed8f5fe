"""COCO person keypoints, and any file of that format with a skeleton of its own.

    root/coco/annotations/person_keypoints_train2017.json   person_keypoints_val2017.json
    root/coco/images/train2017/   images/val2017/

    images        id, file_name
    categories    id, name, keypoints: names of the joints, skeleton: pairs of them, from 1
    annotations   id, image_id, category_id, bbox (x, y, w, h), iscrowd, area,
                  keypoints (x, y, v of every joint; v = 0: not labeled)

Conventions, decided here and nowhere else:

* Keypoints are indices of pixels from 0 (cocodataset.org, "Data format": "0-indexed location"), so
  they are this package's coordinates as they are. (Detectron2 adds 0.5 to them because its pixel
  centers lie at halves; HRNet and mmpose take them as they are, too.)
* Boxes are measured from the top left corner of the image, as areas are: the center of a box lies
  at x + w/2 - 0.5 where the center of the first pixel is 0. (HRNet and mmpose leave the half out.)
* The crop is the square around the box, 1.25 times its longer side, as HRNet and mmpose have it at
  square inputs.
* Left out: crowds, boxes without area, and whoever has fewer joints than `min_keypoints`.

Lin et al., ECCV 2014.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ..io.annotations import MAX_PEOPLE, column, people_list, read_json, shared
from ..io.images import ImageFolder
from ..samples import SampleSet
from ..settings import Settings
from ..skeletons import COCO, Skeleton

BOX_MARGIN = 1.25
MAX_JOINTS = 1000
# A table of more columns than this helps nobody.
MAX_GROUPS = 10
THRESHOLD = 0.2

# "left_eye", "eye left", "L_Eye"; "LeftEye" and "LEye".
SIDE = re.compile(r"(?<![A-Za-z])(?i:left|right|l|r)(?![A-Za-z])|^(?:Left|Right|L|R)(?=[A-Z])")
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


class Coco(Settings):
    """A data set in COCO's format."""

    train: str = Field("person_keypoints_train2017.json", description="file in coco/annotations/")
    test: str = Field("person_keypoints_val2017.json", description="file in coco/annotations/")
    train_images: str = Field("images/train2017", description="folder in coco/")
    test_images: str = Field("images/val2017", description="folder in coco/")
    category: str | None = Field(
        None, description="whom to take; none given: the only category that has keypoints"
    )
    min_keypoints: int = Field(
        1, ge=0, description="labeled joints a person needs; 0 takes those without any, too"
    )
    flip: tuple[tuple[str, str], ...] | None = Field(
        None,
        description="pairs of joints that change places in the mirror; none given: those that "
        "differ in left and right by name",
    )
    sigmas: tuple[float, ...] | None = Field(
        None, description="OKS's tolerance of each joint; none given: COCO's for COCO's joints"
    )

    @field_validator("train", "test", "train_images", "test_images")
    @classmethod
    def _inside(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts or not value:
            raise ValueError("expected a name inside data.root/coco")
        return value

    @field_validator("sigmas")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not all(0 < sigma <= 1 for sigma in value):
            raise ValueError("expected shares of 0 to 1, such as COCO's 0.025 for an eye")
        return value


def coco(root: Path, split: str, settings: Coco) -> SampleSet:
    """The people of one file.

    PCK's unit is the longer side of the person's box.

    Raises:
        ValueError: the file is missing, damaged, or not as described above.
    """
    path, folder = location(root, split, settings)
    dataset = read(path)
    category, skeleton = choose(path, dataset, settings)
    wanted = [
        a
        for a in dataset["annotations"]
        if a.get("category_id") == category["id"] and not a.get("iscrowd")
    ]
    names = [f"annotation {a.get('id')}" for a in wanted]
    if not 1 <= len(wanted) <= MAX_PEOPLE:
        raise ValueError(
            f"{path}: expected 1 to {MAX_PEOPLE} annotations of {category['name']!r}, found "
            f"{len(wanted)}"
        )
    flat_NK = column(path, wanted, "keypoints", (3 * skeleton.num_joints,), names)
    joints_NK3 = flat_NK.reshape(len(wanted), -1, 3)
    box_N4 = column(path, wanted, "bbox", (4,), names)
    labeled_NK = joints_NK3[..., 2] > 0
    kept = (labeled_NK.sum(1) >= settings.min_keypoints) & (box_N4[:, 2:] > 0).all(-1)
    files = image_names(path, dataset, [wanted[i] for i in np.flatnonzero(kept)])
    images, image_N = shared(files)
    box_N4 = box_N4[kept]
    return SampleSet(
        "coco",
        skeleton,
        ImageFolder(root, [f"coco/{folder}/{name}" for name in images]),
        tuple(f"coco/{path.stem}/{wanted[i].get('id')}" for i in np.flatnonzero(kept)),
        image_N,
        np.where(labeled_NK[..., None], joints_NK3[..., :2], np.nan)[kept],
        box_N4[:, :2] + box_N4[:, 2:] / 2 - 0.5,
        BOX_MARGIN * box_N4[:, 2:].max(-1),
        box_N4[:, 2:].max(-1),
    )


def location(root: Path, split: str, settings: Coco) -> tuple[Path, str]:
    """A split's annotation file, and its folder of images, relative to root/coco."""
    name, images = {
        "train": (settings.train, settings.train_images),
        "test": (settings.test, settings.test_images),
    }[split]
    return root / "coco" / "annotations" / name, images


def read(path: Path) -> dict[str, Any]:
    """A file in COCO's format, its lists checked for being lists of objects.

    Raises:
        ValueError: it is missing, damaged, or of another format.
    """
    missing = (
        "expected it in data.root/coco/annotations; name it with --set data.coco.train=FILE or "
        "data.coco.test=FILE, and the parent of coco/ with --set data.root=FOLDER"
    )
    dataset = read_json(path, missing)
    lists = ("images", "categories", "annotations")
    if not isinstance(dataset, dict) or not all(key in dataset for key in lists):
        raise ValueError(f"{path}: expected COCO's format, an object with {', '.join(lists)}")
    names = {"images": ("id",), "categories": ("id",), "annotations": ("image_id", "category_id")}
    for key in lists:
        for row in people_list(path, dataset[key]):
            if not all(isinstance(row.get(name), int | str) for name in names[key]):
                raise ValueError(
                    f"{path}: expected {' and '.join(names[key])} in all {key}, numbers or texts"
                )
    return dataset


def image_names(
    path: Path, dataset: dict[str, Any], annotations: list[dict[str, Any]]
) -> list[str]:
    """The file name of each annotation's image.

    Raises:
        ValueError: an annotation is of an image that the file does not list.
    """
    names = {image.get("id"): image.get("file_name") for image in dataset["images"]}
    found = []
    for annotation in annotations:
        name = names.get(annotation.get("image_id"))
        if not isinstance(name, str):
            raise ValueError(
                f"{path}: annotation {annotation.get('id')}: expected an image with a file_name, "
                f"found none of id {annotation.get('image_id')}"
            )
        found.append(name)
    return found


def choose(path: Path, dataset: dict[str, Any], settings: Coco) -> tuple[dict[str, Any], Skeleton]:
    """The category whose keypoints are wanted, and its skeleton.

    Raises:
        ValueError: there is none, or more than one and no word of which; or its skeleton is not
            as COCO has them.
    """
    with_joints = {str(c.get("name")): c for c in dataset["categories"] if c.get("keypoints")}
    if settings.category is not None:
        with_joints = {n: c for n, c in with_joints.items() if n == settings.category}
    if len(with_joints) != 1:
        named = ", ".join(str(c.get("name")) for c in dataset["categories"])[:200]
        raise ValueError(
            f"{path}: expected one category with keypoints, found {len(with_joints)} among: "
            f"{named}; choose with --set data.coco.category=NAME"
        )
    category = next(iter(with_joints.values()))
    return category, _skeleton(path, category, settings)


def _skeleton(path: Path, category: dict[str, Any], settings: Coco) -> Skeleton:
    named = category["keypoints"]
    joints = tuple(_plain(str(name)) for name in named) if isinstance(named, list) else ()
    if len(set(joints)) != len(joints) or not 1 <= len(joints) <= MAX_JOINTS:
        raise ValueError(f"{path}: expected 1 to {MAX_JOINTS} keypoints of different names")
    sigmas = settings.sigmas
    if sigmas is not None and len(sigmas) != len(joints):
        raise ValueError(f"data.coco.sigmas: expected {len(joints)} numbers, got {len(sigmas)}")
    if joints == COCO.joints and sigmas is None and settings.flip is None:
        return COCO
    flip_indices = flip_indices_of(joints, settings.flip)
    return Skeleton(
        name=str(category["name"]),
        joints=joints,
        flip_indices=flip_indices,
        limbs=_limbs(path, category, len(joints)),
        groups=_groups(joints, flip_indices),
        normalizer=None,
        threshold=THRESHOLD,
        metric=COCO.metric,
        sigmas=sigmas or (COCO.sigmas if joints == COCO.joints else ()),
    )


def _plain(name: str) -> str:
    return name.replace("_", " ").strip()


def flip_indices_of(
    joints: tuple[str, ...], flip: tuple[tuple[str, str], ...] | None
) -> tuple[int, ...]:
    """For each joint, what it becomes in the mirror.

    Raises:
        ValueError: a pair of `flip` names a joint that there isn't, or one twice.
    """
    places = {name: place for place, name in enumerate(joints)}
    if flip is None:
        return tuple(places.get(_other_side(name), place) for place, name in enumerate(joints))
    flip_indices = list(range(len(joints)))
    named = [_plain(name) for pair in flip for name in pair]
    if len(set(named)) != len(named) or not set(named) <= set(places):
        raise ValueError(
            f"data.coco.flip: expected pairs of different joints among {', '.join(joints)[:500]}; "
            f"got {flip}"
        )
    for one, other in zip(named[::2], named[1::2], strict=True):
        flip_indices[places[one]], flip_indices[places[other]] = places[other], places[one]
    return tuple(flip_indices)


def _other_side(name: str) -> str:
    """The name with left for right and the other way round, once, in its own case."""

    def swap(match: re.Match[str]) -> str:
        found = match.group()
        other = OTHER_SIDE[found.lower()]
        return other.upper() if found.isupper() else other.title() if found.istitle() else other

    return SIDE.sub(swap, name, count=1)


def _limbs(path: Path, category: dict[str, Any], joints: int) -> tuple[tuple[int, int], ...]:
    try:
        limbs = tuple((int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or ())
    except (TypeError, ValueError):
        limbs = ((-1, -1),)
    if not all(0 <= joint < joints for limb in limbs for joint in limb):
        raise ValueError(f"{path}: expected a skeleton of pairs of joints, from 1 to {joints}")
    return limbs


def _groups(
    joints: tuple[str, ...], flip_indices: tuple[int, ...]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Joints and their mirror twins, named without their side; none where they are too many."""
    groups: list[tuple[str, tuple[int, ...]]] = []
    for joint, twin in enumerate(flip_indices):
        if twin == joint:
            groups.append((joints[joint], (joint,)))
        elif joint < twin:
            name = " ".join(SIDE.sub("", joints[joint], count=1).split())
            groups.append((name or joints[joint], (joint, twin)))
    return tuple(groups) if len(groups) <= MAX_GROUPS else ()
