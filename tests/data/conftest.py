"""People and pictures made in memory, for the tests of `fpd.data`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from fpd.data.samples import Images, SampleSet
from fpd.data.skeletons import LSP


@dataclass
class ArrayImages:
    """An `Images` over arrays, uint8 (H, W, 3) RGB."""

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


MakePeople = Callable[..., SampleSet]


@pytest.fixture(scope="session")
def make_people() -> MakePeople:
    """make_people(joints_NK2, images, ...): one person an image, their boxes alike.

    `images` is an `Images` or a list of arrays; left out: one black 120 x 90 picture each.
    """

    def make(
        joints_NK2: ArrayLike,
        images: Images | Sequence[NDArray[np.uint8]] | None = None,
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
            name="people",
            skeleton=LSP,
            images=ArrayImages(images) if isinstance(images, list) else images,
            ids=tuple(ids) if ids is not None else tuple(f"person/{i}" for i in range(count)),
            image_N=np.arange(count),
            joints_NK2=joints,
            center_N2=np.broadcast_to(np.asarray(center, np.float64), (count, 2)).copy(),
            side_N=np.broadcast_to(np.asarray(side, np.float64), (count,)).copy(),
            normalizer_N=np.full(count, 20.0),
        )

    return make
