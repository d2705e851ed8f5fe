"""COCO person keypoints, and other data sets in COCO's format, with their own skeletons.

    root/coco/annotations/person_keypoints_train2017.json   person_keypoints_val2017.json
    root/coco/images/train2017/   images/val2017/

    root/train/_annotations.coco.json and the images beside it   (Roboflow: folder = ".")
    root/annotations/person_keypoints_default.json   root/images/default/   (CVAT: folder = ".")
    root/result.json   root/images/   (Label Studio: folder = ".")

    images        id, file_name
    categories    id, name, keypoints (joint names), skeleton (pairs of joints, from 1)
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
* Excluded, and counted (`SampleSet.tallies`): crowds, annotations without a box or with a box
  without area, and those with fewer than `min_keypoints` labeled joints.
* Where there is one file for both splits (`data.coco.test` = held-out), an image and all of its
  people are in "test" if the hash of its name is in the lowest tenth.
* `data.io.coco_format` reads the fields.

Lin et al., ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..io import coco_format
from ..io.annotations import MAX_SAMPLES, as_id, found, unique_images
from ..io.coco_format import CocoFile, Id, People
from ..io.images import ImageFolder, check_names
from ..joint_names import find_joints, pair_sides, without_side
from ..limits import MAX_JOINTS, MAX_NAME_CHARS
from ..samples import SampleSet, Tally
from ..selection import held_out_images
from ..skeletons import COCO, Skeleton
from .coco_settings import HELD_OUT, Coco

BOX_MARGIN = 1.25
# With more columns than this, tables have no columns of joint groups at all.
MAX_GROUPS = 10
THRESHOLD = 0.2

ANNOTATIONS = "annotations"
"""The folder of the files, as in COCO and CVAT's exports."""

TEST_SHARE = 0.1
"""Of the images, where there is one file for both splits."""


@dataclass(frozen=True)
class Category:
    """The category to use: several in the file, if they have one name and the same joints."""

    ids: tuple[Id, ...]
    name: str
    skeleton: Skeleton


def coco(root: Path, split: str, settings: Coco) -> SampleSet:
    """The samples of one split, "train" or "test".

    PCK's unit is the longer side of the person's box.

    Raises:
        ValueError: the file is missing, damaged, or does not have the format described above.
    """
    path, folder = split_paths(root, split, settings)
    file = read(path)
    category = choose_category(file, settings)
    people = coco_format.people(file, category.ids, category.skeleton.num_joints)
    if not 1 <= len(people) <= MAX_SAMPLES:
        raise ValueError(
            f"{path}: expected 1 to {MAX_SAMPLES} annotations of {category.name!r}, found "
            f"{len(people)}"
        )
    reasons = reasons_to_leave_out(people, settings.min_keypoints)
    if settings.test == HELD_OUT:
        _leave_out_other_split(file, people, reasons, split)
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    box_N4, image_ids = people.box_N4[kept], [people.image_ids[index] for index in kept]
    image_names = [coco_format.file_name(file, image_id) for image_id in image_ids]
    images, image_N = unique_images(image_names)
    check_names(images, root / folder, path)
    id_of = dict(zip(image_names, image_ids, strict=True))
    sizes = [coco_format.image_size(file, id_of[name]) for name in images]
    return SampleSet(
        name="coco",
        skeleton=category.skeleton,
        images=ImageFolder(
            root,
            [f"{folder}/{name}" for name in images],
            label_file=path,
            labeled_size_N2=np.array(sizes, np.int64).reshape(-1, 2),
        ),
        ids=tuple(sample_id(path, people.ids[index], root / settings.folder) for index in kept),
        image_N=image_N,
        joints_NK2=people.joints_NK2[kept],
        center_N2=box_N4[:, :2] + box_N4[:, 2:] / 2 - 0.5,
        side_N=BOX_MARGIN * box_N4[:, 2:].max(-1, initial=0.0),
        normalizer_N=box_N4[:, 2:].max(-1, initial=0.0),
        tallies=(_tally(file, people, reasons),),
    )


