"""Joints that any tool predicted, from a file: found by their shape, never by guessing.

Shape letters: N people, K joints.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.io.arrays import arrays, listing, read

LAYOUTS = {"N x K x 2": (0, 1, 2), "K x 2 x N": (2, 0, 1)}
"""The axes that become N, K and 2."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a file holds.

    Attributes:
        name: of the array in the file; "" where it has none.
        layout: one of `LAYOUTS`.
        joints_NK2: float64 (x, y) as in the file: NaN, inf and either coordinate base included.
    """

    name: str
    layout: str
    joints_NK2: NDArray[np.float64]


def read_predictions(path: Path, people: Collection[int], joints: int) -> Predictions:
    """The one array of a file that fits the ground truth.

    Args:
        people: the numbers of people that there may be predictions for.
        joints: the ground truth's K.

    Raises:
        ValueError: the file cannot be read, or none of its arrays fits, or more than one does.
    """
    found = arrays(path)
    fitting = [
        (name, layout) for name in found for layout in layouts(found[name].shape, people, joints)
    ]
    if len(fitting) != 1:
        numbers = " or ".join(map(str, people))
        raise ValueError(
            f"{path}: expected one array of N x {joints} x 2 or {joints} x 2 x N, N being "
            f"{numbers}, found {len(fitting) or 'none'} that fit{'' if fitting else 's'} among: "
            f"{listing(found)}"
        )
    name, layout = fitting[0]
    return Predictions(name, layout, read(path, found[name]).transpose(LAYOUTS[layout]))


def layouts(shape: tuple[int, ...], people: Collection[int], joints: int) -> list[str]:
    """The layouts that an array of this shape may have (both, where N, K and 2 are all 2)."""
    if len(shape) != 3:
        return []
    return [
        layout
        for layout, (n, k, xy) in LAYOUTS.items()
        if shape[n] in people and shape[k] == joints and shape[xy] == 2
    ]
