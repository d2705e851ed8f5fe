"""Beside the stages: a finished model's joints on photographs.

    fpd predict photo.jpg -w work/demo --box 40,20,120,260
    fpd predict photos/ -w work/demo --boxes boxes.json -o predictions

In: a model's folder, images, people's boxes. Out: `predictions.json`, a list in COCO's results
format, and a drawing of each image.

A result is one person:

    image_id     as the boxes' file gives it, else the file's name
    file_name    without folders
    category_id  the box's, 1 where it has none
    bbox         [x, y, w, h] as given: of edges, so that a whole image is [0, 0, W, H]
    keypoints    [x, y, peak] * K, in the order of the model's joints (`joints.json` names them)
    score        mean peak, times the box's own score

Joints are in pixels of the image as shown (`data.photos`), the center of the top-left pixel being
(0, 0): the convention of all of this package, and how HRNet and mmpose take COCO's keypoints.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.augmentation import UNAUGMENTED, affine_23
from ..data.io.boxes import Box, keys_of, read_boxes
from ..data.io.photos import Photos, find_photos
from ..data.samples import SampleSet
from ..data.skeletons import Skeleton
from ..data.validation import MIN_BOX_PX
from ..data.views import cut
from ..pipeline.config.recipe import Recipe
from ..pipeline.config.sections import Loader
from ..pipeline.evaluation.inference import predict
from ..pipeline.evaluation.overlay import draw_people, drawing_name
from ..pipeline.models.checkpoint import TrainedModel, load_model
from ..pipeline.runtime.files import as_json, atomic_group, make_writable
from ..pipeline.runtime.interrupt import Interrupted, Stop, stop_requested
from ..pipeline.runtime.loader import in_batches
from ..pipeline.runtime.text import pluralize
from ..pipeline.workdir import WorkDir

IMAGES_AT_ONCE = 64
"""Read, predicted and drawn together: what a stop, or a broken image, has to wait for."""

NOBODY = "stopped before anybody's joints were found; run the same command again"

BOX_MARGIN = 1.25
"""A crop's side over the longer side of a person's box: so LSP's and MPII's people are cut."""


@dataclass(frozen=True)
class PredictRequest:
    """What is asked for.

    Attributes:
        images: files, and folders of files.
        box: (x, y, w, h) of the one person on the one image.
        boxes: a file of boxes (`data.boxes`).
        out: folder to write to.
        draw: whether to draw the images, too.
        as_stored: ignore orientation tags.
    """

    images: tuple[Path, ...]
    out: Path
    box: tuple[float, float, float, float] | None = None
    boxes: Path | None = None
    draw: bool = True
    as_stored: bool = False


@dataclass(frozen=True)
class PredictResult:
    """What came of it.

    Attributes:
        people, images: how many were done.
        problems: a sentence for each image or box that could not be.
        unboxed: images without a box in the boxes' file.
        unmatched: boxes in the boxes' file of images that were not named.
    """

    people: int
    images: int
    problems: tuple[str, ...]
    unboxed: int
    unmatched: int


@dataclass(frozen=True)
class Person:
    """A box on an image, and the square that is cut out."""

    image: int
    box: Box
    center_2: tuple[float, float]
    side_px: float


@dataclass(frozen=True)
class Context:
    """What every part of the work needs; `recipe` has the model's geometry."""

    trained: TrainedModel
    recipe: Recipe
    device: torch.device
    photos: Photos
    request: PredictRequest


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, name: str, request: PredictRequest
) -> PredictResult:
    """Predict the joints of everyone in the images.

    Args:
        name: the model's folder.

    Raises:
        ValueError: there is no such model, nothing to predict, or nowhere to write to. What is
            wrong with single images is in what is returned, not raised, unless it is all of them.
        Interrupted: after a signal, with what was complete written.
    """
    paths = find_photos(request.images)
    boxes_of, unmatched = _assign(request, paths)
    folder = work.model(name)
    _check_out(request.out, paths)
    trained = load_model(folder, device)
    photos = Photos(paths, as_stored=request.as_stored)
    # Read here: a reading process that meets a broken image may never let go of this one.
    here = recipe.model_copy(update={"loader": Loader(workers=0)})
    context = Context(trained, here.with_geometry(trained.geometry), device, photos, request)
    problems: list[str] = []
    results = _predict_all(context, boxes_of, problems)
    if not results:
        raise ValueError(f"nothing could be predicted: {problems[0]}")
    done = len({row["file_name"] for row in results})
    return PredictResult(len(results), done, tuple(problems), len(paths) - len(boxes_of), unmatched)