def sample_id(path: Path, annotation_id: Id, folder: Path) -> str:
    """The sample id of an annotation.

    Args:
        path: its file. Outside annotations/, files of several folders often have one name.
        folder: of the data set.
    """
    is_usual = path.parent == folder / ANNOTATIONS
    file = path.stem if is_usual else path.relative_to(folder).with_suffix("").as_posix()
    return f"coco/{file}/{annotation_id}"


def _leave_out_other_split(
    file: CocoFile, people: People, reasons: list[str | None], split: str
) -> None:
    """Add a reason to leave out the annotations of those images that are in the other split.

    Images without a person to score do not count: both splits have people.
    """
    used = {
        image for image, reason in zip(people.image_ids, reasons, strict=True) if reason is None
    }
    ids = [image_id for image_id in file.images if image_id in used]
    names = [f"coco/{coco_format.file_name(file, image_id)}" for image_id in ids]
    in_test = dict(zip(ids, held_out_images(names, TEST_SHARE), strict=True))
    for index, image_id in enumerate(people.image_ids):
        if reasons[index] is None and in_test[image_id] != (split == "test"):
            reasons[index] = "of the other split"


def reasons_to_leave_out(people: People, min_keypoints: int) -> list[str | None]:
    """For each annotation, why it is no sample; None: it is one."""
    labeled_N = (people.visibility_NK > 0).sum(-1)
    tests = (
        ("marked as a crowd", people.is_crowd_N),
        (too_few_joints(min_keypoints), labeled_N < min_keypoints),
        ("without a box", ~people.has_box_N),
        ("with a box without area", ~(people.box_N4[:, 2:] > 0).all(-1)),
    )
    reasons: list[str | None] = [None] * len(people)
    for reason, applies_N in reversed(tests):
        for index in np.flatnonzero(applies_N):
            reasons[index] = reason
    return reasons


def too_few_joints(min_keypoints: int) -> str:
    """Why a person with fewer labeled joints than this is left out."""
    if min_keypoints <= 1:
        return "without labeled joints"
    return f"with fewer than {min_keypoints} labeled joints"


def _tally(file: CocoFile, people: People, reasons: list[str | None]) -> Tally:
    counts = [("of other categories", people.other_categories)]
    counts += [
        (reason, reasons.count(reason)) for reason in dict.fromkeys(reasons) if reason is not None
    ]
    return Tally(
        file=str(file.path),
        people=len(file.annotations),
        left_out=tuple((reason, count) for reason, count in counts if count),
        notes=people.notes,
    )


def split_paths(root: Path, split: str, settings: Coco) -> tuple[Path, str]:
    """A split's annotation file, and its folder of images relative to the root."""
    name, images = {
        "train": (settings.train, settings.train_images),
        "test": (settings.test, settings.test_images),
    }[split if settings.test != HELD_OUT else "train"]
    folder = root / settings.folder
    path = folder / ANNOTATIONS / name
    if not path.is_file() and (folder / name).is_file():
        path = folder / name
    return path, images if settings.folder == "." else f"{settings.folder}/{images}"


def read(path: Path) -> CocoFile:
    """Read a file in COCO's format.

    Raises:
        ValueError: the file is missing, damaged, or has another format.
    """
    others = ", ".join(sorted(other.name for other in path.parent.glob("*.json"))[:3])
    return coco_format.read(
        path,
        f"expected it there, or in that folder's parent{f', found {others}' if others else ''}; "
        "name it with --set data.coco.train=FILE or data.coco.test=FILE (held-out: a tenth of the "
        "training file's images), its folder with data.coco.folder, and the parent of that with "
        "data.root",
    )


