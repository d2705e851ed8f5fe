"""What a network is fed: which views in which order, and the loaders that bring them.

Crops travel as uint8, labels as coordinates, the teacher's maps as stored bytes; everything that
makes floats of them happens on the training device (`objective.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ...data.samples import SampleSet
from ...data.views import View, Views
from ..device import loader_workers
from ..recipe import Recipe
from ..sections import Loader
from ..stopping import outlive_first_signal
from ..store import StoreReader
from .group import ALONE, Group

T = TypeVar("T")

Key = tuple[int, int]
"""(sample index, view number)."""

MirrorKey = tuple[int, int, bool]
"""(sample index, view number, whether to mirror it)."""

# Store seeds fill the lower half of the generator's seeds, fresh training views the upper: the
# teacher is not asked for heatmaps of the very views it was trained on.
FRESH_VIEWS = 1 << 63


class EpochBatches:
    """The batches of one epoch: every sample to keep once, in an order that (seed, epoch) decide.

    Each process of a group gets its own part of every batch.

    In epoch e, sample i comes in view (e + hash(i)) mod `views`, so that views spread over an epoch
    and over epochs; with `views` = None in the fresh view e. With `mirror`, half of the samples of
    an epoch are to be mirrored.
    """

    def __init__(
        self,
        samples: SampleSet,
        batch: int,
        seed: int,
        views: int | None,
        *,
        mirror: bool = False,
        keep: NDArray[np.bool_] | None = None,
        group: Group = ALONE,
    ) -> None:
        self.id_hash_N = samples.id_hash_N
        self.keep = np.ones(len(samples), bool) if keep is None else keep
        self.count = int(self.keep.sum())
        self.steps = -(-self.count // batch)
        self.seed = seed
        self.views = views
        self.mirror = mirror
        self.group = group
        self.epoch = 0
        self.start = 0

    @property
    def smallest(self) -> int:
        """Views in the smallest batch, of all processes together."""
        return self.count // self.steps

    def size(self, step: int) -> int:
        """Views in the batch of a step, of all processes together."""
        # As NumPy's array_split has it.
        return self.smallest + (step < self.count % self.steps)

    def set(self, epoch: int, start: int) -> None:
        """Choose the epoch to iterate over, from batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key] | list[MirrorKey]]:
        words = self._words()
        order = np.argsort(words, kind="stable")
        order = order[self.keep[order]]
        # Split evenly: no batch is so much smaller that its statistics are worse.
        for batch in np.array_split(order, self.steps)[self.start :]:
            yield self._keys(words, self.group.share(batch.tolist()))

    def keys(self, indices: Sequence[int]) -> list[Key] | list[MirrorKey]:
        """What some samples come as, in the chosen epoch."""
        return self._keys(self._words(), indices)

    def _words(self) -> NDArray[np.uint64]:
        """Random ones, uint64 (N,), that the epoch's order and mirroring are drawn from."""
        key = np.array([self.seed, self.epoch], dtype=np.uint64)
        return np.random.Philox(key=key).random_raw(len(self.id_hash_N))

    def _keys(
        self, words_N: NDArray[np.uint64], indices: Sequence[int]
    ) -> list[Key] | list[MirrorKey]:
        keys = [(i, self.view(i)) for i in indices]
        # The order hangs on the words' upper bits; the lowest one is free.
        return [(*key, bool(words_N[key[0]] & 1)) for key in keys] if self.mirror else keys

    def view(self, index: int) -> int:
        """The view that a sample comes in, in the chosen epoch."""
        if self.views is None:
            return self.epoch
        return (self.epoch + int(self.id_hash_N[index])) % self.views


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

    def __getitem__(self, key: Key | MirrorKey) -> CachedView:
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


def fresh_views(recipe: Recipe, samples: SampleSet, seed: int) -> Views:
    """New augmentation every epoch: for teachers, and for students without a store."""
    return Views(samples, recipe.geometry, recipe.augmentation, FRESH_VIEWS + seed)


def stored_views(recipe: Recipe, samples: SampleSet) -> Views:
    """The views that the store's seed decides."""
    return Views(samples, recipe.geometry, recipe.stored_augmentation, recipe.store.seed)


def make_loader(
    dataset: Any, batches: Any, loader: Loader, device: torch.device
) -> DataLoader[Any]:
    """A PyTorch loader over batches of keys, which shuts down quietly when asked to stop."""
    workers = loader_workers(loader, device)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        prefetch_factor=loader.prefetch if workers else None,
        worker_init_fn=_init_worker,
    )


def in_batches(keys: Sequence[T], batch: int) -> list[Sequence[T]]:
    """Keys, or indices, in batches, in order."""
    return [keys[i : i + batch] for i in range(0, len(keys), batch)]


def _init_worker(_: int) -> None:
    outlive_first_signal()
    cv2.setNumThreads(0)
