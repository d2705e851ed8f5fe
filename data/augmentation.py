"""Views: from (seed, sample, view number) to augmentation parameters to one affine map.

A view's parameters are a pure function of the store's seed, the augmentation settings, the
sample's id and the view number. They do not depend on a position in a list, a rank or a generator's
state. So any view can be reproduced anywhere, in any order, and new views never change existing
ones.

The random words are those of the counter-based generator Philox4x64-10 (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011), with

    key     = (seed, 64-bit hash of the augmentation settings)
    counter = (operation + 1, view, 64-bit hash of the sample id, 0)

given as words 0 to 3; the first output word becomes a float by `(word >> 11) * 2**-53`, in [0, 1).
(NumPy's `Philox` increments counter word 0 before the first block, hence the + 1.)
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .sections import Augmentation

PARAMETERS = ("scale", "rotation_deg", "flip")
"""Names of a view's three float64 parameters: the factor on the box side, the rotation in degrees
(positive turns the image's content clockwise on screen), and 1.0 for a flipped view, else 0.0."""

UNAUGMENTED: NDArray[np.float64] = np.array([1.0, 0.0, 0.0])
"""The parameters of the crop without augmentation, which evaluation uses."""


WORDS_PER_BLOCK = 4
"""64-bit words that Philox4x64 generates per counter value."""


class Operation(IntEnum):
    """The counter word of each random operation. Append new ones; never renumber."""

    SCALE = 0
    ROTATION = 1
    FLIP = 2


def draw_parameters(
    augmentation: Augmentation, seed: int, id_hash: int, view: int
) -> NDArray[np.float64]:
    """The `PARAMETERS` of one view.

    Args:
        seed: the store's seed, 0 <= seed < 2**64.
        id_hash: 64-bit hash of the sample's id (`samples.id_hash`).
        view: view number, >= 0.

    Returns:
        float64 (3,).
    """
    key = (seed, augmentation.digest)
    low, high = augmentation.scale
    max_deg = augmentation.rotation_deg
    scale, rotation, flip = _uniforms(key, id_hash, view)
    return np.array(
        [
            low + (high - low) * scale,
            max_deg * (2 * rotation - 1),
            float(augmentation.flip and flip < 0.5),
        ]
    )


def _uniforms(key: tuple[int, int], id_hash: int, view: int) -> list[float]:
    """A number in [0, 1) for each `Operation`, in order."""
    counter = np.array([0, view, id_hash, 0], dtype=np.uint64)
    philox = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter)
    # Constructing a generator is the expensive part, so one generator counts through the blocks of
    # all operations.
    blocks = philox.random_raw(WORDS_PER_BLOCK * len(Operation)).reshape(-1, WORDS_PER_BLOCK)
    return [(word >> 11) * 2.0**-53 for word in blocks[:, 0].tolist()]


def affine_23(
    center_2: NDArray[np.float64],
    side_px: float,
    parameters_3: NDArray[np.float64],
    crop_px: int,
) -> NDArray[np.float64]:
    """The affine map from original-image pixels to crop pixels.

    Args:
        center_2: (x, y) of the person's box center in the image, pixels.
        side_px: side of the person's square box, image pixels.
        parameters_3: see `PARAMETERS`.
        crop_px: side of the square crop, pixels.

    Returns:
        float64 (2, 3): crop = affine @ (x, y, 1). The box, scaled, rotated about its center and
        flipped, fills the crop; pixel centers have integer coordinates on both grids.
    """
    scale, rotation_deg, flip = parameters_3
    zoom = crop_px / (side_px * scale)
    angle = np.deg2rad(rotation_deg)
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flip:
        linear[0] = -linear[0]
    offset = (crop_px - 1) / 2 - linear @ np.asarray(center_2)
    return np.column_stack([linear, offset])


def transform(affine: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply an affine map (..., 2, 3) to points (..., K, 2)."""
    linear, offset = affine[..., :2], affine[..., 2]
    return points @ np.swapaxes(linear, -1, -2) + offset[..., None, :]


def invert(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of affine maps (..., 2, 3), as (..., 2, 3)."""
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)
