"""Photographs to distil a teacher on: all images below a folder, without labels.

    PHOTOS/**/*.jpg ...

Which joints students learn is a setting (`fpd distill` takes the teacher's). People's boxes come
from `data.photos.boxes`: a file as in `io.boxes`, or a folder as in `io.yolo_boxes`; photographs
without a box are left out. Without that setting, each photograph is one person that fills it.

Photographs are turned upright by their orientation tags, unlike those of labeled data sets: boxes
refer to the picture as viewers show it.

A share of the photographs is held out, to compare students with their teacher. Whether one is held
out depends on its name alone, and all of its people go with it. With `data.photos.labels`, the test
people of a labeled data set take their place, and its test photographs are not trained on.

Shape letters: N samples, K joints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..io.annotations import numbered_ids, unique_images
from ..io.boxes import Box, BoxFile, match_names, people_boxes, read_boxes
from ..io.images import ImageFolder
from ..io.photos import UprightFolder
from ..io.yolo_boxes import read_yolo
from ..joint_names import find_joints, pair_sides
from ..samples import SampleSet, Tally
from ..selection import held_out_images
from ..skeletons import COCO, SKELETONS, Skeleton, known_limbs
from .coco import THRESHOLD, groups_of
from .folder import BOX_MARGIN, image_names, image_sizes
from .photos_settings import Photos


def skeleton_of(joints: Sequence[str]) -> Skeleton:
    """The skeleton of joints that are known by name alone.

    A flip exchanges left with right names; limbs are those that the built-in skeletons have between
    these joints; PCK's unit of length is the longer side of a person's box.

    Raises:
        ValueError: a joint has no counterpart, or two have the same name.
    """
    known = [skeleton for skeleton in SKELETONS.values() if skeleton.joints == tuple(joints)]
    if known:
        return known[0]
    pairs = pair_sides(joints)
    if pairs.unpaired:
        raise ValueError(
            f"expected a left and a right joint of every pair, found no counterpart of "
            f"{', '.join(pairs.unpaired)[:500]}: list the joints to learn with "
            "--set 'data.photos.joints=[\"NAME\", ...]'"
        )
    return Skeleton(
        name="photos",
        joints=tuple(joints),
        flip_indices=pairs.flip_indices,
        limbs=known_limbs(joints),
        groups=groups_of(tuple(joints), pairs.flip_indices),
        normalizer=None,
        threshold=THRESHOLD,
        metric=COCO.metric,
    )


def photos(root: Path, settings: Photos) -> SampleSet:
    """The people on all photographs; their joints are NaN, PCK's unit is their box's longer side.

    Raises:
        ValueError: there is no such folder, it has no images, `data.photos.joints` is not set, or
            the boxes are damaged or of other photographs.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder of photographs, found none")
    if settings.joints is None:
        raise ValueError(
            "data.photos.joints is not set, the joints that students learn: `fpd distill` takes "
            "the teacher's"
        )
    skeleton = skeleton_of(settings.joints)
    folder = UprightFolder(root, image_names(root))
    if settings.boxes is None:
        box_N4 = np.zeros((len(folder.names), 4))
        box_N4[:, 2:] = image_sizes(folder)
        names = list(folder.names)
        tally = Tally(str(root), len(names), notes=("each photograph is one person's box",))
        margin = 1.0
    else:
        names, box_N4, tally = _boxed(folder, settings.boxes, skeleton, settings.min_score)
        margin = BOX_MARGIN
    images, image_N = unique_images(names)
    side_N = box_N4[:, 2:].max(-1)
    return SampleSet(
        name="photos",
        skeleton=skeleton,
        images=UprightFolder(root, images),
        ids=numbered_ids("photos", names),
        image_N=image_N,
        joints_NK2=np.full((len(names), skeleton.num_joints, 2), np.nan),
        center_N2=box_N4[:, :2] + box_N4[:, 2:] / 2 - 0.5,
        side_N=margin * side_N,
        normalizer_N=side_N,
        tallies=(tally,),
    )


def read_photo_boxes(
    folder: UprightFolder, path: Path
) -> tuple[BoxFile, dict[int, list[Box]], int]:
    """Read a file of boxes, or YOLO's folder, and match it with photographs.

    Returns:
        The file, its boxes by the number of their photograph, and how many are of none.

    Raises:
        ValueError: it is damaged, or all its boxes are of other photographs.
    """
    file = read_yolo(path, folder) if path.is_dir() else read_boxes(path)
    by_photo, unmatched = match_names(file, folder.names)
    if not by_photo:
        raise ValueError(
            f"{path} has no box of a photograph in {folder.root}: its first box is of "
            f"{file.boxes[0].image!r}, the first photograph is {folder.names[0]!r}"
        )
    return file, by_photo, unmatched


