"""What a detector is: a function from a photograph to people's boxes."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class People(NamedTuple):
    """The people that a detector finds on one picture.

    Attributes:
        xywh_N4: float64 (N, 4), left and top edge, width, height, in the picture's pixels; edges,
            so that the whole picture is (0, 0, W, H).
        score_N: float64 (N,), 0 to 1.
    """

    xywh_N4: NDArray[np.float64]
    score_N: NDArray[np.float64]


class Detector(Protocol):
    """Finds people.

    Attributes:
        side_px: the longer side of a picture that the network sees, pixels.
    """

    @property
    def side_px(self) -> int: ...

    def to(self, device: torch.device) -> None:
        """Run on this device from now on, if it can."""
        ...

    def __call__(self, image_HW3: NDArray[np.uint8], min_score: float, /) -> People:
        """The people on a picture, uint8 (H, W, 3) RGB, with a score of `min_score` or more."""
        ...
