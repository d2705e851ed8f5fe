"""Beside the stages: a finished model's joints on photographs.

    fpd predict photo.jpg -w work/demo --box 40,20,120,260
    fpd predict photos/ -w work/demo --boxes boxes.json -o predictions

Reads a model's folder, images, and people's boxes; boxes of crowds, other categories and low
scores are left out (`data.io.boxes`). Writes `predictions.json`, a list in COCO's results format;
`joints.json`, the names of the model's joints; and a drawing of each image.

A result is one person:

    image_id     as in the file of boxes, else the file's name
    file_name    without folders
    category_id  the box's, 1 where it has none
    bbox         [x, y, w, h] as given, of edges: a whole image is [0, 0, W, H]
    keypoints    [x, y, peak] * K, in the order of `joints.json`
    score        mean peak, times the box's own score

Joints are in pixels of the image as viewers show it (`data.io.photos`), the center of the top-left
pixel being (0, 0): the convention of all of this package, and how HRNet and mmpose read COCO's
keypoints.

Shape letters: N people, K joints.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augmentation import UNAUGMENTED, affine_23
from ..data.io.boxes import (
    PERSON_CATEGORY_ID,
    Box,
    match_images,
    people_boxes,
    read_boxes,
)
from ..data.io.images import AS_STORED
from ..data.io.photos import Photos, find_photos
from ..data.limits import MIN_SCORE
from ..data.samples import ImageSource, SampleSet
from ..data.skeletons import Skeleton
from ..data.validation import MIN_BOX_PX
from ..data.views import crop_image
from ..pipeline.config.recipe import Recipe
from ..pipeline.config.sections import Loader
from ..pipeline.evaluation.inference import predict
from ..pipeline.evaluation.overlay import overlay_name, write_overlay
from ..pipeline.models.checkpoint import TrainedModel, load_model
from ..pipeline.runtime.files import as_json, atomic_group, make_writable
from ..pipeline.runtime.interrupt import Interrupted, Stop, stop_requested
from ..pipeline.runtime.loader import in_batches
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.runtime.text import pluralize
from ..pipeline.workdir import WorkDir

IMAGES_PER_BATCH = 64
"""Images that are read, predicted and drawn before a signal is looked at."""

BOX_MARGIN = 1.25
"""A crop's side, as a multiple of the longer side of a person's box: as for LSP and MPII in
training."""

MAX_BOX_IMAGES = 100
"""Largest side of a box, as a multiple of its image's longer side."""

STOPPED_EARLY = "stopped before the first prediction; run the same command again"


@dataclass(frozen=True)
class PredictRequest:
    """What to predict, and where to write it.

    Attributes:
        images: files, and folders of files.
        out: folder to write to.
        box: (x, y, w, h) of the person on the only image, pixels; None: the whole image.
        boxes: file of boxes (`data.io.boxes`); None: see `box`.
        category: name or id of the category of `boxes` to predict; None: people.
        min_score: least score of a box of `boxes`.
        draw: whether to write drawings.
        as_stored: ignore the orientation tags of photographs.
    """

    images: tuple[Path, ...]
    out: Path
    box: tuple[float, float, float, float] | None = None
    boxes: Path | None = None
    category: str | None = None
    min_score: float = MIN_SCORE
    draw: bool = True
    as_stored: bool = False


@dataclass(frozen=True)
class PredictResult:
    """What was predicted, and what was not.

    Attributes:
        people, images: numbers of those predicted.
        problems: a message for each image or box that could not be used.
        images_without_box: images of which the file of boxes has no person.
        boxes_without_image: boxes of images that were not given.
        boxes_left_out: numbers of the given images' boxes that are not of people, by reason.
    """

    people: int
    images: int
    problems: tuple[str, ...]
    images_without_box: int
    boxes_without_image: int
    boxes_left_out: dict[str, int]


@dataclass(frozen=True)
class Boxes:
    """Boxes by their image's index (None: the whole image), and how many others there are."""

    by_image: dict[int, list[Box | None]]
    without_image: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Person:
    """A box on an image, and the square crop around it."""

    image: int  # index into the photos
    box: Box
    center_2: tuple[float, float]
    side_px: float