def _boxed(
    folder: UprightFolder, path: Path, skeleton: Skeleton, min_score: float
) -> tuple[list[str], NDArray[np.float64], Tally]:
    """The photograph's name and the box of each person, float64 (N, 4), in photographs' order."""
    file, by_photo, unmatched = read_photo_boxes(folder, path)
    people, left_out = people_boxes(
        file,
        by_photo,
        skeleton=skeleton.name,
        min_score=min_score,
        remedy="remove category_id where all boxes are of people",
    )
    boxes: list[tuple[int, Box]] = [(i, box) for i in sorted(people) for box in people[i]]
    if not boxes:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"{path}: expected a person's box, found none; left out: {reasons} "
            "(see data.photos.min_score)"
        )
    left_out["of other photographs"] = unmatched
    without = len(folder.names) - len(people)
    note = f"{without} of {len(folder.names)} photographs have no person's box"
    tally = Tally(
        str(path), len(file.boxes), tuple(left_out.items()), notes=(note,) if without else ()
    )
    box_N4 = np.array([box.xywh for _, box in boxes], np.float64)
    return [folder.names[index] for index, _ in boxes], box_N4, tally


def held_out(samples: SampleSet, share: float) -> NDArray[np.bool_]:
    """Mask of the samples whose photograph is held out (`held_out_images`): bool (N,)."""
    assert isinstance(samples.images, ImageFolder)
    names = [f"photos/{name}" for name in samples.images.names]
    return np.asarray(held_out_images(names, share)[samples.image_N])


def with_joints(labeled: SampleSet, joints: Sequence[str]) -> SampleSet:
    """Labeled samples with other joints, matched by name; those that have no label are NaN.

    Scores stay those of the labeled data set: its metric, threshold, unit of length and groups.

    Raises:
        ValueError: they have no joint in common.
    """
    source, skeleton = labeled.skeleton, skeleton_of(joints)
    index_of = find_joints(source.joints, joints)
    if all(index is None for index in index_of):
        raise ValueError(
            f"expected labels of the students' joints ({', '.join(joints)[:200]}), found "
            f"{', '.join(source.joints)[:200]} in {labeled.name}: no name matches"
        )
    joints_NK2 = np.full((len(labeled), len(joints), 2), np.nan)
    for old, new in enumerate(index_of):
        if new is not None:
            joints_NK2[:, new] = labeled.joints_NK2[:, old]
    groups = [
        (name, tuple(new for old in group if (new := index_of[old]) is not None))
        for name, group in source.groups
    ]
    scored = replace(
        skeleton,
        groups=tuple((name, group) for name, group in groups if group),
        normalizer=_both(index_of, source.normalizer),
        threshold=source.threshold,
        metric=source.metric,
        curve_steps=source.curve_steps,
        unscored=tuple(new for old in source.unscored if (new := index_of[old]) is not None),
        sigmas=(),
    )
    return replace(labeled, skeleton=scored, joints_NK2=joints_NK2)


def _both(index_of: Sequence[int | None], pair: tuple[int, int] | None) -> tuple[int, int] | None:
    start, end = (None, None) if pair is None else (index_of[pair[0]], index_of[pair[1]])
    return None if start is None or end is None else (start, end)


def without_photographs_of(samples: SampleSet, others: SampleSet) -> SampleSet:
    """The samples whose photograph is not one of `others`', whatever their folders are called."""
    assert isinstance(samples.images, ImageFolder) and isinstance(others.images, ImageFolder)
    used = {os.path.realpath(others.images.path(int(i))) for i in np.unique(others.image_N)}
    is_used = [
        os.path.realpath(samples.images.path(i)) in used for i in range(len(samples.images.names))
    ]
    kept = samples.take(np.flatnonzero(~np.array(is_used, np.bool_)[samples.image_N]))
    left_out = ("on photographs to score on", len(samples) - len(kept))
    tallies = tuple(
        replace(tally, left_out=(*tally.left_out, left_out)) for tally in samples.tallies
    )
    return replace(kept, tallies=tallies)
