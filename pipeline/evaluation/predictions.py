"""Predictions of any tool, read from a file: the one array whose shape fits the ground truth.

Shape letters: N samples, K joints.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.io.arrays import describe_arrays, list_arrays, read_array, read_json_names
from ...data.joint_names import joint_order

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
        has_names: whether the file names its joints, which were matched by name.
    """

    name: str
    layout: str
    joints_NK2: NDArray[np.float64]
    has_names: bool


def read_predictions(
    path: Path, counts: Collection[int], joint_names: Sequence[str]
) -> PredictionFile:
    """Read the one array of a file that fits the ground truth.

    The joints of a .json file with "joint_names", as `fpd evaluate` writes it, are matched by
    name; those of other files are taken to be in the ground truth's order.

    Args:
        path: a .mat, .npz, .npy or .json file.
        counts: the accepted values of N.
        joint_names: the ground truth's K joints.

    Raises:
        ValueError: the file cannot be read, not exactly one of its arrays fits, or it names other
            joints.
    """
    stored, joints = list_arrays(path), len(joint_names)
    stored_names = read_json_names(path, "joint_names") if path.suffix.lower() == ".json" else None
    order = tuple(range(joints))
    if stored_names is not None:
        order = joint_order(joint_names, stored_names, "the ground truth", str(path))
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
    joints_NK2 = read_array(path, stored[name]).transpose(LAYOUTS[layout])[:, list(order)]
    return PredictionFile(name, layout, joints_NK2, has_names=stored_names is not None)


def fitting_layouts(shape: tuple[int, ...], counts: Collection[int], joints: int) -> list[str]:
    """The layouts that an array of this shape may have; both if N, K and 2 are all 2."""
    if len(shape) != 3:
        return []
    return [
        layout
        for layout, (n, k, xy) in LAYOUTS.items()
        if shape[n] in counts and shape[k] == joints and shape[xy] == 2
    ]