class Pictures(ImageSource, Protocol):
    """Images with names, for messages and ids."""

    @property
    def names(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Context:
    """What every batch of images needs; `recipe` has the model's geometry."""

    model: TrainedModel
    recipe: Recipe
    device: torch.device
    photos: Photos
    request: PredictRequest


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, request: PredictRequest
) -> PredictResult:
    """Predict the joints of all people in the images.

    Args:
        name: the model's folder.

    Returns:
        Counts, and the problems of single images and boxes, which do not stop the others.

    Raises:
        ValueError: there is no such model, no image or box, nowhere to write to, or no image could
            be used.
        Interrupted: after SIGINT or SIGTERM; finished predictions are written.
    """
    paths = find_photos(request.images)
    folder = work.model(name)
    model = load_model(folder, device)
    boxes = _find_boxes(request, paths, model.skeleton)
    _check_out(request.out, paths)
    photos = Photos(paths, as_stored=request.as_stored)
    # Images are read in this process: a loader process that fails on a damaged image can hang.
    recipe = recipe.model_copy(update={"loader": Loader(workers=0)}).with_geometry(model.geometry)
    context = Context(model, recipe, device, photos, request)
    problems: list[str] = []
    with writer_lock(request.out, inside=True):
        results = _predict_all(context, boxes.by_image, problems)
    if not results:
        raise ValueError(f"nothing could be predicted: {problems[0]}")
    return PredictResult(
        people=len(results),
        images=len({result["file_name"] for result in results}),
        problems=tuple(problems),
        images_without_box=len(paths) - len(boxes.by_image),
        boxes_without_image=boxes.without_image,
        boxes_left_out=boxes.left_out,
    )


def _find_boxes(request: PredictRequest, paths: Sequence[Path], skeleton: Skeleton) -> Boxes:
    """The people's boxes on the given images.

    Raises:
        ValueError: `--box` with several images, or a file of boxes with no person of a given image.
    """
    if request.boxes is None:
        if request.category is not None:
            raise ValueError("--category is for a file of boxes: give one with --boxes")
        if request.box is None:
            return Boxes({index: [None] for index in range(len(paths))})
        if len(paths) != 1:
            raise ValueError(
                f"--box is for one image, found {len(paths)}: give a file of boxes with --boxes"
            )
        return Boxes({0: [Box(paths[0].name, request.box)]})
    file = read_boxes(request.boxes)
    matched, without_image = match_images(file, paths)
    if not matched:
        raise ValueError(
            f"{request.boxes} has {pluralize(len(file.boxes), 'box', 'boxes')}, but none of a "
            f"given image: its first box is of {file.boxes[0].image!r}, the first image is "
            f"{paths[0].name!r}"
        )
    people, left_out = people_boxes(
        file,
        matched,
        skeleton=skeleton.name,
        category=request.category,
        min_score=request.min_score,
    )
    if not people:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise ValueError(
            f"{request.boxes} has no person's box on the given images; left out: {reasons} (see "
            "--category, --min-score)"
        )
    by_image: dict[int, list[Box | None]] = {index: [*boxes] for index, boxes in people.items()}
    return Boxes(by_image, without_image, left_out)


def _check_out(out: Path, paths: Iterable[Path]) -> None:
    """Check that `out` can be written to, and that drawings do not replace the photographs.

    Raises:
        ValueError: `out` is a folder of the images, no folder, or not writable.
    """
    if out.resolve() in {path.resolve().parent for path in paths}:
        raise ValueError(
            f"{out} is the folder of the images, which drawings would replace: name another with -o"
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"-o {out}: expected a folder, found a file")
    make_writable(out, "the folder of predictions", "name another with -o")


