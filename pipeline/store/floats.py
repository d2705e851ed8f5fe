"""Heatmaps of a store as floats, in one call, for notebooks and other people's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .code import decode
from .files import files_at
from .manifest import stored_layout
from .reader import StoreReader


def read_heatmaps(location: str | Path, view: int, samples: Sequence[int]) -> NDArray[np.float32]:
    """What the teacher said of one view of some samples, within the store's `max_error`.

        heatmaps = read_heatmaps("work/lsp/heatmaps.zarr", view=0, samples=range(8))

    Args:
        location: path or fsspec URL of a store.

    Returns:
        float32 (samples, K, H, W), from 0 to about 1 (a teacher's peaks).

    Raises:
        ValueError: there is no store, or it is damaged.
        IndexError: there is no such view or sample.
    """
    files = files_at(location)
    layout = stored_layout(files)
    reader = StoreReader(files, layout)
    cached = [reader.read(view, index) for index in samples]
    if not cached:
        return np.zeros((0, layout.joints, layout.heatmap_px, layout.heatmap_px), np.float32)
    coefficients = torch.from_numpy(np.stack([c.coefficients for c in cached]))
    steps = torch.from_numpy(np.stack([c.steps for c in cached]))
    return decode(coefficients, steps, layout.heatmap_px).numpy()
