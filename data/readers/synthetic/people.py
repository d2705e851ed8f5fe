"""The synthetic data set: articulated people over clutter, drawn when their images are read.

Any number of samples with exact labels of LSP's 14 joints. Each is a function of three values:
seed, split and index; sample 7 is the same in a set of ten and in a set of a million.

    from fpd.data.readers.synthetic.people import synthetic_samples
    train = synthetic_samples("train", 4000)
    image, _ = train.images.read(7, zoom=1.0)

`poses` decides where the joints are, `drawing` paints the images; both are pure functions of the
random numbers generated here. Shape letters: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...samples import SampleSet
from ...skeletons import LSP
from . import drawing, poses
from .poses import Poses

VERSION = 1  # increase it with any change of pixels, joints or boxes

SPLITS = {"train": 0, "test": 1}
STREAM = 0x66_69_67_75_72_65_73_00  # "figures" in ASCII; with the split, half of Philox's key
BOX_MARGIN = 1.25  # box side over the joints' extent, to include hands, feet and background

CACHED_IMAGES = 2048
"""Images that a process keeps, about 190 MB. Drawing one takes as long as a small network's step on
it, and every epoch reads all of them."""


class Purpose(IntEnum):
    """The independent streams of random words, by what they decide."""

    POSE = 0
    LOOK = 1
    CLUTTER = 2
    NOISE = 3


def synthetic_samples(split: str, count: int, *, seed: int = 0) -> SampleSet:
    """Samples 0 to count - 1 of a split, with exact labels; their images are drawn when read.

    Args:
        split: "train" or "test": different samples.
        count: number of samples, at least 1.
        seed: of the whole data set, 0 to 2**64 - 1.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(split, count, seed)
    joints_NK2 = _poses(seed, split, range(count)).points_NP3[:, : LSP.num_joints, :2]
    assert LSP.normalizer is not None
    start, end = LSP.normalizer
    low_N2, high_N2 = joints_NK2.min(axis=1), joints_NK2.max(axis=1)
    return SampleSet(
        name=f"synthetic/{split}",
        skeleton=LSP,
        images=SyntheticImages(split, seed),
        # Ids decide views and splits, so they never change.
        ids=tuple(f"figures/{split}/{i:06d}" for i in range(count)),
        image_N=np.arange(count, dtype=np.int64),
        joints_NK2=joints_NK2.copy(),
        center_N2=(low_N2 + high_N2) / 2,
        side_N=BOX_MARGIN * (high_N2 - low_N2).max(axis=-1),
        normalizer_N=np.sqrt(np.square(joints_NK2[:, start] - joints_NK2[:, end]).sum(axis=-1)),
    )


@dataclass(frozen=True)
class SyntheticImages:
    """The images of a split, drawn when read. Two values only: cheap to send to workers."""

    split: str
    seed: int

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Image `index`, uint8 (H, W, 3) RGB, read-only; the reduction is 1 at any zoom."""
        return _image(self.seed, self.split, index), 1

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels, without drawing."""
        u_U = _uniforms(self.seed, self.split, index, Purpose.POSE, poses.POSE_UNIFORMS)
        width, height = poses.sizes(u_U[None])[0].tolist()
        return width, height

    def identity(self, index: int) -> str:
        """Everything that decides the pixels, except for rounding inside OpenCV."""
        return f"figures version {VERSION} seed {self.seed} {self.split}/{index}"

    def locate(self, index: int) -> str:
        """The image's name for messages."""
        return f"image {index} of synthetic/{self.split}"

    def note(self, index: int) -> None:
        """Nothing is unusual about these images."""


@lru_cache(maxsize=CACHED_IMAGES)
def _image(seed: int, split: str, index: int) -> NDArray[np.uint8]:
    """Draw an image, uint8 (H, W, 3) RGB, read-only."""
    poses_1 = _poses(seed, split, [index])
    width, height = poses_1.size_N2[0].tolist()
    image = drawing.paint(
        poses_1.points_NP3[0],
        float(poses_1.stature_N[0]),
        (width, height),
        _uniforms(seed, split, index, Purpose.LOOK, drawing.LOOK_UNIFORMS),
        _uniforms(seed, split, index, Purpose.CLUTTER, drawing.CLUTTER_UNIFORMS),
        _bytes(seed, split, index, Purpose.NOISE, width * height * 3),
    )
    image.setflags(write=False)
    return image


def _check(split: str, count: int, seed: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split: expected {' or '.join(map(repr, SPLITS))}, got {split!r}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2**64 - 1, got {seed}")


def _poses(seed: int, split: str, indices: Iterable[int]) -> Poses:
    """The poses of the samples at `indices`."""
    count = poses.POSE_UNIFORMS
    return poses.pose(np.stack([_uniforms(seed, split, i, Purpose.POSE, count) for i in indices]))


def _words(seed: int, split: str, index: int, purpose: Purpose, count: int) -> NDArray[np.uint64]:
    """`count` raw words of Philox, a counter-based generator: any index, in any order.

    NumPy keeps raw words across versions, but does not guarantee that for distributions.
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
    """`count` random bytes, the same on little- and big-endian machines."""
    words = _words(seed, split, index, purpose, -(-count // 8))
    return words.astype("<u8", copy=False).view(np.uint8)[:count]