def _predict_all(
    context: Context, boxes_by_image: dict[int, list[Box | None]], problems: list[str]
) -> list[dict[str, Any]]:
    """Results of all people; they are written even if a signal or an error ends the work early."""
    out = context.request.out
    results: list[dict[str, Any]] = []
    try:
        with stop_requested() as stop:
            for images in in_batches(sorted(boxes_by_image), IMAGES_PER_BATCH):
                people = list(_find_people(context.photos, images, boxes_by_image, problems))
                results += _predict_batch(context, people, problems, stop)
                if stop.is_set():
                    raise Interrupted("stopped", stop.signal)
    except Interrupted as interrupted:
        count = pluralize(len(results), "person", "people")
        message = f"stopped: {out} has the joints of {count}" if results else STOPPED_EARLY
        raise Interrupted(message, interrupted.signal) from None
    finally:
        if results:
            _write(out, results, context.model.skeleton)
    return results


def _find_people(
    photos: Photos,
    images: Sequence[int],
    boxes_by_image: dict[int, list[Box | None]],
    problems: list[str],
) -> Iterator[Person]:
    """The people of some images; images and boxes that cannot be used are added to `problems`."""
    for image in images:
        try:
            width_height = photos.size(image)
            _check_size(photos, image, boxes_by_image[image][0], width_height)
        except ValueError as error:
            problems.append(str(error))
            continue
        for box in boxes_by_image[image]:
            try:
                yield make_person(photos, image, box, width_height)
            except ValueError as error:
                problems.append(str(error))


def _check_size(photos: Photos, image: int, box: Box | None, width_height: tuple[int, int]) -> None:
    """Check that the file of boxes has the size of the image that the boxes are cut from.

    Raises:
        ValueError: it has another one.
    """
    if box is None or box.image_size is None or box.image_size == width_height:
        return
    width, height = width_height
    boxes_w, boxes_h = box.image_size
    text = f"{photos.names[image]} has {width} x {height} pixels, its boxes are for {boxes_w} x "
    if (boxes_h, boxes_w) == width_height and photos.orientation(image) != AS_STORED:
        raise ValueError(f"{text}{boxes_h}, the size as stored: add --as-stored")
    raise ValueError(f"{text}{boxes_h}: give the pictures that the boxes were made for")


def make_person(
    photos: Pictures, image: int, box: Box | None, width_height: tuple[int, int]
) -> Person:
    """The square crop around a box.

    Raises:
        ValueError: the box is empty, far too large, or outside the image.
    """
    width, height = width_height
    name = Path(photos.names[image]).name
    margin = BOX_MARGIN
    if box is None:  # the image is taken as a crop of a person already
        box, margin = Box(name, (0.0, 0.0, float(width), float(height))), 1.0
    assert box.xywh is not None  # `people_boxes` leaves out the others
    x, y, w, h = box.xywh
    where = f"{photos.names[image]}: box {x:g},{y:g},{w:g},{h:g}"
    if not (w > 0 and h > 0 and max(w, h) * margin >= MIN_BOX_PX):
        raise ValueError(
            f"{where} is empty or tiny: expected x,y,w,h with {MIN_BOX_PX:g} pixels at least"
        )
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise ValueError(f"{where} is outside the image of {width} x {height} pixels")
    if max(w, h) > MAX_BOX_IMAGES * max(width, height):
        raise ValueError(f"{where} is far larger than the image of {width} x {height} pixels")
    # From edges to pixel centers: a left edge at 0 is half a pixel left of the first center.
    return Person(image, box, (x + w / 2 - 0.5, y + h / 2 - 0.5), max(w, h) * margin)


def _predict_batch(
    context: Context, people: list[Person], problems: list[str], stop: Stop
) -> list[dict[str, Any]]:
    """Results of the people of some images, whose drawings are written if requested."""
    if not people:
        return []
    model, photos = context.model, context.photos
    samples = sample_set(photos, people, model.skeleton)
    try:
        predicted = predict(
            model.network,
            context.recipe,
            samples,
            context.device,
            stop=stop,
            tta=context.recipe.evaluation,
        )
    except ValueError:
        # An image has a valid header and damaged pixels: find it, and predict the others.
        readable = _readable_people(photos, samples, model.geometry.crop_px, problems)
        if len(readable) == len(people):
            raise
        return _predict_batch(context, [people[i] for i in readable], problems, stop)
    results = [
        _result(photos, person, joints_K2, peaks_K)
        for person, joints_K2, peaks_K in zip(
            people, predicted.joints_NK2, predicted.peaks_NK, strict=True
        )
    ]
    if context.request.draw:
        _draw(photos, people, results, model.skeleton, context.request.out)
    return results


