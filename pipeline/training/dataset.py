"""What a network is trained on: sample sets, and their views with cached teacher heatmaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ...data.samples import SampleSet
from ...data.views import View, Views
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.loader import FlipKey, Key
from ..store import StoreReader
from .sampler import EpochSampler, ShardWindow


@dataclass(frozen=True)
class TrainingData:
    """The samples of a run and the views that they come in.

    Attributes:
        samples: the training samples, N of them.
        validation: the samples to score after every epoch; may be empty.
        dataset: map-style data set over `samples`, by the keys that `EpochSampler` draws.
        views: number of stored views of each sample; None: a new view in every epoch.
        flip: flip half of the views of every epoch; the keys say which.
        keep_N: bool (N,), the samples to train on; None: all.
        window: mix the views of a few shards at a time; None: of the whole epoch.
        inputs: digests of everything above, for the run's identity.
    """

    samples: SampleSet
    validation: SampleSet
    dataset: Any
    views: int | None
    inputs: dict[str, Any]
    flip: bool = False
    keep_N: NDArray[np.bool_] | None = None
    window: ShardWindow | None = None

    def sampler(
        self, batch_size: int, seed: int, group: ProcessGroup = SINGLE_PROCESS
    ) -> EpochSampler:
        """The batches of its views; arguments as of `EpochSampler`."""
        return EpochSampler(
            self.samples,
            batch_size=batch_size,
            seed=seed,
            views=self.views,
            flip=self.flip,
            keep_N=self.keep_N,
            window=self.window,
            group=group,
        )


class LabeledViews(Dataset[View]):
    """Views with their labels, by (sample index, view number[, flip])."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __getitem__(self, key: Key | FlipKey) -> View:
        """Read a view, and flip it if the key says so."""
        index, number, *flip = key
        view = self.views[index, number]
        return self.views.flipped(view) if any(flip) else view


class CachedView(View):
    """A view with the teacher's cached heatmaps, which are those of the unflipped view.

    The heatmaps travel compressed, as stored; the training device decompresses and flips them.
    """

    coefficients: np.ndarray  # int8 (K, Y, X, C)
    steps: np.ndarray  # float16 (K,)
    peaks: np.ndarray  # float16 (K,)
    flipped: bool  # whether crop and joints were flipped after the teacher ran


class DistillationViews(Dataset[CachedView]):
    """Views with their cached teacher heatmaps, by (sample index, view number[, flip])."""

    def __init__(self, views: Views, store: StoreReader) -> None:
        self.views = views
        self.store = store

    def __getitem__(self, key: Key | FlipKey) -> CachedView:
        """Read a view and its heatmaps.

        Raises:
            ValueError: the heatmaps were cached for another augmentation of the sample.
        """
        index, number, *flip = key
        flipped = any(flip)
        view = self.views[index, number]
        cached = self.store.read(view=number, index=index)
        if not np.array_equal(cached.parameters, view["parameters"]):
            raise ValueError(
                f"{self.store.storage}: view {number} of {self.views.samples.ids[index]} was "
                f"cached with parameters {cached.parameters}, expected {view['parameters']}; "
                f"repair the store with `fpd verify-cache -w {self.store.work} --deep --repair`"
            )
        if flipped:
            view = self.views.flipped(view)
        return CachedView(
            **view,
            coefficients=cached.coefficients,
            steps=cached.steps,
            peaks=cached.peaks,
            flipped=flipped,
        )