def _predict_all(
    context: Context, boxes_of: dict[int, list[Box | None]], problems: list[str]
) -> list[dict[str, Any]]:
    """Results of everyone, written whatever ends the work."""
    out = context.request.out
    results: list[dict[str, Any]] = []
    try:
        with stop_requested() as stop:
            for images in in_batches(sorted(boxes_of), IMAGES_AT_ONCE):
                people = list(_people(context.photos, images, boxes_of, problems))
                results += _predict_part(context, people, problems, stop)
                if stop.is_set():
                    raise Interrupted("stopped", stop.signal)
    except Interrupted as asked:
        done = pluralize(len(results), "person", "people")
        message = f"stopped: {out} has the joints of {done}" if results else NOBODY
        raise Interrupted(message, asked.signal) from None
    finally:
        if results:
            _write(out, results, context.trained.skeleton)
    return results


def _assign(
    request: PredictRequest, paths: Sequence[Path]
) -> tuple[dict[int, list[Box | None]], int]:
    """The boxes of each image by its index (None: the whole image), and how many are of no image.

    Raises:
        ValueError: boxes and images do not go together.
    """
    if request.boxes is None:
        if request.box is None:
            return {index: [None] for index in range(len(paths))}, 0
        if len(paths) != 1:
            raise ValueError(
                f"--box is for one image, found {len(paths)}: give a file of boxes with --boxes"
            )
        return {0: [Box(paths[0].name, request.box)]}, 0
    boxes = read_boxes(request.boxes)
    by_key: dict[str | int, list[Box]] = defaultdict(list)
    for box in boxes:
        by_key[box.image].append(box)
    found: dict[int, list[Box | None]] = {}
    for index, path in enumerate(paths):
        here = [box for key in keys_of(path.name) for box in by_key.get(key, ())]
        if here:
            found[index] = list(here)
    if not found:
        raise ValueError(
            f"{request.boxes} has {pluralize(len(boxes), 'box', 'boxes')}, and none of an image that "
            f"was named: its first is of {boxes[0].image!r}, the first image is {paths[0].name!r}"
        )
    return found, len(boxes) - sum(map(len, found.values()))


def _check_out(out: Path, paths: Iterable[Path]) -> None:
    """Refuse to draw over the photographs themselves, or where nothing can be written.

    Raises:
        ValueError: `out` is a folder of theirs, or cannot be one.
    """
    folders = {path.resolve().parent for path in paths}
    if out.resolve() in folders:
        raise ValueError(f"{out} is where the images lie, which drawings would replace: another -o")
    if out.exists() and not out.is_dir():
        raise ValueError(f"-o {out}: expected a folder, found a file")
    make_writable(out, "the folder of predictions", "name another with -o")


def _people(
    photos: Photos,
    images: Sequence[int],
    boxes_of: dict[int, list[Box | None]],
    problems: list[str],
) -> Iterator[Person]:
    """The people of some images whose boxes can be cut out; the others go into `problems`."""
    for image in images:
        try:
            size = photos.size(image)
        except ValueError as error:
            problems.append(str(error))
            continue
        for box in boxes_of[image]:
            person = _person(photos, image, box, size)
            if isinstance(person, str):
                problems.append(person)
            else:
                yield person


def _person(photos: Photos, image: int, box: Box | None, size: tuple[int, int]) -> Person | str:
    """A person, or what is wrong with the box."""
    name = Path(photos.names[image]).name
    if box is None:  # as it is, for whoever has people cut out already
        box, margin = Box(name, (0.0, 0.0, float(size[0]), float(size[1]))), 1.0
    else:
        margin = BOX_MARGIN
    x, y, w, h = box.xywh
    where = f"{photos.names[image]}: box {x:g},{y:g},{w:g},{h:g}"
    if not (w > 0 and h > 0 and max(w, h) * margin >= MIN_BOX_PX):
        return f"{where} is empty or tiny: expected x,y,w,h with {MIN_BOX_PX:g} pixels at least"
    if x >= size[0] or y >= size[1] or x + w <= 0 or y + h <= 0:
        return f"{where} lies outside the image of {size[0]} x {size[1]} pixels"
    if max(w, h) > 100 * max(size):
        return f"{where} is far larger than the image of {size[0]} x {size[1]} pixels"
    # Of edges to pixel centers: a box's left edge at 0 is half a pixel left of the first center.
    return Person(image, box, (x + w / 2 - 0.5, y + h / 2 - 0.5), max(w, h) * margin)