def sample_set(photos: Pictures, people: Sequence[Person], skeleton: Skeleton) -> SampleSet:
    """People as samples without labels, as `predict` takes them."""
    count = len(people)
    return SampleSet(
        name="photos",
        skeleton=skeleton,
        images=photos,
        ids=tuple(f"{photos.names[p.image]}#{number}" for number, p in enumerate(people)),
        image_N=np.array([person.image for person in people], np.int64),
        joints_NK2=np.full((count, skeleton.num_joints, 2), np.nan),
        center_N2=np.array([person.center_2 for person in people], np.float64).reshape(count, 2),
        side_N=np.array([person.side_px for person in people], np.float64),
        normalizer_N=np.full(count, np.nan),
    )


def _readable_people(
    photos: Photos, samples: SampleSet, crop_px: int, problems: list[str]
) -> list[int]:
    """Indices of people whose images can be decoded; the other images are added to `problems`."""
    readable: list[int] = []
    damaged_images: set[int] = set()
    for index in range(len(samples)):
        sample = samples[index]
        affine = affine_23(sample.center_2, sample.side_px, UNAUGMENTED, crop_px)
        try:
            crop_image(photos, sample, affine, crop_px)
        except ValueError as error:
            if sample.image not in damaged_images:
                problems.append(str(error))
            damaged_images.add(sample.image)
        else:
            readable.append(index)
    return readable


def _result(
    photos: Photos, person: Person, joints_K2: NDArray[np.float64], peaks_K: NDArray[np.float64]
) -> dict[str, Any]:
    """One entry of `predictions.json` (see the module's docstring)."""
    file_name = Path(photos.names[person.image]).name
    box = person.box
    return {
        "image_id": file_name if box.image_id is None else box.image_id,
        "file_name": file_name,
        "category_id": PERSON_CATEGORY_ID if box.category_id is None else box.category_id,
        "bbox": list(box.xywh or ()),
        "keypoints": np.column_stack([joints_K2, peaks_K]).round(4).ravel().tolist(),
        "score": float(peaks_K.mean()) * box.score,
    }


def _draw(
    photos: Photos,
    people: Sequence[Person],
    results: Sequence[dict[str, Any]],
    skeleton: Skeleton,
    out: Path,
) -> None:
    """Write a drawing of each image, with all of its people."""
    results_by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for person, result in zip(people, results, strict=True):
        results_by_image[person.image].append(result)
    for image, image_results in sorted(results_by_image.items()):
        pixels_HW3, _ = photos.read(image, zoom=1.0)
        keypoints = [result["keypoints"] for result in image_results]
        keypoints_NK3 = np.array(keypoints).reshape(len(image_results), -1, 3)
        sides_N = [max(result["bbox"][2:]) for result in image_results]
        path = out / overlay_name(image_results[0]["file_name"])
        write_overlay(
            pixels_HW3,
            keypoints_NK3,
            sides_N,
            skeleton,
            path,
            boxes_N4=np.array([result["bbox"] for result in image_results], np.float64),
            scores_N=[result["score"] for result in image_results],
        )


def _write(out: Path, results: list[dict[str, Any]], skeleton: Skeleton) -> None:
    lines = ",\n".join(json.dumps(result, sort_keys=True) for result in results)
    names = {
        "skeleton": skeleton.name,
        "joints": list(skeleton.joints),
        "limbs": [list(pair) for pair in skeleton.limbs],
    }
    with atomic_group(out / "predictions.json", out / "joints.json") as (predictions, joints):
        predictions.write_text(f"[\n{lines}\n]\n", "utf-8")
        joints.write_text(as_json(names), "utf-8")
