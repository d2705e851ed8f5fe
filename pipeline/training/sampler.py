"""What a network is fed: which views in which order, and the loaders that bring them.

Crops travel as uint8, labels as coordinates, the teacher's maps as stored bytes; everything that
makes floats of them happens on the training device (`objective.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...data.samples import SampleSet
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.loader import FlipKey, Key


class EpochSampler:
    """The batches of one epoch: every sample to keep once, in an order that (seed, epoch) decide.

    Each process of a group gets its own part of every batch.

    In epoch e, sample i comes in view (e + hash(i)) mod `views`, so that views spread over an epoch
    and over epochs; with `views` = None in the fresh view e. With `flip`, half of the samples of
    an epoch are to be mirrored.
    """

    def __init__(
        self,
        samples: SampleSet,
        batch_size: int,
        seed: int,
        views: int | None,
        *,
        flip: bool = False,
        keep: NDArray[np.bool_] | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.id_hash_N = samples.id_hash_N
        self.keep = np.ones(len(samples), bool) if keep is None else keep
        self.count = int(self.keep.sum())
        self.steps = -(-self.count // batch_size)
        self.seed = seed
        self.views = views
        self.flip = flip
        self.group = group
        self.epoch = 0
        self.start = 0

    @property
    def min_batch_size(self) -> int:
        """Views in the smallest batch, of all processes together."""
        return self.count // self.steps

    def size(self, step: int) -> int:
        """Views in the batch of a step, of all processes together."""
        # As NumPy's array_split has it.
        return self.min_batch_size + (step < self.count % self.steps)

    def set_epoch(self, epoch: int, start: int) -> None:
        """Choose the epoch to iterate over, from batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key] | list[FlipKey]]:
        words = self._words()
        order = np.argsort(words, kind="stable")
        order = order[self.keep[order]]
        # Split evenly: no batch is so much smaller that its statistics are worse.
        for batch in np.array_split(order, self.steps)[self.start :]:
            yield self._keys(words, self.group.share(batch.tolist()))

    def keys(self, indices: Sequence[int]) -> list[Key] | list[FlipKey]:
        """What some samples come as, in the chosen epoch."""
        return self._keys(self._words(), indices)

    def _words(self) -> NDArray[np.uint64]:
        """Random ones, uint64 (N,), that the epoch's order and mirroring are drawn from."""
        key = np.array([self.seed, self.epoch], dtype=np.uint64)
        return np.random.Philox(key=key).random_raw(len(self.id_hash_N))

    def _keys(
        self, words_N: NDArray[np.uint64], indices: Sequence[int]
    ) -> list[Key] | list[FlipKey]:
        keys = [(i, self.view(i)) for i in indices]
        # The order hangs on the words' upper bits; the lowest one is free.
        return [(*key, bool(words_N[key[0]] & 1)) for key in keys] if self.flip else keys

    def view(self, index: int) -> int:
        """The view that a sample comes in, in the chosen epoch."""
        if self.views is None:
            return self.epoch
        return (self.epoch + int(self.id_hash_N[index])) % self.views
