"""Beside the stages: check a whole data set, decoding every image, before training on it.

    fpd check-data -r lsp --set data.root=datasets

Reads the data set. Returns what each split contains, and every problem by sample or file name.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..data.datasets import Split, read_splits
from ..data.joint_names import joint_order
from ..data.readers import coco
from ..data.samples import SampleSet
from ..data.sections import Data
from ..data.skeletons import check_pairs
from ..data.validation import Problem, find_problems
from ..pipeline.runtime.files import check_output, write_json

SPLITS_BY_LABEL_FILE: tuple[tuple[Split, ...], ...] = (("train", "validation"), ("test",))
"""Splits that come from one label file: if it cannot be read, that is one problem."""

T = TypeVar("T")

FULL_RESOLUTION = 1.0
"""The zoom at which an image is decoded without reduction."""


def run(data: Data, workers: int = 0, json_path: Path | None = None) -> dict[str, Any]:
    """Check all splits.

    Args:
        workers: decoding threads; 0: one a CPU core.
        json_path: file to write the report to.

    Returns:
        "reader"; "splits" by name (see `_summarize`); "problems", one message each, which begins
        with the split and names a sample or a file; "usable", whether there are no problems;
        "image_notes", what is unusual about images that can be used (`ImageFolder.note`). A file
        or folder that several splits share is in one message. "label_files": how many people each
        has and why some are left out (see `_tallies`); "flip": the skeleton's pairs as text, or
        None; "order_note": that the test file has the joints in another order, or None.

    Raises:
        ValueError: `json_path` cannot be written.
    """
    check_output(json_path, ())
    samples_by_split, problems = _read_splits(data)
    image_notes: list[str] = []
    image_messages: set[str] = set()  # a file or folder that splits share is reported once
    with _decoding_threads(workers) as threads:
        for split, samples in samples_by_split.items():
            for problem in [*find_problems(samples), *_decoding_problems(split, samples, threads)]:
                if not (problem.of_image and problem.message in image_messages):
                    problems.append(f"{split}: {problem}")
                if problem.of_image:
                    image_messages.add(problem.message)
            image_notes += _image_notes(split, samples, threads)
    image_notes += _shared_note(samples_by_split)
    order_note = None
    try:
        order_note = _compare_skeletons(data, samples_by_split)
    except ValueError as error:
        problems.append(f"test: {error}")
    skeletons = [samples.skeleton for samples in samples_by_split.values()]
    report = {
        "reader": data.reader,
        "splits": {
            split: _summarize(split, samples) for split, samples in samples_by_split.items()
        },
        "problems": list(dict.fromkeys(problems)),
        "usable": not problems,
        "image_notes": list(dict.fromkeys(image_notes)),
        "label_files": _tallies(samples_by_split),
        "flip": skeletons[0].describe_pairs() if skeletons else None,
        "order_note": order_note,
    }
    if json_path is not None:
        write_json(json_path, report)
    return report


def _read_splits(data: Data) -> tuple[dict[Split, SampleSet], list[str]]:
    """The splits that can be read, and the problems with the others."""
    samples_by_split: dict[Split, SampleSet] = {}
    problems_by_message: defaultdict[str, list[str]] = defaultdict(list)
    for splits in SPLITS_BY_LABEL_FILE:
        try:
            samples_by_split |= read_splits(data, splits)
        except ValueError as error:
            problems_by_message[str(error)].append(splits[0])
    problems = [f"{', '.join(names)}: {text}" for text, names in problems_by_message.items()]
    problems += [
        f"{split}: has no samples{''.join(f': {tally}' for tally in samples.tallies)}"
        for split, samples in samples_by_split.items()
        if not len(samples) and split != "validation"
    ]
    return samples_by_split, problems


def _compare_skeletons(data: Data, samples_by_split: dict[Split, SampleSet]) -> str | None:
    """Compare the joints of the test file with those of the training file, by name.

    Returns:
        What is different without harm, or None.

    Raises:
        ValueError: they have different joints, or other pairs of left and right.
    """
    if not {"train", "test"} <= samples_by_split.keys():
        return None
    train, test = samples_by_split["train"].skeleton, samples_by_split["test"].skeleton
    owners = "the training file", "the test file"
    order = joint_order(train.joints, test.joints, *owners)
    check_pairs(train, test.reordered(order), *owners)
    if train.joints == test.joints:
        return None
    coco.check_sigmas(data.coco, order)
    return "the test file lists the joints in other words or order: they are matched by name"


def _shared_note(samples_by_split: dict[Split, SampleSet]) -> list[str]:
    """Samples of the test split that are also trained on: their scores say nothing of others."""
    trained = [samples_by_split[s].ids for s in ("train", "validation") if s in samples_by_split]
    test_ids = samples_by_split["test"].ids if "test" in samples_by_split else ()
    shared = set(test_ids) & {sample_id for ids in trained for sample_id in ids}
    if not shared:
        return []
    return [
        f"test: {len(shared)} of {len(test_ids)} samples are also trained on, such as "
        f"{min(shared)}: scores will be better than on other people"
    ]


def _tallies(samples_by_split: dict[Split, SampleSet]) -> list[dict[str, Any]]:
    """Of each label file: "file", "people", "kept", "left_out" (numbers by reason) and "notes"."""
    tallies = dict.fromkeys(
        tally for samples in samples_by_split.values() for tally in samples.tallies
    )
    return [
        {**asdict(tally), "left_out": dict(tally.left_out), "kept": tally.kept, "text": str(tally)}
        for tally in tallies
    ]


def _decoding_threads(workers: int) -> ThreadPoolExecutor:
    # OpenCV releases Python's lock while it decodes; its own threads would only compete for cores.
    cv2.setNumThreads(0)
    return ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))


def _decoding_problems(
    split: str, samples: SampleSet, threads: ThreadPoolExecutor
) -> list[Problem]:
    """Each image that cannot be decoded, once, under the id of its first sample."""
    images, first_samples, counts = np.unique(
        samples.image_N, return_index=True, return_counts=True
    )
    decoded = threads.map(lambda image: _decoding_problem(samples, int(image)), images)
    messages = _with_bar(decoded, f"decoding {split}", len(images))
    return [
        Problem(samples.ids[index], message, int(count), of_image=True)
        for index, message, count in zip(first_samples, messages, counts, strict=True)
        if message is not None
    ]


def _with_bar(values: Iterable[T], description: str, total: int) -> Iterable[T]:
    """The values, one per image, with a progress bar on terminals while they are taken."""
    return tqdm(values, desc=description, total=total, unit="image", leave=False, disable=None)


def _decoding_problem(samples: SampleSet, image: int) -> str | None:
    """Decode a whole image and compare its size with its header's; None: no problem."""
    try:
        width, height = samples.images.size(image)
        pixels, _ = samples.images.read(image, FULL_RESOLUTION)
    except ValueError as error:
        return str(error)
    if pixels.shape[:2] != (height, width):
        return (
            f"{samples.images.locate(image)}: expected {width} x {height} pixels, found "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    return None


def _image_notes(split: str, samples: SampleSet, threads: ThreadPoolExecutor) -> list[str]:
    """What is unusual about images that can be used."""
    images = np.unique(samples.image_N)
    notes = threads.map(lambda image: _image_note(samples, int(image)), images)
    shown = _with_bar(notes, f"reading headers of {split}", len(images))
    return [note for note in shown if note is not None]


def _image_note(samples: SampleSet, image: int) -> str | None:
    try:
        return samples.images.note(image)
    except ValueError:
        return None  # it is a problem, and reported as one


def _summarize(split: str, samples: SampleSet) -> dict[str, Any]:
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
            np.array(
                [
                    _longer_side_px(samples, int(image))
                    for image in _with_bar(images, f"measuring images of {split}", len(images))
                ]
            )
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
