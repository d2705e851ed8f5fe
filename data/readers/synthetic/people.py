"""The embedded data set: articulated people over clutter, drawn rather than shipped.

Any number of people, with exact labels of LSP's 14 joints, from three values: seed, split, index.
Nothing is sequential: person 7 is the same among ten as among a million.

    from fpd.data.readers.synthetic.people import synthetic_people
    train = synthetic_people("train", 4000)
    image, _ = train.images.read(7, zoom=1.0)

`poses` decides where the joints are, `drawing` paints them; both are pure functions of
the random numbers made here. Shape letters: N people, K joints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ...samples import SampleSet
from ...skeletons import LSP
from . import drawing, poses
from .poses import People

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


def synthetic_people(split: str, count: int, *, seed: int = 0) -> SampleSet:
    """Samples 0 ... count - 1 of a split, with exact labels; their pixels are drawn when read.

    Args:
        split: "train" or "test": different people.
        count: number of samples, at least 1.
        seed: of the whole data set, 0 to 2**64 - 1.
    """
    _check(split, count, seed)
    joints_NK2 = _people(seed, split, range(count)).points_NP3[:, : LSP.num_joints, :2]
    assert LSP.normalizer is not None
    one, other = LSP.normalizer
    low_N2, high_N2 = joints_NK2.min(axis=1), joints_NK2.max(axis=1)
    return SampleSet(
        name=f"synthetic/{split}",
        skeleton=LSP,
        images=SyntheticImages(split, seed),
        # Ids decide views and splits: they never change.
        ids=tuple(f"figures/{split}/{i:06d}" for i in range(count)),
        image_N=np.arange(count, dtype=np.int64),
        joints_NK2=joints_NK2.copy(),
        center_N2=(low_N2 + high_N2) / 2,
        side_N=BOX_MARGIN * (high_N2 - low_N2).max(axis=-1),
        normalizer_N=np.sqrt(np.square(joints_NK2[:, one] - joints_NK2[:, other]).sum(axis=-1)),
    )


@dataclass(frozen=True)
class SyntheticImages:
    """The pictures of a split, drawn when read. Two values, so cheap to send to workers."""

    split: str
    seed: int

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Picture `index`, uint8 (H, W, 3) RGB, always in full: reduction 1 whatever the zoom."""
        where = (self.seed, self.split, index)
        people = _people(self.seed, self.split, [index])
        width, height = people.size_N2[0].tolist()
        image = drawing.paint(
            people.points_NP3[0],
            float(people.stature_N[0]),
            (width, height),
            _uniforms(*where, Purpose.LOOK, drawing.LOOK_UNIFORMS),
            _uniforms(*where, Purpose.CLUTTER, drawing.CLUTTER_UNIFORMS),
            _bytes(*where, Purpose.NOISE, width * height * 3),
        )
        return image, 1

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, without drawing."""
        u_U = _uniforms(self.seed, self.split, index, Purpose.POSE, poses.POSE_UNIFORMS)
        width, height = poses.sizes(u_U[None])[0].tolist()
        return width, height

    def identity(self, index: int) -> str:
        """All that decides the pixels, but for rounding inside OpenCV, which is not covered."""
        return f"figures version {VERSION} seed {self.seed} {self.split}/{index}"

    def locate(self, index: int) -> str:
        """Which picture of which split."""
        return f"picture {index} of synthetic/{self.split}"


def _check(split: str, count: int, seed: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected {' or '.join(map(repr, SPLITS))}, got {split!r}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2**64 - 1, got {seed}")


def _people(seed: int, split: str, indices: Iterable[int]) -> People:
    """The people at `indices`."""
    count = poses.POSE_UNIFORMS
    return poses.pose(np.stack([_uniforms(seed, split, i, Purpose.POSE, count) for i in indices]))


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
