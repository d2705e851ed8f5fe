"""Beside the stages: look at a whole data set, every image decoded, before days are spent on it.

    fpd check-data -r lsp --set data.root=datasets

In: the data set. Out: what it holds, split by split, and everything that is wrong with it, by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..data.datasets import Data, Split, read
from ..data.samples import SampleSet
from ..data.validation import problems
from ..pipeline.runtime.files import check_output, write_json

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FULL_SIZE = 1.0
"""The zoom at which an image is decoded whole."""


def run(data: Data, workers: int = 0, json_path: Path | None = None) -> dict[str, Any]:
    """Check all splits.

    Args:
        workers: threads that decode; 0: one a core.
        json_path: where to write what is returned.

    Returns:
        "splits": by name, see `_summary`; "problems": sentences, each naming a split and a person
        or a file; "usable": whether there are none.

    Raises:
        ValueError: there is nowhere to write to.
    """
    check_output(json_path, ())
    found: list[str] = []
    splits = dict(_read(data, found))
    with _threads(workers) as pool:
        for name, people in splits.items():
            found += [f"{name}: {problem}" for problem in problems(people)]
            found += [f"{name}: {problem}" for problem in _undecodable(name, people, pool)]
    report = {
        "reader": data.reader,
        "splits": {name: _summary(people) for name, people in splits.items()},
        "problems": list(dict.fromkeys(found)),
        "usable": not found,
    }
    if json_path is not None:
        write_json(json_path, report)
    return report


def _read(data: Data, found: list[str]) -> Iterator[tuple[str, SampleSet]]:
    """The splits that can be read; what is wrong with the others goes to `found`.

    Training and validation people are of one file: if it cannot be read, that is said once.
    """
    for splits in (SPLITS[:2], SPLITS[2:]):
        try:
            sets = read(data, splits)
        except ValueError as error:
            found.append(f"{splits[0]}: {error}")
            continue
        for name, people in sets.items():
            if not len(people) and name != "validation":
                found.append(f"{name}: there is nobody in it")
            yield name, people


def _threads(workers: int) -> ThreadPoolExecutor:
    # OpenCV decodes without Python's lock. Its own threads would only be in the way.
    cv2.setNumThreads(0)
    return ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))


def _undecodable(name: str, people: SampleSet, pool: ThreadPoolExecutor) -> list[str]:
    """Every image that cannot be decoded, once, with the first person it belongs to."""
    images, first = np.unique(people.image_N, return_index=True)
    answers = pool.map(lambda image: _decode(people, int(image)), images)
    bar = tqdm(answers, f"decoding {name}", total=len(images), unit="image", disable=None)
    rows = zip(first, bar, strict=True)
    return [f"{people.ids[index]}: {problem}" for index, problem in rows if problem]


def _decode(people: SampleSet, image: int) -> str | None:
    """What is wrong with an image, if anything: read, decoded whole, and as large as it says."""
    try:
        pixels, _ = people.images.read(image, FULL_SIZE)
        width, height = people.images.size(image)
    except ValueError as error:
        return str(error)
    if pixels.shape[:2] != (height, width):
        found = f"{pixels.shape[1]} x {pixels.shape[0]}"
        return f"{people.images.locate(image)}: expected {width} x {height} pixels, found {found}"
    return None


def _summary(people: SampleSet) -> dict[str, Any]:
    """Counts and sizes: "people", "images", "joints" labeled, "labeled" (their share), "unscored"
    (people without a unit of PCK), "per_joint" shares, "box_px" and "image_px" (smallest, median,
    largest; of an image the longer side).
    """
    labeled_NK = ~np.isnan(people.joints_NK2).any(-1)
    shares = labeled_NK.mean(0) if len(people) else np.zeros(people.skeleton.num_joints)
    images = np.unique(people.image_N)
    return {
        "people": len(people),
        "images": len(images),
        "joints": int(labeled_NK.sum()),
        "labeled": float(labeled_NK.mean()) if len(people) else 0.0,
        "unscored": int((~(people.normalizer_N > 0)).sum()),
        "per_joint": dict(zip(people.skeleton.joints, map(float, shares), strict=True)),
        "box_px": _spread(people.side_N),
        "image_px": _spread(np.array([_longer_side(people, int(i)) for i in images])),
    }


def _longer_side(people: SampleSet, image: int) -> float:
    try:
        return float(max(people.images.size(image)))
    except ValueError:
        return np.nan


def _spread(values: np.ndarray) -> list[float] | None:
    finite = values[np.isfinite(values)]
    return [float(f(finite)) for f in (np.min, np.median, np.max)] if len(finite) else None
