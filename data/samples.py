"""The common form of all data sets: samples in columns, and a source of their images.

A sample is one person in one image. Coordinates everywhere are (x, y) in pixels, 0-based; the
center of the top-left pixel is (0, 0). Shape letters: N samples, K joints.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .skeletons import Skeleton


class ImageSource(Protocol):
    """Where a data set's pixels come from: a folder of files, or a drawing routine."""

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        """Read image `index` for a crop that shows one image pixel as `zoom` crop pixels.

        Returns:
            (image, reduction): uint8 (H, W, 3) RGB, and the integer factor by which the image was
            reduced while decoding; 1 unless the crop loses no resolution by the reduction.
        """
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) in pixels; ValueError if there is no usable image."""
        ...

    def identity(self, index: int) -> str:
        """A short text that changes with the image; each source states which changes it detects."""
        ...

    def locate(self, index: int) -> str:
        """The image's name for use in messages."""
        ...

    def note(self, index: int) -> str | None:
        """What is unusual about an image that can be used; None: nothing."""
        ...


@runtime_checkable
class CropSource(Protocol):
    """An `ImageSource` of crops whose photographs are elsewhere: a portable store."""

    def crop(self, index: int, affine: NDArray[np.float64], crop_px: int) -> NDArray[np.uint8]:
        """The crop of image `index`.

        Args:
            affine: float64 (2, 3), from pixels of the photograph to crop pixels.
            crop_px: side of the square crop, pixels.

        Returns:
            uint8 (crop_px, crop_px, 3) RGB.
        """
        ...


class JoinedImages:
    """The concatenation of several image sources: their indices follow one another."""

    def __init__(self, parts: Sequence[tuple[ImageSource, int]]) -> None:
        """Concatenate sources, each given with its number of images."""
        self.sources = tuple(source for source, _ in parts)
        self.starts = list(accumulate((count for _, count in parts), initial=0))[:-1]

    def _find(self, index: int) -> tuple[ImageSource, int]:
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

    def note(self, index: int) -> str | None:
        source, index = self._find(index)
        return source.note(index)


@dataclass(frozen=True)
class Sample:
    """One person in one image.

    Attributes:
        id: stable name, unique in the data set; the random numbers of its views depend on it.
        image: index into the data set's `ImageSource`.
        joints_K2: float64 (x, y) in pixels of the original image; NaN where not labeled.
        center_2: float64, center of the person's box, pixels.
        side_px: side of the person's square box, pixels; unaugmented, the crop is this box.
        normalizer_px: PCK's unit of length for this person, pixels; NaN: not scored.
    """

    id: str
    image: int
    joints_K2: NDArray[np.float64]
    center_2: NDArray[np.float64]
    side_px: float
    normalizer_px: float


@dataclass(frozen=True)
class Tally:
    """What became of the people in a label file.

    Attributes:
        file: its path, or what else the samples are from.
        people: those in the file.
        left_out: (reason, number) of those that are no samples, in the order of the checks.
        notes: what is unusual in the file, for the user.
    """

    file: str
    people: int
    left_out: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        return self.people - sum(count for _, count in self.left_out)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out if count)
        left_out = f"; left out: {reasons}" if reasons else ""
        people = "person" if self.people == 1 else "people"
        return f"{self.people} {people} in {self.file}, {self.kept} kept{left_out}"


