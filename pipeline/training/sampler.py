"""Which views make up the batches of an epoch, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...data.samples import SampleSet
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.loader import FlipKey, Key


@dataclass(frozen=True)
class ShardWindow:
    """An order that stays within a few shards of the store at a time.

    A shard holds one view number of some samples. The shards that an epoch needs are drawn in
    random order, `shards` at a time (or fewer, so that windows have even sizes), and the views
    within such a window are shuffled.

    Attributes:
        shard_N: for each sample, the number of the shard that has its views, the same in every view
            number; int32 (N,), from 0 on.
        shards: number of shards whose views are mixed, at least 1.
    """

    shard_N: NDArray[np.int32]
    shards: int


class EpochSampler:
    """Batch sampler: each kept sample once an epoch, in an order set by (seed, epoch) and `window`.

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
        window: ShardWindow | None = None,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Create a sampler that starts at epoch 0.

        Args:
            batch_size: the largest number of views in a batch, over all processes.
            seed: in 0 <= seed < 2**64.
            views: number of stored views of each sample; None: a new view in every epoch.
            flip: yield `FlipKey`s instead of `Key`s.
            keep_N: bool (N,), the samples to draw; None: all.
            window: mix the views of a few shards at a time; None: of the whole epoch.
            group: the processes that share each batch.
        """
        self.id_hash_N = samples.id_hash_N
        self.keep_N = np.ones(len(samples), bool) if keep_N is None else keep_N
        self.count = int(self.keep_N.sum())
        self.steps = -(-self.count // batch_size)
        self.seed = seed
        self.views = views
        self.flip = flip
        self.window = window
        self.group = group
        self.epoch = 0
        self.start = 0

    @property
    def min_batch_size(self) -> int:
        """Number of views in the smallest batch, over all processes."""
        return self.count // self.steps

    def size(self, step: int) -> int:
        """Number of views in the batch of a step, over all processes."""
        # Even sizes: a small last batch would have poor batch statistics.
        return self.min_batch_size + (step < self.count % self.steps)

    def set_epoch(self, epoch: int, start: int) -> None:
        """Choose the epoch to iterate over, starting at its batch number `start`."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[Key] | list[FlipKey]]:
        words_N = self._random_words()
        order = self._order(words_N)
        end = self.start * self.min_batch_size + min(self.start, self.count % self.steps)
        for step in range(self.start, self.steps):
            start, end = end, end + self.size(step)
            yield self._keys(words_N, self.group.share(order[start:end].tolist()))

    def keys(self, indices: Sequence[int]) -> list[Key] | list[FlipKey]:
        """The keys of some samples in the current epoch."""
        return self._keys(self._random_words(), indices)

    def _order(self, words_N: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The indices of the kept samples in the epoch's order, int64 (count,)."""
        order = np.argsort(words_N, kind="stable")
        order = order[self.keep_N[order]]
        if self.window is not None:
            order = order[np.argsort(self._windows(order), kind="stable")]
        return np.asarray(order)

    def _windows(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """The number of the window that has the view of each of some samples, int32 (M,).

        Args:
            indices: of all samples of the epoch, M of them.
        """
        assert self.window is not None
        # Numbers shards through all view numbers.
        shard_M = self.window.shard_N[indices]
        shard_M += self._view_numbers(indices) * (int(shard_M.max(initial=0)) + 1)
        used = np.flatnonzero(np.bincount(shard_M))
        key = np.array([self.seed, self.epoch], dtype=np.uint64)
        # The second half of the counter's range; the words of the samples are in the first.
        words = np.random.Philox(key=key, counter=1 << 255).random_raw(len(used))
        window_count = -(-len(used) // self.window.shards)
        window_of_shard = np.empty(used[-1] + 1, np.int32)
        drawn = used[np.argsort(words, kind="stable")]
        window_of_shard[drawn] = np.arange(len(used)) * window_count // len(used)
        return window_of_shard[shard_M]

    def _random_words(self) -> NDArray[np.uint64]:
        """Random uint64 (N,), which decide the epoch's order and flips."""
        key = np.array([self.seed, self.epoch], dtype=np.uint64)
        return np.random.Philox(key=key).random_raw(len(self.id_hash_N))

    def _view_numbers(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """As `view`, of many samples; 0 where every epoch has a new view."""
        if self.views is None:
            return np.zeros(len(indices), np.int32)
        views = np.uint64(self.views)
        # Reduced first: the sum of epoch and hash could exceed 64 bits.
        number = (self.id_hash_N[indices] % views + np.uint64(self.epoch % self.views)) % views
        return number.astype(np.int32)

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
