"""The parts of our loaders' work on one view, which feed.py times one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fpd.data.augmentation import affine_23, transform
from fpd.data.geometry import Geometry
from fpd.data.io.images import REDUCED_FLAGS
from fpd.data.io.jpeg import decode_jpeg
from fpd.data.views import Views, crop_image
from fpd.pipeline.training.dataset import DistillationViews

GEOMETRY = Geometry()

Part = Callable[[int], object]
"""Part of the work on one view, by its number."""


def image_path(views: Views, index: int) -> Path:
    return Path(views.samples.images.locate(views.samples[index].image))


@dataclass(frozen=True)
class DecodedImage:
    """An image with its encoded bytes; stands in for `SampleSet.images`."""

    encoded: bytes
    image: NDArray[np.uint8]
    reduction: int

    def read(self, _index: int, _zoom: float) -> tuple[NDArray[np.uint8], int]:
        return self.image, self.reduction

    def decode(self) -> object:
        flags = REDUCED_FLAGS[self.reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(self.encoded, np.uint8), flags)


def read_image(views: Views, index: int) -> DecodedImage:
    zoom = float(np.sqrt(abs(np.linalg.det(make_affine(views, index)[:, :2]))))
    image, reduction = views.samples.images.read(views.samples[index].image, zoom)
    return DecodedImage(image_path(views, index).read_bytes(), image, reduction)


def make_affine(views: Views, index: int) -> NDArray[np.float64]:
    sample = views.samples[index]
    parameters = views.parameters(index, 0)
    return affine_23(sample.center_2, sample.side_px, parameters, GEOMETRY.crop_px)


def photograph_parts(views: Views, dataset: DistillationViews) -> dict[str, Part]:
    """The parts of the work on a view that is cut from its photograph."""
    indices = range(len(views))
    images = [read_image(views, index) for index in indices]
    affines = [make_affine(views, index) for index in indices]
    samples = [views.samples[index] for index in indices]
    paths = [image_path(views, index) for index in indices]
    unflipped = [views[index, 0] for index in indices]

    def transform_labels(index: int) -> object:
        crop_joints = transform(make_affine(views, index), samples[index].joints_K2)
        return GEOMETRY.to_heatmap(crop_joints)

    return {
        "read file": lambda i: paths[i].read_bytes(),
        "decode JPEG": lambda i: images[i].decode(),
        "warp": lambda i: crop_image(images[i], samples[i], affines[i], GEOMETRY.crop_px),
        "parameters, labels": transform_labels,
        "flip": lambda i: views.flipped(unflipped[i]) if i % 2 else None,
        "read heatmaps": lambda i: dataset.store.read(0, i),
    }


def portable_parts(dataset: DistillationViews) -> dict[str, Part]:
    """The parts of the work on a view from a portable store."""
    views, reader = dataset.views, dataset.store
    jpegs = [reader.read_crop(0, index) for index in range(len(views))]
    unflipped = [views[index, 0] for index in range(len(views))]

    def read_labels(index: int) -> object:
        sample, parameters = views.samples[index], reader.read_row("parameters", 0, index)
        affine = affine_23(sample.center_2, sample.side_px, parameters, GEOMETRY.crop_px)
        return affine, reader.read_row("joints", 0, index)

    return {
        "read JPEG": lambda i: reader.read_crop(0, i),
        "decode JPEG": lambda i: decode_jpeg(jpegs[i], GEOMETRY.crop_px),
        "parameters, labels": read_labels,
        "flip": lambda i: views.flipped(unflipped[i]) if i % 2 else None,
        "read heatmaps": lambda i: reader.read(0, i),
    }
