"""Which test people the page shows, and what it draws over them.

Hundreds of people do not fit into a page, so some are chosen by rule: see `choose`.
Shape letters: N people, K joints, M models.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import cv2
import numpy as np
from numpy.typing import NDArray

from ....data.augmentation import Augmentation, transform
from ....data.samples import SampleSet
from ....data.views import CENTER_CROP, Geometry, Views
from ..inference import Predicted
from ..pck import unit_errors

CROP_PX = 192
"""Side of a card's picture, whatever the models' own crops are."""

WEBP_QUALITY = 72

EACH = 8
"""So many best, median and worst people of each model."""

DISAGREEING = 16
PER_JOINT = 3
"""So many worst people of each joint, for each model."""

UNLABELLED = 24

MOST = 160
PAGE_BYTES = 2_400_000
PICTURE_BYTES = 8_000
DRAWING_BYTES = 1_100
"""What pictures and drawings may take together, and about what one of each takes."""

FAR = 1e6
"""Stands for an infinite error: that of a prediction which is not finite."""

TEACHER = "teacher"

STORE_TEACHER = "teacher@store"
"""The row of teachers that the recipe names, beside a teacher of the work directory's own: no model
can have this name."""


@dataclass(frozen=True)
class Drawing:
    """Joints and limbs over a picture, as the data of two SVG paths, in its pixels."""

    limbs: str
    joints: str


@dataclass(frozen=True)
class Card:
    """A person of the gallery.

    Attributes:
        id: the sample's.
        picture: a data URI, `CROP_PX` square.
        label: what is labeled.
        predictions: a model each, in the models' order.
        errors: a list a model, of each joint's error in units; None where it does not count.
        means: the mean of those, a model each.
        disagreements: the teacher's with each joint's label, see `disagreements`; none: no teacher.
        reasons: why the person was chosen: rules, and the models or joints they were met by.
    """

    id: str
    picture: str
    label: Drawing
    predictions: list[Drawing]
    errors: list[list[float | None]]
    means: list[float | None]
    disagreements: list[float | None]
    reasons: dict[str, list[str]]


@dataclass(frozen=True)
class Gallery:
    """What the page shows of the test people.

    Attributes:
        cards: people, most wanted first.
        medians: a list a model: the median of all test people's errors, a joint each, and last of
            their means; None where none counts.
        people: how many the test set has.
        ranked: how many of them have a joint that counts.
        left_out: how many the rule chose that had no room.
    """

    cards: list[Card]
    medians: list[list[float | None]]
    people: int
    ranked: int
    left_out: int


@dataclass(frozen=True)
class Measured:
    """How far models are from the labels, in units.

    Attributes:
        errors: by model, float64 (N, K), at most `FAR`; NaN where a joint does not count.
        means: by model, float64 (N,) over a person's joints; NaN where none counts.
        disagreement_NK: see `disagreements`; None where no teacher was asked.
    """

    errors: dict[str, NDArray[np.float64]]
    means: dict[str, NDArray[np.float64]]
    disagreement_NK: NDArray[np.float64] | None


def gallery(samples: SampleSet, predicted: Mapping[str, Predicted]) -> Gallery:
    """The cards of the chosen people; no other person's image is read."""
    measured = measure(samples, predicted)
    chosen = choose(measured, samples.skeleton.joints)
    room = min(MOST, PAGE_BYTES // (PICTURE_BYTES + DRAWING_BYTES * (len(predicted) + 1)))
    shown = list(chosen)[:room]
    pictures = Views(samples.take(shown), Geometry(crop_px=CROP_PX), Augmentation(), seed=0)
    cards = []
    for place, index in enumerate(shown):
        view = pictures[place, CENTER_CROP]
        joints = [samples.joints_NK2[index], *(p.joints_NK2[index] for p in predicted.values())]
        label, *predictions = (
            draw(transform(view["affine"], joints_K2), samples.skeleton.limbs)
            for joints_K2 in joints
        )
        card = _card(samples.ids[index], index, measured, chosen[index])
        cards.append(
            replace(card, picture=picture(view["crop"]), label=label, predictions=predictions)
        )
    ranked = int((~np.isnan(next(iter(measured.means.values())))).sum())
    return Gallery(cards, _medians(measured), len(samples), ranked, len(chosen) - len(shown))


def measure(samples: SampleSet, predicted: Mapping[str, Predicted]) -> Measured:
    """Every model's errors on all people, and where the teacher contradicts the labels."""
    errors = {
        name: np.minimum(
            unit_errors(
                found.joints_NK2,
                found.labels(samples.joints_NK2),
                samples.normalizer_N,
                samples.skeleton,
            ),
            FAR,
        )
        for name, found in predicted.items()
    }
    teacher = predicted.get(TEACHER)
    return Measured(
        errors=errors,
        means={name: _mean_of_joints(errors_NK) for name, errors_NK in errors.items()},
        disagreement_NK=None
        if teacher is None
        else disagreements(errors[TEACHER], teacher.peaks_NK),
    )


def disagreements(
    errors_NK: NDArray[np.float64], peaks_NK: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much a teacher disagrees with each label: most where it is far away and sure.

    Error x peak, the peak being the height of the joint's heatmap, within 0..1. A faint heatmap far
    away is an error of the teacher's; a high one, often, of the label (the paper's figure 3).

    Returns:
        float64 (N, K), NaN where a joint does not count.
    """
    return np.asarray(errors_NK * np.nan_to_num(peaks_NK, posinf=1).clip(0, 1))


def choose(measured: Measured, joints: Sequence[str]) -> dict[int, dict[str, list[str]]]:
    """The people to show, most wanted first, and why: index -> rule -> models or joints.

    Of each model the `EACH` people with the largest mean error, the smallest, and those about the
    median; the `DISAGREEING` whose labels the teacher contradicts most; and, of each model and
    joint, the `PER_JOINT` people with the largest error. The rules take turns, so that where room
    ends each has its first. Where nobody is labeled, the first `UNLABELLED` people.
    """
    ranked: dict[tuple[str, str], list[int]] = {}
    for name, mean_N in measured.means.items():
        order = _ascending(mean_N)
        middle = max(0, (len(order) - EACH) // 2)
        ranked["largest mean error of", name] = order[::-1][:EACH]
        ranked["smallest mean error of", name] = order[:EACH]
        ranked["median mean error of", name] = order[middle : middle + EACH]
    if measured.disagreement_NK is not None:
        most_N = np.nan_to_num(measured.disagreement_NK, nan=-1).max(axis=1)
        most_N[most_N < 0] = np.nan
        ranked["teacher against label", ""] = _ascending(most_N)[::-1][:DISAGREEING]
    of_joints = {
        (f"largest error of {name} at", joint): _ascending(errors_NK[:, k])[::-1][:PER_JOINT]
        for name, errors_NK in measured.errors.items()
        for k, joint in enumerate(joints)
    }
    chosen: dict[int, dict[str, list[str]]] = {}
    for rules in (ranked, of_joints):
        for turn in zip_longest(*rules.values()):
            for (rule, what), index in zip(rules, turn, strict=True):
                if index is not None:
                    chosen.setdefault(index, {}).setdefault(rule, []).append(what)
    if not chosen:
        people = range(len(next(iter(measured.means.values()))))
        return {index: {"the first, for nobody is labeled": []} for index in people[:UNLABELLED]}
    return chosen


def draw(joints_K2: NDArray[np.float64], limbs: Iterable[tuple[int, int]]) -> Drawing:
    """The paths of a person's joints and limbs, to a tenth of a pixel; NaN and inf are left out."""
    known_K = [bool(np.isfinite(joint).all()) for joint in joints_K2]
    points = [f"{x:.1f} {y:.1f}" for x, y in joints_K2.clip(-1e4, 1e4)]
    lines = [f"M{points[a]}L{points[b]}" for a, b in limbs if known_K[a] and known_K[b]]
    # A line of no length with round ends is a dot.
    dots = [f"M{point}h0" for point, known in zip(points, known_K, strict=True) if known]
    return Drawing("".join(lines), "".join(dots))


def picture(crop_SS3: NDArray[np.uint8]) -> str:
    """A crop, uint8 RGB, as the data URI of a WebP file."""
    quality = [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY]
    done, encoded = cv2.imencode(".webp", cv2.cvtColor(crop_SS3, cv2.COLOR_RGB2BGR), quality)
    assert done, "OpenCV's own WebP encoder takes any uint8 image"
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode()


def _card(sample_id: str, index: int, measured: Measured, reasons: dict[str, list[str]]) -> Card:
    """A card without its pictures."""
    against_NK = measured.disagreement_NK
    return Card(
        id=sample_id,
        picture="",
        label=Drawing("", ""),
        predictions=[],
        errors=[_numbers(errors_NK[index]) for errors_NK in measured.errors.values()],
        means=_numbers(np.array([mean_N[index] for mean_N in measured.means.values()])),
        disagreements=[] if against_NK is None else _numbers(against_NK[index]),
        reasons=reasons,
    )


def _medians(measured: Measured) -> list[list[float | None]]:
    return [
        [_median(column) for column in (*errors_NK.T, measured.means[name])]
        for name, errors_NK in measured.errors.items()
    ]


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else None


def _numbers(errors_K: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(error) else round(float(error), 3) for error in errors_K]


def _mean_of_joints(errors_NK: NDArray[np.float64]) -> NDArray[np.float64]:
    counted_NK = ~np.isnan(errors_NK)
    sums_N = np.where(counted_NK, errors_NK, 0).sum(axis=1)
    counts_N = counted_NK.sum(axis=1)
    return np.where(counts_N > 0, sums_N / np.maximum(counts_N, 1), np.nan)


def _ascending(values_N: NDArray[np.float64]) -> list[int]:
    """Indices by value, NaN left out; equal ones in the data set's order."""
    order = np.argsort(values_N, kind="stable")
    return [int(index) for index in order if not np.isnan(values_N[index])]
