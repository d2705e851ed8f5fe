"""COCO person keypoints, and other data sets in COCO's format, with their own skeletons.

    root/coco/annotations/person_keypoints_train2017.json   person_keypoints_val2017.json
    root/coco/images/train2017/   images/val2017/

    images        id, file_name
    categories    id, name, keypoints (joint names), skeleton (pairs of joint numbers, from 1)
    annotations   id, image_id, category_id, bbox (x, y, w, h), iscrowd, area,
                  keypoints (x, y, v of every joint; v = 0: not labeled)

Conventions:

* Keypoints are pixel indices from 0 (cocodataset.org, "Data format": "0-indexed location"), which
  are this package's coordinates. (HRNet and mmpose use them unchanged, too; Detectron2 adds 0.5
  because its pixel centers are at halves.)
* Boxes are measured from the top left corner of the image: with the center of the first pixel at 0,
  the center of a box is at x + w/2 - 0.5. (HRNet and mmpose omit the - 0.5.)
* The crop is a square around the box's center, 1.25 times the box's longer side, as in HRNet and
  mmpose with square inputs.
* Excluded: crowds, boxes without area, and annotations with fewer than `min_keypoints` joints.

Lin et al., ECCV 2014.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from ..io.annotations import MAX_SAMPLES, column, object_list, read_json, unique_images
from ..io.images import ImageFolder
from ..samples import SampleSet
from ..settings import Settings
from ..skeletons import COCO, Skeleton

BOX_MARGIN = 1.25
MAX_JOINTS = 1000
# With more columns than this, tables have no columns of joint groups at all.
MAX_GROUPS = 10
THRESHOLD = 0.2

# The side in a joint's name: "left_eye", "eye left", "L_Eye"; "LeftEye" and "LEye".
SIDE = re.compile(r"(?<![A-Za-z])(?i:left|right|l|r)(?![A-Za-z])|^(?:Left|Right|L|R)(?=[A-Z])")
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


class Coco(Settings):
    """A data set in COCO's format."""

    train: str = Field("person_keypoints_train2017.json", description="file in coco/annotations/")
    test: str = Field("person_keypoints_val2017.json", description="file in coco/annotations/")
    train_images: str = Field("images/train2017", description="folder in coco/")
    test_images: str = Field("images/val2017", description="folder in coco/")
    category: str | None = Field(
        None, description="category to use; not set: the only one with keypoints"
    )
    min_keypoints: int = Field(
        1,
        ge=0,
        description="least number of labeled joints of a sample; 0: also those without labels",
    )
    flip: tuple[tuple[str, str], ...] | None = Field(
        None,
        description="pairs of joints that a flip swaps; not set: joints whose names differ in left "
        "and right",
    )
    sigmas: tuple[float, ...] | None = Field(
        None, description="OKS's tolerance of each joint; not set: COCO's for COCO's joints"
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
            raise ValueError(
                "expected numbers above 0 and up to 1, such as COCO's 0.025 for an eye"
            )
        return value


def coco(root: Path, split: str, settings: Coco) -> SampleSet:
    """The samples of one split, "train" or "test".

    PCK's unit is the longer side of the person's box.

    Raises:
        ValueError: the file is missing, damaged, or does not have the format described above.
    """
    path, folder = split_paths(root, split, settings)
    dataset = read(path)
    category, skeleton = choose_category(path, dataset, settings)
    annotations = [
        a
        for a in dataset["annotations"]
        if a.get("category_id") == category["id"] and not a.get("iscrowd")
    ]
    names = [f"annotation {a.get('id')}" for a in annotations]
    if not 1 <= len(annotations) <= MAX_SAMPLES:
        raise ValueError(
            f"{path}: expected 1 to {MAX_SAMPLES} annotations of {category['name']!r}, found "
            f"{len(annotations)}"
        )
    flat_N3K = column(path, annotations, "keypoints", (3 * skeleton.num_joints,), names)
    joints_NK3 = flat_N3K.reshape(len(annotations), -1, 3)
    box_N4 = column(path, annotations, "bbox", (4,), names)
    labeled_NK = joints_NK3[..., 2] > 0
    kept_N = (labeled_NK.sum(1) >= settings.min_keypoints) & (box_N4[:, 2:] > 0).all(-1)
    annotations = [annotations[i] for i in np.flatnonzero(kept_N)]
    box_N4 = box_N4[kept_N]
    images, image_N = unique_images(image_names(path, dataset, annotations))
    return SampleSet(
        name="coco",
        skeleton=skeleton,
        images=ImageFolder(root, [f"coco/{folder}/{name}" for name in images]),
        ids=tuple(f"coco/{path.stem}/{a.get('id')}" for a in annotations),
        image_N=image_N,
        joints_NK2=np.where(labeled_NK[..., None], joints_NK3[..., :2], np.nan)[kept_N],
        center_N2=box_N4[:, :2] + box_N4[:, 2:] / 2 - 0.5,
        side_N=BOX_MARGIN * box_N4[:, 2:].max(-1),
        normalizer_N=box_N4[:, 2:].max(-1),
    )


def split_paths(root: Path, split: str, settings: Coco) -> tuple[Path, str]:
    """A split's annotation file, and its folder of images relative to root/coco."""
    name, images = {
        "train": (settings.train, settings.train_images),
        "test": (settings.test, settings.test_images),
    }[split]
    return root / "coco" / "annotations" / name, images


def read(path: Path) -> dict[str, Any]:
    """Read a file in COCO's format, and check that it has lists of objects with ids.

    Raises:
        ValueError: the file is missing, damaged, or has another format.
    """
    missing = (
        "expected it in data.root/coco/annotations; name it with --set data.coco.train=FILE or "
        "data.coco.test=FILE, and the parent of coco/ with --set data.root=FOLDER"
    )
    dataset = read_json(path, missing)
    lists = ("images", "categories", "annotations")
    if not isinstance(dataset, dict) or not all(key in dataset for key in lists):
        raise ValueError(f"{path}: expected COCO's format, an object with {', '.join(lists)}")
    id_keys = {"images": ("id",), "categories": ("id",), "annotations": ("image_id", "category_id")}
    for key in lists:
        for record in object_list(path, dataset[key]):
            if not all(isinstance(record.get(id_key), int | str) for id_key in id_keys[key]):
                raise ValueError(
                    f"{path}: expected {' and '.join(id_keys[key])} in all {key}, numbers or "
                    "strings"
                )
    return dataset


def image_names(
    path: Path, dataset: dict[str, Any], annotations: list[dict[str, Any]]
) -> list[str]:
    """The file name of each annotation's image.

    Raises:
        ValueError: an annotation refers to an image that the file does not list.
    """
    name_of_id = {image.get("id"): image.get("file_name") for image in dataset["images"]}
    names = []
    for annotation in annotations:
        name = name_of_id.get(annotation.get("image_id"))
        if not isinstance(name, str):
            raise ValueError(
                f"{path}: annotation {annotation.get('id')}: expected an image with a file_name, "
                f"found none of id {annotation.get('image_id')}"
            )
        names.append(name)
    return names


def choose_category(
    path: Path, dataset: dict[str, Any], settings: Coco
) -> tuple[dict[str, Any], Skeleton]:
    """The category to use, and its skeleton.

    Raises:
        ValueError: no category has keypoints, or several have and `data.coco.category` is not set;
            or its skeleton does not have COCO's format.
    """
    candidates = {str(c.get("name")): c for c in dataset["categories"] if c.get("keypoints")}
    if settings.category is not None:
        candidates = {n: c for n, c in candidates.items() if n == settings.category}
    if len(candidates) != 1:
        all_names = ", ".join(str(c.get("name")) for c in dataset["categories"])[:200]
        raise ValueError(
            f"{path}: expected one category with keypoints, found {len(candidates)} among: "
            f"{all_names}; choose with --set data.coco.category=NAME"
        )
    category = next(iter(candidates.values()))
    return category, _skeleton(path, category, settings)


def _skeleton(path: Path, category: dict[str, Any], settings: Coco) -> Skeleton:
    names = category["keypoints"]
    joints = tuple(_with_spaces(str(name)) for name in names) if isinstance(names, list) else ()
    if len(set(joints)) != len(joints) or not 1 <= len(joints) <= MAX_JOINTS:
        raise ValueError(f"{path}: expected 1 to {MAX_JOINTS} keypoints with different names")
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


def _with_spaces(name: str) -> str:
    return name.replace("_", " ").strip()


def flip_indices_of(
    joints: tuple[str, ...], flip: tuple[tuple[str, str], ...] | None
) -> tuple[int, ...]:
    """`Skeleton.flip_indices` of joints.

    Args:
        flip: pairs of joints that a flip swaps; None: joints whose names differ in left and right.

    Raises:
        ValueError: `flip` contains an unknown joint, or one twice.
    """
    index_of = {name: index for index, name in enumerate(joints)}
    if flip is None:
        return tuple(index_of.get(_other_side(name), index) for index, name in enumerate(joints))
    flip_indices = list(range(len(joints)))
    flipped_names = [_with_spaces(name) for pair in flip for name in pair]
    if len(set(flipped_names)) != len(flipped_names) or not set(flipped_names) <= set(index_of):
        raise ValueError(
            f"data.coco.flip: expected pairs of different joints among {', '.join(joints)[:500]}; "
            f"got {flip}"
        )
    for name, twin in zip(flipped_names[::2], flipped_names[1::2], strict=True):
        flip_indices[index_of[name]], flip_indices[index_of[twin]] = index_of[twin], index_of[name]
    return tuple(flip_indices)


def _other_side(name: str) -> str:
    """The name with its first "left" or "right" swapped, keeping the case."""

    def swap(match: re.Match[str]) -> str:
        side = match.group()
        other = OTHER_SIDE[side.lower()]
        return other.upper() if side.isupper() else other.title() if side.istitle() else other

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
    """Pairs of twins, and single joints, named without their side; empty beyond `MAX_GROUPS`."""
    groups: list[tuple[str, tuple[int, ...]]] = []
    for joint, twin in enumerate(flip_indices):
        if twin == joint:
            groups.append((joints[joint], (joint,)))
        elif joint < twin:
            name = " ".join(SIDE.sub("", joints[joint], count=1).split())
            groups.append((name or joints[joint], (joint, twin)))
    return tuple(groups) if len(groups) <= MAX_GROUPS else ()
