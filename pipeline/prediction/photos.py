"""A model's joints on photographs, drawn over them, and as JSON.

Shape letters: N people, K joints.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...data.augmentation import UNAUGMENTED, affine_23
from ...data.io.boxes import PERSON_CATEGORY_ID, Box
from ...data.io.images import AS_STORED
from ...data.io.photos import Photos
from ...data.samples import SampleSet
from ...data.skeletons import Skeleton
from ...data.views import crop_image
from ..config.recipe import Recipe
from ..evaluation.overlay import overlay_name, write_image
from ..runtime.files import as_json, atomic_group
from ..runtime.interrupt import Stop
from ..runtime.loader import in_batches
from .finders import Finder
from .people import Person, describe_skeleton, draw_poses, make_person, pose, sample_set
from .pose_model import PoseModel

IMAGES_PER_BATCH = 64
"""Images whose people are found, then predicted and drawn together."""


@dataclass
class PhotoResults:
    """What was predicted on photographs, and what was not.

    Attributes:
        people: entries of `predictions.json` (see `stages.predict`).
        empty: number of images on which no person was found.
        problems: a message for each image or box that could not be used.
    """

    people: list[dict[str, Any]] = field(default_factory=list)
    empty: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PhotoPredictor:
    """What every batch of images needs.

    Attributes:
        out: folder of the results.
        draw: whether to write drawings.
    """

    model: PoseModel
    recipe: Recipe
    photos: Photos
    find: Finder
    out: Path
    draw: bool

    def run(self, indices: Sequence[int], results: PhotoResults, stop: Stop) -> None:
        """Predict the people on some of the photographs, and write the results.

        They are written even if a signal or an error ends the work early.

        Args:
            indices: of the photographs.
            results: what is predicted is added to it.
            stop: ends the work: no more people are found, and those found are predicted.
        """
        try:
            with tqdm(
                total=len(indices), desc="predict", unit="photo", leave=False, disable=None
            ) as bar:
                for batch in in_batches(indices, IMAGES_PER_BATCH):
                    people = list(self._find_people(batch, results, stop))
                    results.people += self._predict(people, results.problems)
                    bar.update(len(batch))
                    if stop.is_set():
                        return
        finally:
            if results.people or results.empty:
                _write(self.out, results.people, self.model.skeleton)

    def _find_people(
        self, images: Sequence[int], results: PhotoResults, stop: Stop
    ) -> Iterator[Person]:
        """The people of some images; what cannot be used is added to the results' problems."""
        for image in images:
            if stop.is_set():  # a detector takes its time
                return
            try:
                width_height = self.photos.size(image)
                boxes = self.find(self.photos, image)
                for box in boxes[:1]:
                    _check_size(self.photos, image, box, width_height)
            except ValueError as error:
                results.problems.append(str(error))
                continue
            results.empty += not boxes
            for box in boxes:
                try:
                    yield make_person(self.photos, image, box, width_height)
                except ValueError as error:
                    results.problems.append(str(error))

    def _predict(self, people: list[Person], problems: list[str]) -> list[dict[str, Any]]:
        """Results of the people of some images, whose drawings are written if requested."""
        if not people:
            return []
        samples = sample_set(self.photos, people, self.model.skeleton)
        try:
            predicted = self.model.predict(self.recipe, samples)
        except ValueError:
            # An image has a valid header and damaged pixels: find it, and predict the others.
            crop_px = self.model.geometry.crop_px
            readable = _readable_people(self.photos, samples, crop_px, problems)
            if len(readable) == len(people):
                raise
            return self._predict([people[i] for i in readable], problems)
        results = [
            _result(self.photos, person, joints_K2, peaks_K)
            for person, joints_K2, peaks_K in zip(
                people, predicted.joints_NK2, predicted.peaks_NK, strict=True
            )
        ]
        if self.draw:
            self._draw(people, results)
        return results

    def _draw(self, people: Sequence[Person], results: Sequence[dict[str, Any]]) -> None:
        """Write a drawing of each image, with all of its people."""
        results_by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for person, result in zip(people, results, strict=True):
            results_by_image[person.image].append(result)
        for image, image_results in sorted(results_by_image.items()):
            pixels_HW3, _ = self.photos.read(image, zoom=1.0)
            drawn_HW3 = draw_poses(pixels_HW3, image_results, self.model.skeleton)
            write_image(drawn_HW3, self.out / overlay_name(image_results[0]["file_name"]))


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
    """One entry of `predictions.json` (see `stages.predict`)."""
    file_name = Path(photos.names[person.image]).name
    box = person.box
    return {
        "image_id": file_name if box.image_id is None else box.image_id,
        "file_name": file_name,
        "category_id": PERSON_CATEGORY_ID if box.category_id is None else box.category_id,
        **pose(person, joints_K2, peaks_K),
    }


def _write(out: Path, results: list[dict[str, Any]], skeleton: Skeleton) -> None:
    lines = ",\n".join(json.dumps(result, sort_keys=True) for result in results)
    with atomic_group(out / "predictions.json", out / "joints.json") as (predictions, joints):
        predictions.write_text(f"[\n{lines}\n]\n", "utf-8")
        joints.write_text(as_json(describe_skeleton(skeleton)), "utf-8")
