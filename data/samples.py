"""The one form every data set takes: people in columns, and where their pixels come from.

Coordinates everywhere are (x, y) in pixels, 0-based, the center of the top-left pixel being (0, 0).
Shape letters: N samples, K joints.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .skeletons import Skeleton


class Images(Protocol):
    """Where a data set's pixels come from: a folder of files, or a drawing routine."""

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Pixels of image `index`, for a crop that shows one image pixel as `zoom` crop pixels.

        Returns:
            (image, reduction): uint8 (H, W, 3) RGB, and the whole factor by which it was reduced
            in decoding. `reduction` is 1 whenever reducing would cost the crop resolution.
        """
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels; ValueError where there is no usable image."""
        ...

    def identity(self, index: int) -> str:
        """A short text that changes when the image does (see each source for how surely)."""
        ...

    def locate(self, index: int) -> str:
        """The image's name in a message to a person."""
        ...


class JoinedImages:
    """Several sources of images as one, their indices one after the other."""

    def __init__(self, parts: Sequence[tuple[Images, int]]) -> None:
        """Take sources, each with its number of images."""
        self.sources = tuple(source for source, _ in parts)
        self.starts = list(accumulate((count for _, count in parts), initial=0))[:-1]

    def _find(self, index: int) -> tuple[Images, int]:
        part = bisect.bisect_right(self.starts, index) - 1
        return self.sources[part], index - self.starts[part]

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        source, index = self._find(index)
        return source.read(index, zoom)

    def size(self, index: int) -> tuple[int, int]:
        source, index = self._find(index)
        return source.size(index)

    def identity(self, index: int) -> str:
        source, index = self._find(index)
        return source.identity(index)

    def locate(self, index: int) -> str:
        source, index = self._find(index)
        return source.locate(index)


@dataclass(frozen=True)
class Sample:
    """One person.

    Attributes:
        id: stable name, unique in the data set; the augmentation's random numbers hang on it.
        image: index into the data set's `Images`.
        joints_K2: float64 (x, y) in pixels of the original image; NaN where not labeled.
        center_2: float64, center of the person's box, pixels.
        side_px: side of the person's square box, pixels: the crop without augmentation.
        normalizer_px: PCK's unit of length for this person, pixels; NaN: not scored.
    """

    id: str
    image: int
    joints_K2: NDArray[np.float64]
    center_2: NDArray[np.float64]
    side_px: float
    normalizer_px: float


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The people of a data set, in columns (cheap to index, to slice and to send to workers)."""

    name: str
    skeleton: Skeleton
    images: Images
    ids: tuple[str, ...]
    image_N: NDArray[np.int64]
    joints_NK2: NDArray[np.float64]
    center_N2: NDArray[np.float64]
    side_N: NDArray[np.float64]
    normalizer_N: NDArray[np.float64]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self._columns()}
        if lengths != {len(self.ids)}:
            raise ValueError(f"{self.name}: expected columns of one length, got {sorted(lengths)}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name}: expected unique sample ids, found duplicates")

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return (self.image_N, self.joints_NK2, self.center_N2, self.side_N, self.normalizer_N)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            self.ids[index],
            int(self.image_N[index]),
            self.joints_NK2[index],
            self.center_N2[index],
            float(self.side_N[index]),
            float(self.normalizer_N[index]),
        )

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> SampleSet:
        """The samples at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        columns = (column[indices] for column in self._columns())
        ids = tuple(self.ids[i] for i in indices)
        return SampleSet(self.name, self.skeleton, self.images, ids, *columns)

    @cached_property
    def id_hash_N(self) -> NDArray[np.uint64]:
        """`id_hash` of every sample, uint64."""
        return np.array([id_hash(i) for i in self.ids], dtype=np.uint64)

    def part(self, number: int, parts: int) -> NDArray[np.bool_]:
        """Which samples are in part `number` of `parts`: as their ids' hashes have it.

        Returns:
            bool (N,).
        """
        # The lower half: validation people were chosen by the upper one. (No product overflows.)
        lower_N = self.id_hash_N & np.uint64(0xFFFFFFFF)
        return np.asarray((lower_N * np.uint64(parts)) >> np.uint64(32) == number)

    def fingerprint(self) -> dict[str, str | int]:
        """What two sets must share for heatmaps of one to be targets for the other.

        Returns:
            name, number of samples, and SHA-256 digests of: the ids in order; the images (their
            `identity`) and boxes, which decide the pixels of a view; the labels.
        """
        images = (self.images.identity(int(i)) for i in self.image_N)
        return {
            "name": self.name,
            "samples": len(self),
            "ids": _digest("\n".join(self.ids).encode()),
            "images": _digest(
                "\n".join(images).encode(), self.center_N2.tobytes(), self.side_N.tobytes()
            ),
            "labels": _digest(self.joints_NK2.tobytes()),
        }


def join(people: SampleSet, others: SampleSet, suffix: str) -> SampleSet:
    """Two sets of one skeleton as one, called `people`'s name + `suffix`.

    Raises:
        ValueError: their skeletons differ.
    """
    if people.skeleton.joints != others.skeleton.joints:
        raise ValueError(
            f"expected people of one skeleton, got {people.skeleton.name} and "
            f"{others.skeleton.name}"
        )
    pictures = int(people.image_N.max(initial=-1)) + 1, int(others.image_N.max(initial=-1)) + 1
    columns = zip(people._columns(), others._columns(), strict=True)
    image_N, *rest = (np.concatenate(pair) for pair in columns)
    image_N[len(people) :] += pictures[0]
    return SampleSet(
        f"{people.name}+{suffix}",
        people.skeleton,
        JoinedImages([(people.images, pictures[0]), (others.images, pictures[1])]),
        people.ids + others.ids,
        image_N,
        *rest,
    )


def boxes(
    joints_NK2: NDArray[np.float64], margin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The square boxes around labeled joints, their sides `margin` times the joints' extent.

    Returns:
        (center, side): float64 (N, 2) and (N,), pixels; NaN where no joint is labeled.
    """
    labeled = ~np.any(np.isnan(joints_NK2), axis=-1, keepdims=True)
    low = np.where(labeled, joints_NK2, np.inf).min(axis=1)
    high = np.where(labeled, joints_NK2, -np.inf).max(axis=1)
    extent = (high - low).max(axis=-1)
    nobody = ~np.any(labeled, axis=1)  # (N, 1)
    center = np.where(nobody, np.nan, low + np.where(nobody, 0.0, high - low) / 2)
    return center, np.where(nobody[:, 0], np.nan, margin * extent)


def normalizer_lengths(joints_NK2: NDArray[np.float64], skeleton: Skeleton) -> NDArray[np.float64]:
    """PCK's units where they lie between two labeled joints; NaN where one is not labeled.

    Returns:
        float64 (N,), in the joints' pixels; all NaN for a skeleton without such a pair.
    """
    if skeleton.normalizer is None:
        return np.full(len(joints_NK2), np.nan)
    first, second = skeleton.normalizer
    between_N2 = joints_NK2[:, first] - joints_NK2[:, second]
    return np.asarray(np.linalg.norm(between_N2, axis=-1))


def id_hash(sample_id: str) -> int:
    """64-bit BLAKE2b of a sample's id: the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest(), "little")


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
