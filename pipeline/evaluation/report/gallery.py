"""The test samples that the report shows, and the skeletons drawn over them.

A report cannot show all samples of a test set, so a rule selects some: see `select_samples`.

Shape letters: N samples, K joints, S side of a crop.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import cv2
import numpy as np
from numpy.typing import NDArray

from ....data.augmentation import transform
from ....data.geometry import Geometry
from ....data.samples import SampleSet
from ....data.sections import Augmentation
from ....data.views import CENTER_CROP, Views
from ..inference import PredictedJoints
from ..pck import normalized_errors
from .scores import TEACHER

CROP_PX = 192
"""Side of a card's image, whatever the crop size of the models."""

WEBP_QUALITY = 72

PER_RANKING = 8
"""Samples of each model with the largest, the median and the smallest mean error."""

PER_JOINT = 3
"""Samples of each model and joint with the largest error."""

MOST_DISAGREEING = 16
"""Samples whose labels the teacher contradicts most."""

UNLABELED = 24
"""Samples shown if none is labeled."""

MAX_CARDS = 160
MAX_GALLERY_BYTES = 2_400_000
"""Of all images and drawings together, so that a report stays below 3 MB."""

IMAGE_BYTES = 8_000
DRAWING_BYTES = 1_100
"""Typical sizes of a card's image and of one skeleton."""

INFINITE_ERROR = 1e6
"""Replaces infinity, the error of a prediction that is not finite, in the report's JSON."""


@dataclass(frozen=True)
class Drawing:
    """A skeleton as the data of two SVG paths, in pixels of the card's image."""

    limbs: str
    joints: str


@dataclass(frozen=True)
class Card:
    """A sample of the gallery.

    Attributes:
        id: the sample's id.
        image: a data URI of a square image with side `CROP_PX`.
        label: the labeled joints.
        predictions: of each model, in the models' order.
        errors: for each model, the error of each joint in the sample's unit of length; None where
            it does not count.
        means: for each model, the mean of these errors.
        disagreements: the teacher's with the label of each joint, see `disagreements`; empty
            without a teacher.
        reasons: the rules that selected the sample, each with the models or joints it applied to.
    """

    id: str
    image: str
    label: Drawing
    predictions: list[Drawing]
    errors: list[list[float | None]]
    means: list[float | None]
    disagreements: list[float | None]
    reasons: dict[str, list[str]]


@dataclass(frozen=True)
class Gallery:
    """The samples that the report shows.

    Attributes:
        cards: in the order of `select_samples`.
        medians: for each model, the median over all samples of the error of each joint and, last,
            of the mean error; None where no joint counts.
        sample_count: samples of the test set.
        scored_count: samples of the test set with a joint that counts.
        omitted_count: samples that were selected and did not fit into the report.
    """

    cards: list[Card]
    medians: list[list[float | None]]
    sample_count: int
    scored_count: int
    omitted_count: int


@dataclass(frozen=True)
class SampleErrors:
    """The errors of all models on all samples, in the samples' units of length.

    Attributes:
        errors: by model, float64 (N, K), at most `INFINITE_ERROR`; NaN where a joint does not
            count.
        means: by model, float64 (N,), the mean over a sample's joints; NaN where none counts.
        disagreement_NK: see `disagreements`; None without a teacher.
    """

    errors: dict[str, NDArray[np.float64]]
    means: dict[str, NDArray[np.float64]]
    disagreement_NK: NDArray[np.float64] | None


