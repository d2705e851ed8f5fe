"""YOLO's data.yaml: lists of images, joints and classes of a folder of poses.

`readers/yolo.py` describes the entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..io.annotations import as_id, found
from ..io.yaml_files import read_yaml
from ..joint_names import pair_sides
from ..limits import MAX_JOINTS, MAX_NAME_CHARS
from ..skeletons import COCO, Skeleton, known_limbs
from .coco import THRESHOLD, groups_of, sigmas_of, with_spaces
from .yolo_settings import Yolo


@dataclass(frozen=True)
class Description:
    """What data.yaml states.

    Attributes:
        path: the file.
        root: `data.root`.
        folder: the entry `path`, as written.
        lists: the entries `train`, `val` and `test`, as written.
        classes: the classes' names, by number; empty: it has none.
        chosen: the numbers of the classes to use; None: all.
        skeleton: of these classes.
        values_per_joint: 2 or 3.
    """

    path: Path
    root: Path
    folder: Any
    lists: dict[str, Any]
    classes: dict[int, str]
    chosen: tuple[int, ...] | None
    skeleton: Skeleton
    values_per_joint: int


def read_description(root: Path, settings: Yolo) -> Description:
    """Read and check data.yaml.

    Raises:
        ValueError: it is missing or damaged, or one of its entries is.
    """
    path = root / settings.file
    if not path.is_file():
        others = ", ".join(sorted(other.name for other in root.glob("*.y*ml"))[:3])
        raise ValueError(
            f"{path} is missing: expected the file that describes the data set"
            f"{f', found {others}' if others else ''}; name it with "
            "--set data.yolo.file=FILE, and its folder with --set data.root=FOLDER"
        )
    tree = read_yaml(path, "a data set's description")
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected entries such as kpt_shape, found {found(tree)}")
    joints, values_per_joint = _keypoint_shape(path, tree)
    classes = _by_class(path, tree, "names")
    chosen = _choose(path, classes, settings.category)
    return Description(
        path=path,
        root=root,
        folder=tree.get("path"),
        lists={key: tree.get(key) for key in ("train", "val", "test")},
        classes=classes,
        chosen=chosen,
        skeleton=_skeleton(path, tree, joints, classes, chosen),
        values_per_joint=values_per_joint,
    )


def _keypoint_shape(path: Path, tree: dict[Any, Any]) -> tuple[int, int]:
    """The number of joints, and of values of each."""
    shape = tree.get("kpt_shape")
    if (
        not isinstance(shape, list)
        or [type(number) for number in shape] != [int, int]
        or not (1 <= shape[0] <= MAX_JOINTS and shape[1] in (2, 3))
    ):
        raise ValueError(
            f"{path}: kpt_shape: expected [joints, 2] or [joints, 3], with 1 to {MAX_JOINTS} "
            f"joints, as in a data set of poses, found {found(shape)}"
        )
    return shape[0], shape[1]


def _by_class(path: Path, tree: dict[Any, Any], key: str) -> dict[int, Any]:
    """An entry with a value for each class, as a list or by number; {} if it is missing."""
    value = tree.get(key)
    if value is None:
        return {}
    pairs = list(enumerate(value)) if isinstance(value, list) else value
    try:
        numbered = [(as_id(number), name) for number, name in dict(pairs).items()]
    except (TypeError, ValueError):
        numbered = [("", None)]
    by_class = {number: name for number, name in numbered if isinstance(number, int)}
    if len(by_class) < len(numbered):  # a number that is none, or twice
        by_class = {-1: None}
    names_are_text = key != "names" or all(isinstance(n, str) for n in by_class.values())
    if not names_are_text or any(number < 0 for number in by_class):
        raise ValueError(f"{path}: {key}: expected a value for each class, found {found(value)}")
    return by_class


def _choose(path: Path, classes: dict[int, str], category: str | None) -> tuple[int, ...] | None:
    """The numbers of the classes that have the name to use; None: all classes."""
    if category is None:
        return None
    chosen = tuple(number for number, name in classes.items() if name == category)
    if not chosen:
        raise ValueError(
            f"{path}: expected a class {category!r} (data.yolo.category) among names, found "
            f"{', '.join(classes.values())[:200] or 'none'}"
        )
    return chosen


def _skeleton(
    path: Path,
    tree: dict[Any, Any],
    count: int,
    classes: dict[int, str],
    chosen: tuple[int, ...] | None,
) -> Skeleton:
    stated_flip = _flip_indices(path, tree.get("flip_idx"), count)
    joints = _joint_names(path, tree, count, chosen)
    if joints is None and (count, stated_flip) == (COCO.num_joints, COCO.flip_indices):
        joints = COCO.joints
    flip_indices = stated_flip or _pairs_by_name(path, joints)
    if (joints, flip_indices) == (COCO.joints, COCO.flip_indices):
        return COCO
    joints = joints or tuple(f"joint {number}" for number in range(count))
    names = {classes[number] for number in (classes if chosen is None else chosen)}
    try:
        limbs, sigmas = known_limbs(joints), sigmas_of(joints, None)
    except ValueError as error:
        raise ValueError(f"{path}: kpt_names: {error}") from None
    return Skeleton(
        name=names.pop() if len(names) == 1 else "yolo",
        joints=joints,
        flip_indices=flip_indices,
        limbs=limbs,
        groups=groups_of(joints, flip_indices),
        normalizer=None,
        threshold=THRESHOLD,
        metric=COCO.metric,
        sigmas=sigmas,
    )


def _flip_indices(path: Path, value: Any, count: int) -> tuple[int, ...] | None:
    """The entry `flip_idx`; None if it is missing.

    Raises:
        ValueError: it is not a list of `count` indices in which those of a pair are exchanged.
    """
    if value is None or value == []:
        return None
    is_list = isinstance(value, list) and all(type(index) is int for index in value)
    if (
        not is_list
        or len(value) != count
        or not all(0 <= index < count for index in value)
        or not all(value[value[index]] == index for index in range(count))
    ):
        raise ValueError(
            f"{path}: flip_idx: expected, for each of {count} joints (kpt_shape), the index of the "
            f"one that it becomes in a flipped picture, exchanging pairs, found {found(value)}"
        )
    return tuple(value)


def _joint_names(
    path: Path, tree: dict[Any, Any], count: int, chosen: tuple[int, ...] | None
) -> tuple[str, ...] | None:
    """The joints' names by `kpt_names`, which is by class or one list; None: it has none."""
    value = tree.get("kpt_names")
    if isinstance(value, list) and value and all(isinstance(name, str | int) for name in value):
        lists: list[Any] = [value]
    else:
        by_class = _by_class(path, tree, "kpt_names")
        numbers = by_class if chosen is None else [n for n in chosen if n in by_class]
        lists = [by_class[number] for number in numbers]
    if not lists:
        return None
    if any(other != lists[0] for other in lists):
        raise ValueError(
            f"{path}: kpt_names: expected the same names in all classes, found different ones: "
            "choose a class with --set data.yolo.category=NAME"
        )
    names = lists[0]
    if isinstance(names, list) and all(
        isinstance(name, str | int) and 0 < len(str(name).strip()) <= MAX_NAME_CHARS
        for name in names
    ):
        joints = tuple(with_spaces(str(name)) for name in names)
        if len(set(joints)) == len(joints) == count:
            return joints
    raise ValueError(
        f"{path}: kpt_names: expected {count} different names, as kpt_shape has joints, found "
        f"{found(names)}"
    )


def _pairs_by_name(path: Path, joints: tuple[str, ...] | None) -> tuple[int, ...]:
    """The pairs of left and right by the joints' names, where flip_idx is missing.

    Raises:
        ValueError: there are no names, or a joint has no counterpart.
    """
    pairs = None if joints is None else pair_sides(joints)
    if pairs is None or pairs.unpaired:
        names = "kpt_names" if pairs is None else f"counterparts of {', '.join(pairs.unpaired)}"
        raise ValueError(
            f"{path}: expected flip_idx, found neither it nor {names[:500]}: add flip_idx, for "
            "each joint the index of the one that it becomes in a flipped picture (0, 1, 2 and so "
            "on if a flip exchanges none)"
        )
    return pairs.flip_indices
