"""Which views make up the batches of an epoch, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ...data.samples import SampleSet
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.loader import FlipKey, Key


class EpochSampler:
    """Batch sampler: each kept sample once an epoch, in an order set by (seed, epoch) alone.

    In epoch e, sample i comes in view (e + hash(i)) mod `views`, so that each epoch mixes views and
    `views` epochs cover all of them; with `views` = None, in the new view e. With `flip`, keys have
    a third part that flips half of an epoch's samples at random.

    Each process of a group gets its own part of every batch.
    """

    def __init__(
        self,
        samples: SampleSet,
        batch_size: int,
        seed: int,
        views: int | None,
        *,
        flip: bool = False,
        keep_N: NDArray[np.bool_] | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Create a sampler that starts at epoch 0.

        Args:
            batch_size: the largest number of views in a batch, over all processes.
            seed: in 0 <= seed < 2**64.
            views: number of stored views of each sample; None: a new view in every epoch.
            flip: yield `FlipKey`s instead of `Key`s.
            keep_N: bool (N,), the samples to draw; None: all.
            group: the processes that share each batch.
        """
        self.id_hash_N = samples.id_hash_N
        self.keep_N = np.ones(len(samples), bool) if keep_N is None else keep_N
        self.count = int(self.keep_N.sum())
        self.steps = -(-self.count // batch_size)
        self.seed = seed
        self.views = views
        self.flip = flip
        self.group = group
        self.epoch = 0
        self.start = 0

    @property
    def min_batch_size(self) -> int:
        """Number of views in the smallest batch, over all processes."""
        return self.count // self.steps

    def size(self, step: int) -> int:
        """Number of views in the batch of a step, over all processes."""
        # np.array_split makes the first batches one larger.
        return self.min_batch_size + (step < self.count % self.steps)

    def set_epoch(self, epoch: int, start: int) -> None:
        """Choose the epoch to iterate over, starting at its batch number `start`."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key] | list[FlipKey]]:
        words_N = self._random_words()
        order = np.argsort(words_N, kind="stable")
        order = order[self.keep_N[order]]
        # Even sizes: a small last batch would have poor batch statistics.
        for batch in np.array_split(order, self.steps)[self.start :]:
            yield self._keys(words_N, self.group.share(batch.tolist()))

    def keys(self, indices: Sequence[int]) -> list[Key] | list[FlipKey]:
        """The keys of some samples in the current epoch."""
        return self._keys(self._random_words(), indices)

    def _random_words(self) -> NDArray[np.uint64]:
        """Random uint64 (N,), which decide the epoch's order and flips."""
        key = np.array([self.seed, self.epoch], dtype=np.uint64)
        return np.random.Philox(key=key).random_raw(len(self.id_hash_N))

    def _keys(
        self, words_N: NDArray[np.uint64], indices: Sequence[int]
    ) -> list[Key] | list[FlipKey]:
        keys = [(i, self.view(i)) for i in indices]
        if not self.flip:
            return keys
        # The order depends on the words' upper bits, in practice; the lowest one is free.
        return [(index, view, bool(words_N[index] & 1)) for index, view in keys]

    def view(self, index: int) -> int:
        """The view number of a sample in the current epoch."""
        if self.views is None:
            return self.epoch
        return (self.epoch + int(self.id_hash_N[index])) % self.views