def choose_category(file: CocoFile, settings: Coco) -> Category:
    """The category to use, and its skeleton.

    Raises:
        ValueError: no category has keypoints, or several have and `data.coco.category` is not set;
            or its skeleton does not have COCO's format.
    """
    path = file.path
    ids_by_name: dict[str, list[Id]] = {}
    for category_id, category in file.categories.items():
        if category.get("keypoints"):
            ids_by_name.setdefault(_category_name(path, category), []).append(category_id)
    if settings.category is not None:
        ids_by_name = {n: ids for n, ids in ids_by_name.items() if n == settings.category}
    if len(ids_by_name) != 1:
        all_names = ", ".join(str(c.get("name")) for c in file.categories.values())[:200]
        raise ValueError(
            f"{path}: expected one category with keypoints, found {len(ids_by_name)} among: "
            f"{all_names}; choose with --set data.coco.category=NAME (for --ground-truth: "
            "--category NAME)"
        )
    ((name, ids),) = ids_by_name.items()
    first, *others = (file.categories[category_id] for category_id in ids)
    if any(other["keypoints"] != first["keypoints"] for other in others):
        raise ValueError(
            f"{path}: expected the same keypoints in all categories named {name!r}, found "
            f"different ones in categories {', '.join(map(str, ids))[:200]}: rename one of them"
        )
    return Category(ids=tuple(ids), name=name, skeleton=_skeleton(path, first, name, settings))


def _category_name(path: Path, category: dict[str, Any]) -> str:
    name = category.get("name")
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(
            f"{path}: category {category['id']}: name: expected text, found {found(name)}"
        )
    return str(name)


def _skeleton(path: Path, category: dict[str, Any], name: str, settings: Coco) -> Skeleton:
    joints = _joint_names(path, category)
    sigmas = sigmas_of(joints, settings.sigmas)
    if joints == COCO.joints and settings.sigmas is None and settings.flip is None:
        return COCO
    try:
        flip_indices = flip_indices_of(joints, settings.flip)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Skeleton(
        name=name,
        joints=joints,
        flip_indices=flip_indices,
        limbs=_limbs(path, category, joints),
        groups=groups_of(joints, flip_indices),
        normalizer=None,
        threshold=THRESHOLD,
        metric=COCO.metric,
        sigmas=sigmas,
    )


def _joint_names(path: Path, category: dict[str, Any]) -> tuple[str, ...]:
    names = category["keypoints"]
    if isinstance(names, list) and all(
        isinstance(name, str | int) and 0 < len(str(name).strip()) <= MAX_NAME_CHARS
        for name in names
    ):
        joints = tuple(with_spaces(str(name)) for name in names)
        if len(set(joints)) == len(joints) <= MAX_JOINTS:
            return joints
    raise ValueError(
        f"{path}: category {category['id']}: keypoints: expected 1 to {MAX_JOINTS} keypoints with "
        f"different names, found {found(names)}"
    )


def sigmas_of(
    joints: tuple[str, ...], sigmas: tuple[float, ...] | dict[str, float] | None
) -> tuple[float, ...]:
    """The tolerance of each joint; COCO's for COCO's joints, in any order; () if not known."""
    if sigmas is None:
        indices = find_joints(joints, COCO.joints) if len(joints) == COCO.num_joints else ()
        order = [index for index in indices if index is not None]
        known = sorted(order) == list(range(COCO.num_joints))
        return tuple(COCO.sigmas[index] for index in order) if known else ()
    if not isinstance(sigmas, dict):
        if len(sigmas) != len(joints):
            raise ValueError(
                f"data.coco.sigmas (--sigmas): expected {len(joints)} numbers, got {len(sigmas)}"
            )
        return sigmas
    named = list(sigmas.values())
    order = [index for index in find_joints(joints, list(sigmas)) if index is not None]
    if len(order) != len(joints) or len(named) != len(joints):
        raise ValueError(
            f"data.coco.sigmas: expected a number for each of {', '.join(joints)[:500]}; got "
            f"{', '.join(sigmas)[:500]}"
        )
    return tuple(named[index] for index in order)