def build_gallery(samples: SampleSet, predicted: Mapping[str, PredictedJoints]) -> Gallery:
    """Select samples and make their cards. Only the images of these samples are read."""
    errors = sample_errors(samples, predicted)
    selected = select_samples(errors, samples.skeleton.joints)
    card_bytes = IMAGE_BYTES + DRAWING_BYTES * (len(predicted) + 1)
    shown = list(selected)[: min(MAX_CARDS, MAX_GALLERY_BYTES // card_bytes)]
    views = Views(samples.take(shown), Geometry(crop_px=CROP_PX), Augmentation(), seed=0)
    cards = []
    for number, index in enumerate(shown):
        view = views[number, CENTER_CROP]
        skeletons = [samples.joints_NK2[index], *(p.joints_NK2[index] for p in predicted.values())]
        label, *predictions = (
            skeleton_paths(transform(view["affine"], joints_K2), samples.skeleton.limbs)
            for joints_K2 in skeletons
        )
        against_NK = errors.disagreement_NK
        cards.append(
            Card(
                id=samples.ids[index],
                image=webp_data_uri(view["crop"]),
                label=label,
                predictions=predictions,
                errors=[_rounded(errors_NK[index]) for errors_NK in errors.errors.values()],
                means=_rounded(np.array([mean_N[index] for mean_N in errors.means.values()])),
                disagreements=[] if against_NK is None else _rounded(against_NK[index]),
                reasons=selected[index],
            )
        )
    return Gallery(
        cards=cards,
        medians=_medians(errors),
        sample_count=len(samples),
        scored_count=int((~np.isnan(next(iter(errors.means.values())))).sum()),
        omitted_count=len(selected) - len(shown),
    )


def sample_errors(samples: SampleSet, predicted: Mapping[str, PredictedJoints]) -> SampleErrors:
    """Every model's errors on all samples, and the teacher's disagreement with the labels."""
    errors = {
        name: np.minimum(
            normalized_errors(
                model_predictions.joints_NK2,
                model_predictions.comparable_labels(samples.joints_NK2),
                samples.normalizer_N,
                samples.skeleton,
            ),
            INFINITE_ERROR,
        )
        for name, model_predictions in predicted.items()
    }
    teacher = predicted.get(TEACHER)
    return SampleErrors(
        errors=errors,
        means={name: _mean_over_joints(errors_NK) for name, errors_NK in errors.items()},
        disagreement_NK=None
        if teacher is None
        else disagreements(errors[TEACHER], teacher.peaks_NK),
    )


def disagreements(
    errors_NK: NDArray[np.float64], peaks_NK: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A teacher's disagreement with each label: large if it is far from the label and confident.

    It is error x peak, with the peak of the joint's heatmap clipped to 0..1. If a prediction is far
    away and its peak is low, the teacher is usually wrong; if its peak is high, often the label is
    (the paper's figure 3).

    Returns:
        float64 (N, K), NaN where a joint does not count.
    """
    return np.asarray(errors_NK * np.nan_to_num(peaks_NK, posinf=1).clip(0, 1))


def select_samples(errors: SampleErrors, joints: Sequence[str]) -> dict[int, dict[str, list[str]]]:
    """Select the samples to show.

    For each model, the `PER_RANKING` samples with the largest, the smallest and the median mean
    error; the `MOST_DISAGREEING` samples whose labels the teacher contradicts most; and, for each
    model and joint, the `PER_JOINT` samples with the largest error. The rules take turns, so that a
    limit on the number of samples leaves the first of each. If no sample is labeled, the first
    `UNLABELED` samples.

    Returns:
        For the index of each sample, most important first, the rules that selected it, each with
        the models or joints it applied to.
    """
    rankings = _rank_by_mean(errors)
    if errors.disagreement_NK is not None:
        largest_N = np.nan_to_num(errors.disagreement_NK, nan=-1).max(axis=1)
        largest_N[largest_N < 0] = np.nan
        order = _ascending(largest_N)[::-1]
        rankings["teacher disagrees with label", ""] = order[:MOST_DISAGREEING]
    joint_rankings = {
        (f"largest error of {name} at", joint): _ascending(errors_NK[:, k])[::-1][:PER_JOINT]
        for name, errors_NK in errors.errors.items()
        for k, joint in enumerate(joints)
    }
    selected: dict[int, dict[str, list[str]]] = {}
    for group in (rankings, joint_rankings):
        for turn in zip_longest(*group.values()):
            for (rule, subject), index in zip(group, turn, strict=True):
                if index is not None:
                    selected.setdefault(index, {}).setdefault(rule, []).append(subject)
    if not selected:
        indices = range(len(next(iter(errors.means.values()))))
        return {index: {"first of the unlabeled samples": []} for index in indices[:UNLABELED]}
    return selected


def _rank_by_mean(errors: SampleErrors) -> dict[tuple[str, str], list[int]]:
    """Sample indices by (rule, model)."""
    rankings = {}
    for name, mean_N in errors.means.items():
        order = _ascending(mean_N)
        middle = max(0, (len(order) - PER_RANKING) // 2)
        rankings["largest mean error of", name] = order[::-1][:PER_RANKING]
        rankings["smallest mean error of", name] = order[:PER_RANKING]
        rankings["median mean error of", name] = order[middle : middle + PER_RANKING]
    return rankings


def skeleton_paths(joints_K2: NDArray[np.float64], limbs: Iterable[tuple[int, int]]) -> Drawing:
    """SVG paths of a skeleton, to a tenth of a pixel; joints that are not finite are left out."""
    finite_K = [bool(np.isfinite(joint).all()) for joint in joints_K2]
    points = [f"{x:.1f} {y:.1f}" for x, y in joints_K2.clip(-1e4, 1e4)]
    lines = [f"M{points[a]}L{points[b]}" for a, b in limbs if finite_K[a] and finite_K[b]]
    # A line of length zero with round caps is a dot.
    dots = [f"M{point}h0" for point, finite in zip(points, finite_K, strict=True) if finite]
    return Drawing("".join(lines), "".join(dots))


def webp_data_uri(crop_SS3: NDArray[np.uint8]) -> str:
    """A crop, uint8 RGB, as the data URI of a WebP image."""
    quality = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    done, encoded = cv2.imencode(".webp", cv2.cvtColor(crop_SS3, cv2.COLOR_RGB2BGR), quality)
    assert done, "OpenCV's own WebP encoder takes any uint8 image"
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()


def _medians(errors: SampleErrors) -> list[list[float | None]]:
    return [
        [_median(column_N) for column_N in (*errors_NK.T, errors.means[name])]
        for name, errors_NK in errors.errors.items()
    ]


def _median(values_N: NDArray[np.float64]) -> float | None:
    counted = values_N[~np.isnan(values_N)]
    return float(np.median(counted)) if len(counted) else None


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Three decimals, None for NaN."""
    return [None if np.isnan(value) else round(float(value), 3) for value in values]


def _mean_over_joints(errors_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    counted_NK = ~np.isnan(errors_NK)
    sums_N = np.where(counted_NK, errors_NK, 0).sum(axis=1)
    counts_N = counted_NK.sum(axis=1)
    return np.where(counts_N > 0, sums_N / np.maximum(counts_N, 1), np.nan)


def _ascending(values_N: NDArray[np.float64]) -> list[int]:
    """Indices in ascending order of value, without NaN; equal values in order of index."""
    order = np.argsort(values_N, kind="stable")
    return [int(index) for index in order if not np.isnan(values_N[index])]