@dataclass(frozen=True, eq=False)
class SampleSet:
    """The samples of a data set, in columns (cheap to index, to slice and to send to workers).

    `tallies` are those of the label files that the samples are from, whichever of them are here.
    """

    name: str
    skeleton: Skeleton
    images: ImageSource
    ids: tuple[str, ...]
    image_N: NDArray[np.int64]
    joints_NK2: NDArray[np.float64]
    center_N2: NDArray[np.float64]
    side_N: NDArray[np.float64]
    normalizer_N: NDArray[np.float64]
    tallies: tuple[Tally, ...] = field(default=(), kw_only=True)

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
            id=self.ids[index],
            image=int(self.image_N[index]),
            joints_K2=self.joints_NK2[index],
            center_2=self.center_N2[index],
            side_px=float(self.side_N[index]),
            normalizer_px=float(self.normalizer_N[index]),
        )

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> SampleSet:
        """The samples at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        columns = (column[indices] for column in self._columns())
        ids = tuple(self.ids[i] for i in indices)
        return SampleSet(self.name, self.skeleton, self.images, ids, *columns, tallies=self.tallies)

    @cached_property
    def id_hash_N(self) -> NDArray[np.uint64]:
        """`id_hash` of every sample, uint64."""
        return np.array([id_hash(i) for i in self.ids], dtype=np.uint64)

    def part(self, number: int, parts: int) -> NDArray[np.bool_]:
        """Mask of the samples in part `number`, from 0, of `parts`, assigned by their ids' hashes.

        Returns:
            bool (N,).
        """
        # The lower 32 bits: the upper ones decide which samples are held out for validation.
        # (The product of two 32-bit numbers does not overflow.)
        lower_N = self.id_hash_N & np.uint64(0xFFFFFFFF)
        return np.asarray((lower_N * np.uint64(parts)) >> np.uint64(32) == number)

    def fingerprint(self) -> dict[str, str | int]:
        """What must be equal in two sets for heatmaps of one to be targets for the other.

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


def join(samples: SampleSet, others: SampleSet, suffix: str) -> SampleSet:
    """Concatenate two sets of one skeleton; the result is named `samples.name` + "+" + `suffix`.

    Raises:
        ValueError: their skeletons differ.
    """
    if samples.skeleton.joints != others.skeleton.joints:
        raise ValueError(
            f"expected samples of one skeleton, got {samples.skeleton.name} and "
            f"{others.skeleton.name}"
        )
    count, others_count = (int(s.image_N.max(initial=-1)) + 1 for s in (samples, others))
    columns = zip(samples._columns(), others._columns(), strict=True)
    image_N, *rest = (np.concatenate(pair) for pair in columns)
    image_N[len(samples) :] += count
    return SampleSet(
        f"{samples.name}+{suffix}",
        samples.skeleton,
        JoinedImages([(samples.images, count), (others.images, others_count)]),
        samples.ids + others.ids,
        image_N,
        *rest,
        tallies=samples.tallies + others.tallies,
    )


def joint_boxes(
    joints_NK2: NDArray[np.float64], margin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Square boxes around the labeled joints, with sides of `margin` times the joints' extent.

    Returns:
        (center, side): float64 (N, 2) and (N,), pixels; NaN where no joint is labeled.
    """
    labeled = ~np.any(np.isnan(joints_NK2), axis=-1, keepdims=True)
    low = np.where(labeled, joints_NK2, np.inf).min(axis=1)
    high = np.where(labeled, joints_NK2, -np.inf).max(axis=1)
    extent = (high - low).max(axis=-1)
    unlabeled_N1 = ~np.any(labeled, axis=1)
    center = np.where(unlabeled_N1, np.nan, low + np.where(unlabeled_N1, 0.0, high - low) / 2)
    return center, np.where(unlabeled_N1[:, 0], np.nan, margin * extent)


def normalizer_lengths(joints_NK2: NDArray[np.float64], skeleton: Skeleton) -> NDArray[np.float64]:
    """PCK's units of length: the distance between the skeleton's two `normalizer` joints.

    Returns:
        float64 (N,), in the joints' pixels; NaN where one of the two is not labeled, and all NaN
        for a skeleton without such a pair.
    """
    if skeleton.normalizer is None:
        return np.full(len(joints_NK2), np.nan)
    start, end = skeleton.normalizer
    between_N2 = joints_NK2[:, start] - joints_NK2[:, end]
    return np.asarray(np.linalg.norm(between_N2, axis=-1))


HASHED_ID = re.compile("#([0-9a-f]{16})")
"""An id that is another id's hash, where ids are not to be shown."""


def id_hash(sample_id: str) -> int:
    """64-bit BLAKE2b of a sample's id: the same in every process and on every machine.

    A `hashed_id` has the hash of the id that it stands for.
    """
    hashed = HASHED_ID.fullmatch(sample_id)
    if hashed:
        return int(hashed[1], 16)
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest(), "little")


def hashed_id(sample_id: str) -> str:
    """An id with the same hash, and so the same views, from which nothing else can be read."""
    return f"#{id_hash(sample_id):016x}"


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