def check_sigmas(settings: Coco, order: Sequence[int]) -> None:
    """Check that sigmas without names fit joints whose order in two files differs.

    Args:
        order: for each joint of one file, its index in the other.

    Raises:
        ValueError: they would be those of other joints.
    """
    sigmas = settings.sigmas
    if isinstance(sigmas, tuple) and tuple(sigmas[joint] for joint in order) != sigmas:
        raise ValueError(
            "data.coco.sigmas: expected names, since the joints have another order in the test "
            "file than in the training file: --set 'data.coco.sigmas={\"NAME\"=0.05, ...}'"
        )


def with_spaces(name: str) -> str:
    """A joint's name with spaces for underscores."""
    return name.replace("_", " ").strip()


def flip_indices_of(
    joints: tuple[str, ...], flip: tuple[tuple[str, str], ...] | Literal["none"] | None
) -> tuple[int, ...]:
    """`Skeleton.flip_indices` of joints.

    Args:
        flip: pairs of joints that a flip swaps; None: joints whose names differ in left and right.

    Raises:
        ValueError: `flip` contains an unknown joint, or one twice; or it is None, and a joint that
            states a side has no counterpart.
    """
    if flip is None:
        pairs = pair_sides(joints)
        if pairs.unpaired:
            raise ValueError(
                "expected a left and a right joint of every pair, found no counterpart, or "
                f"several, of {', '.join(pairs.unpaired)[:500]} among {', '.join(joints)[:500]}: "
                "state all pairs that a flip swaps with --set 'data.coco.flip="
                '[["left NAME","right NAME"]]\', or that there are none with '
                "--set data.coco.flip=none"
            )
        return pairs.flip_indices
    flip_indices = list(range(len(joints)))
    flipped_names = [] if flip == "none" else [with_spaces(name) for p in flip for name in p]
    flipped = [index for index in find_joints(flipped_names, joints) if index is not None]
    if len(set(flipped)) != len(flipped_names):
        raise ValueError(
            f"data.coco.flip: expected pairs of different joints among {', '.join(joints)[:500]}; "
            f"got {flip}"
        )
    for joint, twin in zip(flipped[::2], flipped[1::2], strict=True):
        flip_indices[joint], flip_indices[twin] = twin, joint
    return tuple(flip_indices)


def _limbs(
    path: Path, category: dict[str, Any], joints: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Pairs of joint indices, of pairs of numbers or names.

    Numbers are from 1; if 0 is among them, they are from 0.
    """
    listed = category.get("skeleton") or []
    index_of: dict[Id, int] = {as_id(name): index for index, name in enumerate(joints, 1)}
    try:
        pairs = [tuple(_limb_end(value, index_of) for value in pair) for pair in listed]
        first = min((end for pair in pairs for end in pair), default=1)
        first = 0 if first == 0 else 1
        limbs = tuple((start - first, end - first) for start, end in pairs)
    except (TypeError, ValueError, KeyError):
        limbs = ((-1, -1),)
    if not all(0 <= joint < len(joints) for limb in limbs for joint in limb):
        raise ValueError(
            f"{path}: category {category['id']}: skeleton: expected a skeleton of pairs of joints, "
            f"from 1 to {len(joints)}, found {found(listed)}"
        )
    return limbs


def _limb_end(value: Any, index_of: dict[Id, int]) -> int:
    key = as_id(value)
    return key if isinstance(key, int) else index_of[as_id(with_spaces(key))]


def groups_of(
    joints: tuple[str, ...], flip_indices: tuple[int, ...]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Pairs of twins, and single joints, named without their side; empty beyond `MAX_GROUPS`."""
    groups: list[tuple[str, tuple[int, ...]]] = []
    for joint, twin in enumerate(flip_indices):
        if twin == joint:
            groups.append((joints[joint], (joint,)))
        elif joint < twin:
            groups.append((without_side(joints[joint], joints[twin]), (joint, twin)))
    return tuple(groups) if len(groups) <= MAX_GROUPS else ()
