"""Views with their cached teacher heatmaps."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from ...data.views import View, Views
from ..runtime.loader import FlipKey, Key
from ..store import StoreReader


class CachedView(View):
    """A view with what the teacher said of it, as stored: of the view before it was mirrored."""

    coefficients: np.ndarray  # int8 (K, Y, X, C)
    steps: np.ndarray  # float16 (K,)
    peaks: np.ndarray  # float16 (K,)
    mirrored: bool  # by the student, after the teacher saw it


class DistillationViews(Dataset[CachedView]):
    """Views with their cached teacher heatmaps, by (sample index, view number[, mirrored])."""

    def __init__(self, views: Views, store: StoreReader) -> None:
        self.views = views
        self.store = store

    def __getitem__(self, key: Key | FlipKey) -> CachedView:
        index, number, *flag = key
        mirrored = any(flag)
        view = self.views[index, number]
        cached = self.store.read(view=number, index=index)
        if not np.array_equal(cached.parameters, view["parameters"]):
            raise ValueError(
                f"{self.store.files}: view {number} of {self.views.samples.ids[index]} was cached "
                f"with parameters {cached.parameters}, expected {view['parameters']}: "
                "make the store again with `fpd cache-heatmaps --overwrite`"
            )
        if mirrored:
            view = self.views.mirrored(view)
        return CachedView(
            **view,
            coefficients=cached.coefficients,
            steps=cached.steps,
            peaks=cached.peaks,
            mirrored=mirrored,
        )
