"""`figures`, the embedded data set: articulated people over clutter, drawn rather than shipped.

Any number of people, with exact labels of LSP's 14 joints, from three values: seed, split, index.
Nothing is sequential: person 7 is the same among ten as among a million.

    from fpd.data.readers.figures import figures
    train = figures("train", 4000, label_noise=0.1, missing_labels=0.2)
    image, _ = train.images.read(7, zoom=1.0)

`figure_poses` decides where the joints are, `figure_drawing` paints; both are pure functions of
the random numbers made here. Shape letters: N people, K joints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..samples import SampleSet
from ..skeletons import LSP
from . import figure_drawing, figure_poses
from .figure_poses import People

VERSION = 1  # of the drawing: raise it with any change of pixels, joints or boxes

SPLITS = {"train": 0, "test": 1}
STREAM = 0x66_69_67_75_72_65_73_00  # "figures" in ASCII; plus the split, half of Philox's key
BOX_MARGIN = 1.25  # box side over the joints' extent: hands, feet and some background come along


class Purpose(IntEnum):
    """What random words are for; each has a stream of its own, so that none disturbs another."""

    POSE = 0
    LOOK = 1
    CLUTTER = 2
    NOISE = 3
    LABELS = 4


def figures(
    split: str,
    count: int,
    *,
    seed: int = 0,
    label_noise: float = 0.0,
    missing_labels: float = 0.0,
) -> SampleSet:
    """People 0 ... count - 1 of a split, their pixels drawn when read.

    The dials spoil labels of the train split alone: pixels, boxes and all test labels are the same
    at any setting, and so are the direction in which a joint's label strays and the order in which
    labels go missing as the dial is raised. A strayed label may lie outside the picture.

    Args:
        split: "train" or "test": different people.
        count: number of people, at least 1.
        seed: of the whole data set, 0 to 2**64 - 1.
        label_noise: standard deviation, along x and along y, of the Gaussian displacement of each
            labelled joint, as a share of the person's torso (left shoulder to right hip).
        missing_labels: probability that a joint's label is missing (NaN), 0 to 1.
    """
    _check(split, count, seed, label_noise, missing_labels)
    joints_NK2 = _people(seed, split, range(count)).points_NP3[:, : LSP.num_joints, :2]
    assert LSP.normaliser is not None
    one, other = LSP.normaliser
    torso_N = np.sqrt(np.square(joints_NK2[:, one] - joints_NK2[:, other]).sum(axis=-1))
    low_N2, high_N2 = joints_NK2.min(axis=1), joints_NK2.max(axis=1)
    labels_NK2 = joints_NK2.copy()
    if split == "train" and (label_noise or missing_labels):
        stray_NK2, chance_NK = _label_faults(seed, split, count)
        labels_NK2 += figure_poses.on_grid(label_noise * torso_N[:, None, None] * stray_NK2)
        labels_NK2[chance_NK < missing_labels] = np.nan
    return SampleSet(
        name=f"figures/{split}",
        skeleton=LSP,
        images=FigureImages(split, seed),
        ids=tuple(f"figures/{split}/{i:06d}" for i in range(count)),
        image_N=np.arange(count, dtype=np.int64),
        joints_NK2=labels_NK2,
        centre_N2=(low_N2 + high_N2) / 2,
        side_N=BOX_MARGIN * (high_N2 - low_N2).max(axis=-1),
        normaliser_N=torso_N,
    )


@dataclass(frozen=True)
class FigureImages:
    """The pictures of a split, drawn when read. Two values, so cheap to send to workers."""

    split: str
    seed: int

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Picture `index`, uint8 (H, W, 3) RGB, always in full: reduction 1 whatever the zoom."""
        where = (self.seed, self.split, index)
        people = _people(self.seed, self.split, [index])
        width, height = people.size_N2[0].tolist()
        image = figure_drawing.paint(
            people.points_NP3[0],
            float(people.stature_N[0]),
            (width, height),
            _uniforms(*where, Purpose.LOOK, figure_drawing.LOOK_UNIFORMS),
            _uniforms(*where, Purpose.CLUTTER, figure_drawing.CLUTTER_UNIFORMS),
            _bytes(*where, Purpose.NOISE, width * height * 3),
        )
        return image, 1

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, without drawing."""
        u_U = _uniforms(self.seed, self.split, index, Purpose.POSE, figure_poses.POSE_UNIFORMS)
        width, height = figure_poses.sizes(u_U[None])[0].tolist()
        return width, height

    def identity(self, index: int) -> str:
        """All that decides the pixels, but for rounding inside OpenCV, which is not covered."""
        return f"figures version {VERSION} seed {self.seed} {self.split}/{index}"

    def locate(self, index: int) -> str:
        """Which figure of which split."""
        return f"figure {index} of figures/{self.split}"


def _check(split: str, count: int, seed: int, label_noise: float, missing_labels: float) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected {' or '.join(map(repr, SPLITS))}, got {split!r}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2**64 - 1, got {seed}")
    if not 0 <= label_noise < np.inf:
        raise ValueError(f"label_noise: expected a share of the torso, >= 0, got {label_noise}")
    if not 0 <= missing_labels <= 1:
        raise ValueError(f"missing_labels: expected a probability, 0 to 1, got {missing_labels}")


def _people(seed: int, split: str, indices: Iterable[int]) -> People:
    """The people at `indices`, before any spoiling of labels."""
    count = figure_poses.POSE_UNIFORMS
    return figure_poses.pose(
        np.stack([_uniforms(seed, split, i, Purpose.POSE, count) for i in indices])
    )


def _label_faults(
    seed: int, split: str, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard normal displacements (N, K, 2) and the numbers (N, K) that decide what is missing.

    Normal by Box & Muller 1958.
    """
    num = 3 * LSP.num_joints
    u_NK3 = np.stack([_uniforms(seed, split, i, Purpose.LABELS, num) for i in range(count)])
    u_NK3 = u_NK3.reshape(count, LSP.num_joints, 3)
    radius_NK = np.sqrt(-2 * np.log(1 - u_NK3[..., 0]))  # u is never 1
    angle_NK = 2 * np.pi * u_NK3[..., 1]
    stray_NK2 = radius_NK[..., None] * np.stack([np.cos(angle_NK), np.sin(angle_NK)], axis=-1)
    return stray_NK2, u_NK3[..., 2]


def _words(seed: int, split: str, index: int, purpose: Purpose, count: int) -> NDArray[np.uint64]:
    """Raw words of Philox, a counter-based generator: those of any index at once, in any order.

    Raw words only: NumPy keeps them across versions, which it does not promise of distributions.
    """
    key = np.array([seed, STREAM + SPLITS[split]], dtype=np.uint64)
    counter = np.array([0, purpose, index, 0], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def _uniforms(
    seed: int, split: str, index: int, purpose: Purpose, count: int
) -> NDArray[np.float64]:
    """`count` numbers in [0, 1), float64: the upper 53 bits of each word."""
    words = _words(seed, split, index, purpose, count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _bytes(seed: int, split: str, index: int, purpose: Purpose, count: int) -> NDArray[np.uint8]:
    """`count` random bytes, the same on machines of either byte order."""
    words = _words(seed, split, index, purpose, -(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count]
