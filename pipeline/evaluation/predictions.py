"""Predictions of any tool, read from a file: the one array whose shape fits the ground truth.

Shape letters: N samples, K joints.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.io.arrays import describe_arrays, list_arrays, read_array

LAYOUTS = {"N x K x 2": (0, 1, 2), "K x 2 x N": (2, 0, 1)}
"""For each layout, its axes in the order N, K, 2."""


@dataclass(frozen=True, eq=False)
class PredictionFile:
    """The predictions in a file.

    Attributes:
        name: the array's name in the file; "" if the format has no names.
        layout: one of `LAYOUTS`.
        joints_NK2: float64 (x, y), the file's values unchanged: they may be NaN or infinite, and
            0-based or 1-based.
    """

    name: str
    layout: str
    joints_NK2: NDArray[np.float64]


def read_predictions(path: Path, counts: Collection[int], joints: int) -> PredictionFile:
    """Read the one array of a file that fits the ground truth.

    Args:
        path: a .mat, .npz, .npy or .json file.
        counts: the accepted values of N.
        joints: the ground truth's K.

    Raises:
        ValueError: the file cannot be read, or not exactly one of its arrays fits.
    """
    stored = list_arrays(path)
    fitting = [
        (name, layout)
        for name in stored
        for layout in fitting_layouts(stored[name].shape, counts, joints)
    ]
    if len(fitting) != 1:
        accepted = " or ".join(map(str, counts))
        raise ValueError(
            f"{path}: expected one array of N x {joints} x 2 or {joints} x 2 x N, N being "
            f"{accepted}, found {len(fitting) or 'none'} that fit{'' if fitting else 's'} among: "
            f"{describe_arrays(stored)}"
        )
    name, layout = fitting[0]
    return PredictionFile(name, layout, read_array(path, stored[name]).transpose(LAYOUTS[layout]))


def fitting_layouts(shape: tuple[int, ...], counts: Collection[int], joints: int) -> list[str]:
    """The layouts that an array of this shape may have; both if N, K and 2 are all 2."""
    if len(shape) != 3:
        return []
    return [
        layout
        for layout, (n, k, xy) in LAYOUTS.items()
        if shape[n] in counts and shape[k] == joints and shape[xy] == 2
    ]