def _predict_part(
    context: Context, people: list[Person], problems: list[str], stop: Stop
) -> list[dict[str, Any]]:
    """Results of some images' people, drawn if that is request."""
    trained, photos = context.trained, context.photos
    if not people:
        return []
    samples = sample_set(photos, people, trained.skeleton)
    try:
        found = predict(
            trained.network,
            context.recipe,
            samples,
            context.device,
            stop=stop,
            tta=context.recipe.evaluation,
        )
    except ValueError:
        # An image whose header promised more than its pixels keep: looked for, and left out.
        usable = _readable(photos, samples, trained.geometry.crop_px, problems)
        if len(usable) == len(people):
            raise
        return _predict_part(context, [people[i] for i in usable], problems, stop)
    results = [
        _result(photos, person, joints_K2, peaks_K)
        for person, joints_K2, peaks_K in zip(people, found.joints_NK2, found.peaks_NK, strict=True)
    ]
    if context.request.draw:
        _draw(photos, people, results, trained.skeleton, context.request.out)
    return results


def sample_set(photos: Photos, people: Sequence[Person], skeleton: Skeleton) -> SampleSet:
    """People without labels, in the form that predicting takes."""
    count = len(people)
    return SampleSet(
        "photos",
        skeleton,
        photos,
        tuple(f"{photos.names[person.image]}#{number}" for number, person in enumerate(people)),
        np.array([person.image for person in people], np.int64),
        np.full((count, skeleton.num_joints, 2), np.nan),
        np.array([person.center_2 for person in people], np.float64).reshape(count, 2),
        np.array([person.side_px for person in people], np.float64),
        np.full(count, np.nan),
    )


def _readable(photos: Photos, samples: SampleSet, crop_px: int, problems: list[str]) -> list[int]:
    """The people whose images can be decoded; the other images go into `problems`, once each."""
    usable, broken = [], set()
    for index in range(len(samples)):
        sample = samples[index]
        affine = affine_23(sample.center_2, sample.side_px, UNAUGMENTED, crop_px)
        try:
            cut(photos, sample, affine, crop_px)
        except ValueError as error:
            if sample.image not in broken:
                problems.append(str(error))
            broken.add(sample.image)
        else:
            usable.append(index)
    return usable


def _result(
    photos: Photos, person: Person, joints_K2: NDArray[np.float64], peaks_K: NDArray[np.float64]
) -> dict[str, Any]:
    name = Path(photos.names[person.image]).name
    box = person.box
    return {
        "image_id": name if box.image_id is None else box.image_id,
        "file_name": name,
        "category_id": box.category_id,
        "bbox": list(box.xywh),
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
    """One picture an image, with all of its people."""
    for image in sorted({person.image for person in people}):
        here = [row for person, row in zip(people, results, strict=True) if person.image == image]
        pixels, _ = photos.read(image, zoom=1.0)
        keypoints_NK3 = np.array([row["keypoints"] for row in here]).reshape(len(here), -1, 3)
        sides = [max(row["bbox"][2:]) for row in here]
        name = drawing_name(here[0]["file_name"])
        draw_people(pixels, keypoints_NK3, sides, skeleton, out / name)


def _write(out: Path, results: list[dict[str, Any]], skeleton: Skeleton) -> None:
    rows = ",\n".join(json.dumps(row, sort_keys=True) for row in results)
    names = {
        "skeleton": skeleton.name,
        "joints": list(skeleton.joints),
        "limbs": [list(pair) for pair in skeleton.limbs],
    }
    with atomic_group(out / "predictions.json", out / "joints.json") as (predictions, joints):
        predictions.write_text(f"[\n{rows}\n]\n", "utf-8")
        joints.write_text(as_json(names), "utf-8")
