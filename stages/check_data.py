"""Beside the stages: check a whole data set, decoding every image, before training on it.

    fpd check-data -r lsp --set data.root=datasets

Reads the data set. Returns what each split contains, and every problem by sample or file name.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.datasets import Data, Split, read_splits
from ..data.samples import SampleSet
from ..data.validation import find_problems
from ..pipeline.runtime.files import check_output, write_json

SPLITS_BY_LABEL_FILE: tuple[tuple[Split, ...], ...] = (("train", "validation"), ("test",))
"""Splits that come from one label file: if it cannot be read, that is one problem."""

FULL_RESOLUTION = 1.0
"""The zoom at which an image is decoded without reduction."""


def run(data: Data, workers: int = 0, json_path: Path | None = None) -> dict[str, Any]:
    """Check all splits.

    Args:
        workers: decoding threads; 0: one a CPU core.
        json_path: file to write the report to.

    Returns:
        "reader"; "splits" by name (see `_summarize`); "problems", one message each, which begins
        with the split and names a sample or a file; "usable", whether there are no problems.

    Raises:
        ValueError: `json_path` cannot be written.
    """
    check_output(json_path, ())
    samples_by_split, problems = _read_splits(data)
    with _decoding_threads(workers) as threads:
        for split, samples in samples_by_split.items():
            messages = [*find_problems(samples), *_decoding_problems(split, samples, threads)]
            problems += [f"{split}: {message}" for message in messages]
    report = {
        "reader": data.reader,
        "splits": {split: _summarize(samples) for split, samples in samples_by_split.items()},
        "problems": list(dict.fromkeys(problems)),
        "usable": not problems,
    }
    if json_path is not None:
        write_json(json_path, report)
    return report


def _read_splits(data: Data) -> tuple[dict[Split, SampleSet], list[str]]:
    """The splits that can be read, and the problems with the others."""
    samples_by_split: dict[Split, SampleSet] = {}
    problems: list[str] = []
    for splits in SPLITS_BY_LABEL_FILE:
        try:
            samples_by_split |= read_splits(data, splits)
        except ValueError as error:
            problems.append(f"{splits[0]}: {error}")
    problems += [
        f"{split}: has no samples"
        for split, samples in samples_by_split.items()
        if not len(samples) and split != "validation"
    ]
    return samples_by_split, problems


def _decoding_threads(workers: int) -> ThreadPoolExecutor:
    # OpenCV releases Python's lock while it decodes; its own threads would only compete for cores.
    cv2.setNumThreads(0)
    return ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))


def _decoding_problems(split: str, samples: SampleSet, threads: ThreadPoolExecutor) -> list[str]:
    """Each image that cannot be decoded, once, under the id of its first sample."""
    images, first_samples = np.unique(samples.image_N, return_index=True)
    messages = tqdm(
        threads.map(lambda image: _decoding_problem(samples, int(image)), images),
        desc=f"decoding {split}",
        total=len(images),
        unit="image",
        disable=None,
    )
    return [
        f"{samples.ids[index]}: {message}"
        for index, message in zip(first_samples, messages, strict=True)
        if message is not None
    ]


def _decoding_problem(samples: SampleSet, image: int) -> str | None:
    """Decode a whole image and compare its size with its header's; None: no problem."""
    try:
        pixels, _ = samples.images.read(image, FULL_RESOLUTION)
        width, height = samples.images.size(image)
    except ValueError as error:
        return str(error)
    if pixels.shape[:2] != (height, width):
        return (
            f"{samples.images.locate(image)}: expected {width} x {height} pixels, found "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    return None


def _summarize(samples: SampleSet) -> dict[str, Any]:
    """Counts and sizes of a split.

    Returns:
        "samples", "images" and "labeled_joints": their numbers; "labeled": the share of all joints
        that is labeled, and "labeled_by_joint" the same for each joint; "unscored": samples without
        PCK's unit of length; "box_px" and "image_px": [smallest, median, largest] of the boxes'
        sides and of the images' longer sides, or None where there are none.
    """
    labeled_NK = ~np.isnan(samples.joints_NK2).any(-1)
    shares_K = labeled_NK.mean(0) if len(samples) else np.zeros(samples.skeleton.num_joints)
    images = np.unique(samples.image_N)
    return {
        "samples": len(samples),
        "images": len(images),
        "labeled_joints": int(labeled_NK.sum()),
        "labeled": float(labeled_NK.mean()) if len(samples) else 0.0,
        "labeled_by_joint": dict(zip(samples.skeleton.joints, map(float, shares_K), strict=True)),
        "unscored": int((~(samples.normalizer_N > 0)).sum()),
        "box_px": _smallest_median_largest(samples.side_N),
        "image_px": _smallest_median_largest(
            np.array([_longer_side_px(samples, int(image)) for image in images])
        ),
    }


def _longer_side_px(samples: SampleSet, image: int) -> float:
    """NaN where the image's header cannot be read."""
    try:
        return float(max(samples.images.size(image)))
    except ValueError:
        return np.nan


def _smallest_median_largest(values: NDArray[np.float64]) -> list[float] | None:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    return [float(np.min(finite)), float(np.median(finite)), float(np.max(finite))]
