"""Before stage 2 of `fpd distill`: the joints of the teacher, and boxes of people.

    fpd distill photos/ --teacher models/pose.onnx -o student.onnx

Reads the recipe's teachers for their joints' names; runs the recipe's detector, if any, on all
photographs. Writes `boxes.csv` of the detected people, which users may correct, and both settings
to the work directory's `recipe.json`. What is there is not made again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data.datasets import read_splits
from ..data.io.photos import UprightFolder
from ..data.readers.folder import image_names
from ..data.readers.photos import read_photo_boxes
from ..pipeline.config.overrides import merge
from ..pipeline.config.recipe import Recipe
from ..pipeline.detectors import check_detector, detect, load_detector, whole_pictures
from ..pipeline.runtime.interrupt import stop_requested
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.runtime.text import pluralize
from ..pipeline.teachers import taught_joints
from ..pipeline.teachers.resolve import check_teacher
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")


class Prepared(NamedTuple):
    """The completed recipe, and the number of photographs."""

    recipe: Recipe
    photographs: int


def run(work: WorkDir, recipe: Recipe, device: torch.device, *, allow_code: bool) -> Prepared:
    """Complete a recipe with the reader `photos`.

    Args:
        device: where the detector runs.
        allow_code: run teachers that the recipe names as Python code (`package.module:factory`).

    Returns:
        The recipe with `data.photos.joints` and, if people are detected, `data.photos.boxes`.

    Raises:
        ValueError: there is no folder of photographs, no teacher, or one of them, the detector or
            the boxes cannot be used.
        Interrupted: after SIGINT or SIGTERM during detection.
    """
    check_request(work, recipe, allow_code=allow_code)
    photos = _photographs(recipe)
    settings: dict[str, Any] = {}
    if recipe.data.photos.joints is None:
        settings["joints"] = taught_joints(recipe, allow_code=allow_code)
        log.info("students learn the teacher's %s", pluralize(len(settings["joints"]), "joint"))
    if recipe.data.photos.boxes is None:
        boxes = _find_boxes(work, recipe, photos, device)
        settings |= {} if boxes is None else {"boxes": boxes}
    tree = merge(recipe.model_dump(mode="json"), {"data": {"photos": settings}})
    recipe = Recipe.parse(tree)
    read_splits(recipe.data, ("train", "test"))  # raises errors of boxes and labels
    work.keep_setting(recipe, "data", "photos")
    return Prepared(recipe, len(photos.names))


def check_request(work: WorkDir, recipe: Recipe, *, allow_code: bool) -> None:
    """Refuse what cannot be distilled, before anything is written.

    Raises:
        ValueError: naming what is missing.
    """
    if not recipe.store.teachers:
        raise ValueError(
            "expected a teacher of the photographs, found none: name one with --teacher, or with "
            "--set 'store.teachers=[\"FILE\"]' (docs/teachers.md)"
        )
    photos = _photographs(recipe)
    boxes, detector = recipe.data.photos.boxes, recipe.data.photos.detector
    if boxes is not None:
        if not boxes.exists():
            raise ValueError(f"--boxes {boxes}: expected a file or folder of boxes, found none")
        read_photo_boxes(photos, boxes)
    if boxes is None and detector is not None:
        check_detector(detector)
    check_teacher(work, recipe, allow_code=allow_code)


def _photographs(recipe: Recipe) -> UprightFolder:
    """All photographs, none opened yet."""
    root = recipe.data.root
    if recipe.data.reader != "photos" or root is None:
        raise ValueError(
            f"expected a recipe of photographs (data.reader = photos), found {recipe.data.reader}"
        )
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder of photographs, found none")
    return UprightFolder(root, image_names(root))


def _find_boxes(
    work: WorkDir, recipe: Recipe, photos: UprightFolder, device: torch.device
) -> Path | None:
    """The file of detected boxes; None, with a warning, if there is no detector."""
    if recipe.data.photos.detector is None:
        log.warning("%s", whole_pictures(len(photos.names)))
        return None
    path = work.detected_boxes
    if path.is_file():
        log.info("%s has the boxes that were detected; remove it to detect again", path)
        return path.absolute()
    detector = load_detector(recipe.data.photos.detector)
    detector.to(device)
    with writer_lock(path), stop_requested() as stop:
        found = detect(detector, photos, path, min_score=recipe.data.photos.min_score, stop=stop)
    log.info(
        "detected %s on %s, none on %d of them; boxes are in %s",
        pluralize(found.people, "person", "people"),
        pluralize(found.photographs, "photograph"),
        found.empty,
        path,
    )
    return path.absolute()
