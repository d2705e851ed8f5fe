"""Sample sets with images in memory, for the tests of `fpd.data`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from fpd.data.samples import ImageSource, SampleSet
from fpd.data.skeletons import LSP


@dataclass
class ArrayImages:
    """An `ImageSource` of arrays, uint8 (H, W, 3) RGB."""

    arrays: Sequence[NDArray[np.uint8]]

    def read(self, index: int, zoom: float) -> tuple[NDArray[np.uint8], int]:
        return self.arrays[index], 1

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.arrays[index].shape[:2]
        return width, height

    def identity(self, index: int) -> str:
        return f"array {index} of {len(self.arrays[index].tobytes())} bytes"

    def locate(self, index: int) -> str:
        return f"array {index}"

    def note(self, index: int) -> None:
        pass


MakeSamples = Callable[..., SampleSet]


@pytest.fixture(scope="session")
def make_samples() -> MakeSamples:
    """make_samples(joints_NK2, images, ...): one sample per image, with equal boxes.

    `images` is an `ImageSource` or a list of arrays; by default black images of 120 x 90 pixels.
    """

    def make(
        joints_NK2: ArrayLike,
        images: ImageSource | Sequence[NDArray[np.uint8]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        center: ArrayLike = (50.0, 40.0),
        side: ArrayLike = 100.0,
    ) -> SampleSet:
        joints = np.array(joints_NK2, dtype=np.float64)
        count = len(joints)
        if images is None:
            images = [np.zeros((90, 120, 3), np.uint8)] * count
        return SampleSet(
            name="toy",
            skeleton=LSP,
            images=ArrayImages(images) if isinstance(images, list) else images,
            ids=tuple(ids) if ids is not None else tuple(f"sample/{i}" for i in range(count)),
            image_N=np.arange(count),
            joints_NK2=joints,
            center_N2=np.broadcast_to(np.asarray(center, np.float64), (count, 2)).copy(),
            side_N=np.broadcast_to(np.asarray(side, np.float64), (count,)).copy(),
            normalizer_N=np.full(count, 20.0),
        )

    return make


PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def published_root() -> Callable[[str], Path]:
    """published_root(*files): the folder of the published data sets; skips if a file is missing."""

    def root(*files: str) -> Path:
        for file in files:
            if not (PUBLISHED / file).is_file():
                pytest.skip(f"{file} is not in {PUBLISHED}")
        return PUBLISHED

    return root
