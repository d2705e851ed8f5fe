"""Batches of an epoch: every sample once, in views and an order that two formulas decide."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.pipeline.runtime.distributed import ProcessGroup
from fpd.pipeline.training.sampler import EpochSampler, ShardWindow

SAMPLES = synthetic_samples("train", 23)
MASK = 2**64 - 1


def philox_words(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 by its paper (Salmon et al., SC 2011), with NumPy's counters from 1 on."""
    words: list[int] = []
    for counter in range(1, -(-count // 4) + 1):
        x = [counter, 0, 0, 0]
        k0, k1 = key
        for _ in range(10):
            high0, low0 = divmod(x[0] * 0xD2E7470EE14C6C93, 2**64)
            high1, low1 = divmod(x[2] * 0xCA5A826395121157, 2**64)
            x = [high1 ^ x[1] ^ k0, low1, high0 ^ x[3] ^ k1, low0]
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
        words += x
    return words[:count]


def batches_of(
    batch_size: int = 4,
    seed: int = 0,
    views: int | None = 3,
    epoch: int = 0,
    start: int = 0,
    **options: Any,
) -> list[list[tuple[int, int]]]:
    sampler = EpochSampler(SAMPLES, batch_size, seed, views, **options)
    sampler.set_epoch(epoch, start)
    return list(sampler)


def order(**choices: Any) -> list[int]:
    return [index for batch in batches_of(**choices) for index, _ in batch]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(1, 9),
    st.integers(0, 10**6),
)
def test_every_sample_comes_once_an_epoch(
    batch_size: int, seed: int, views: int | None, epoch: int
) -> None:
    batches = batches_of(batch_size, seed, views, epoch)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(23))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-23 // batch_size)  # no more steps than needed
    sampler = EpochSampler(SAMPLES, batch_size, seed, views)
    assert [sampler.size(step) for step in range(sampler.steps)] == sizes
    assert sampler.min_batch_size == min(sizes)


def test_samples_that_are_not_kept_are_left_out() -> None:
    keep_N = np.arange(23) % 3 > 0
    kept = [index for index in order() if keep_N[index]]
    assert order(keep_N=keep_N) == kept
    assert len(kept) == 15


def test_the_order_is_that_of_philox_words() -> None:
    for seed, epoch in ((0, 0), (7, 0), (0, 7), (2**32 - 1, 129)):
        words = philox_words((seed, epoch), 23)
        expected = sorted(range(23), key=words.__getitem__)
        assert order(seed=seed, epoch=epoch) == expected


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert order(seed=3, epoch=5) == order(seed=3, epoch=5, views=None)
    assert order(seed=3, epoch=5) == order(seed=3, epoch=5, batch_size=7)
    orders = [order(seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(indices) for indices in orders}) == 9
    sampler = EpochSampler(SAMPLES, 4, 0, 3)
    for epoch in (0, 1, 2, 1):
        sampler.set_epoch(epoch, 0)
        assert list(sampler) == list(sampler) == batches_of(epoch=epoch)


def test_resuming_gives_the_rest_of_the_epoch() -> None:
    whole = batches_of(epoch=2)
    assert len(whole) == 6
    for start in range(7):
        assert batches_of(epoch=2, start=start) == whole[start:]
    sampler = EpochSampler(SAMPLES, 4, 0, 3)
    sampler.set_epoch(2, 5)
    assert (sampler.steps, len(sampler)) == (6, 1)


# Views


def hash_of(index: int) -> int:
    digest = hashlib.blake2b(f"figures/train/{index:06d}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@pytest.mark.parametrize("views", [1, 3, 7])
def test_view_numbers_follow_from_epoch_and_sample_id(views: int) -> None:
    for epoch in (0, 1, 5, 100):
        for batch in batches_of(views=views, epoch=epoch):
            for index, view in batch:
                assert view == (epoch + hash_of(index)) % views


def test_all_views_are_used_in_turn() -> None:
    epochs = [
        dict(key for batch in batches_of(views=5, epoch=e) for key in batch) for e in range(5)
    ]
    for index in range(23):
        assert {views[index] for views in epochs} == set(range(5))
    # And they mix within an epoch: the hashes of these 23 samples leave one of the five out.
    assert all(len(set(views.values())) == 4 for views in epochs)


def test_without_stored_views_every_epoch_is_a_new_view() -> None:
    for epoch in (0, 4):
        assert {view for batch in batches_of(views=None, epoch=epoch) for _, view in batch} == {
            epoch
        }


# Flips


def flips(seed: int, epoch: int, batch_size: int = 4) -> dict[int, bool]:
    """Whether each sample of an epoch is flipped."""
    keys = [key for b in batches_of(batch_size, seed, 3, epoch, flip=True) for key in b]
    plain = [key for b in batches_of(batch_size, seed, 3, epoch) for key in b]
    assert [key[:2] for key in keys] == plain
    assert all(type(key[2]) is bool for key in keys)
    return {key[0]: key[2] for key in keys}


def test_the_lowest_bit_of_the_word_decides_the_flip() -> None:
    for seed, epoch in ((0, 0), (7, 3)):
        words = philox_words((seed, epoch), 23)
        assert flips(seed, epoch) == {index: bool(words[index] & 1) for index in range(23)}
    assert flips(3, 5) == flips(3, 5, batch_size=7)


def test_about_half_of_the_samples_are_flipped() -> None:
    epochs = [flips(0, epoch) for epoch in range(200)]
    counts = [sum(flags.values()) for flags in epochs]
    # Binomial: 23 samples, 200 epochs; five standard deviations either way.
    assert abs(np.mean(counts) - 11.5) < 5 * np.sqrt(23 / 4 / 200)
    for index in range(23):
        assert 100 - 36 < sum(flags[index] for flags in epochs) < 100 + 36
    # Flips do not depend on the position in the epoch.
    first_half = sum(list(flags.values())[:11].count(True) for flags in epochs)
    assert abs(first_half - 1100) < 5 * np.sqrt(2200 / 4)


@pytest.mark.parametrize("flip", [False, True])
def test_keys_of_some_samples_are_those_in_the_batches(flip: bool) -> None:
    sampler = EpochSampler(SAMPLES, 5, 3, 2, flip=flip)
    sampler.set_epoch(4, 0)
    expected = {key[0]: key for batch in sampler for key in batch}
    sampler.set_epoch(4, 2)  # wherever the epoch has got to
    assert sampler.keys([7, 0, 11]) == [expected[7], expected[0], expected[11]]


# Within a few shards


SHARD_N = np.repeat(np.arange(5, dtype=np.int32), [5, 5, 3, 5, 5])  # the third one ends a segment


def shards_of(batches: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """(view, shard) of each view of an epoch, in order."""
    return [(view, int(SHARD_N[index])) for batch in batches for index, view in batch]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.none() | st.integers(1, 4),
    st.integers(0, 10**6),
    st.integers(1, 25),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
)
def test_an_epoch_stays_within_a_window_of_shards(
    batch_size: int,
    seed: int,
    views: int | None,
    epoch: int,
    window: int,
    processes: int,
    flip: bool,
) -> None:
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "views": views,
        "epoch": epoch,
        "flip": flip,
    }
    whole = batches_of(**options)
    windowed = batches_of(**options, window=ShardWindow(SHARD_N, window))
    # The same views and flips in batches of the same sizes.
    assert sorted(chain(*windowed)) == sorted(chain(*whole))
    assert [len(batch) for batch in windowed] == [len(batch) for batch in whole]
    # The processes share each batch.
    parts = [
        batches_of(
            **options, window=ShardWindow(SHARD_N, window), group=ProcessGroup(rank, processes)
        )
        for rank in range(processes)
    ]
    shared = [sorted(chain(*step)) for step in zip(*parts, strict=True)]
    assert shared == [sorted(batch) for batch in windowed]
    # Once a shard is left, it is not needed again; meanwhile there are at most `window` of them.
    visits = shards_of([[key[:2] for key in batch] for batch in windowed])
    first = {shard: visits.index(shard) for shard in visits}
    last = {shard: position for position, shard in enumerate(visits)}
    for position in range(len(visits)):
        assert sum(first[s] <= position <= last[s] for s in first) <= window


def test_any_shard_may_come_first() -> None:
    window = ShardWindow(SHARD_N, 1)
    first = [shards_of(batches_of(views=2, epoch=e, window=window))[0] for e in range(100)]
    assert len(set(first)) == 2 * 5


def test_views_are_shuffled_within_a_window() -> None:
    sampler = EpochSampler(SAMPLES, 23, 0, 1, window=ShardWindow(SHARD_N, 1))
    orders = set()
    for epoch in range(20):
        sampler.set_epoch(epoch, 0)
        ((*keys,),) = sampler
        orders.add(tuple(index for index, _ in keys if index < 5))
    assert len(orders) > 15


def test_a_window_of_all_shards_is_the_order_of_the_whole_epoch() -> None:
    for epoch in range(3):
        assert batches_of(epoch=epoch, window=ShardWindow(SHARD_N, 15)) == batches_of(epoch=epoch)


def test_the_windowed_order_depends_on_seed_and_epoch_and_resumes() -> None:
    window = ShardWindow(SHARD_N, 2)
    orders = [
        tuple(order(seed=seed, epoch=epoch, window=window)) for seed in range(3) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 6
    assert order(seed=3, epoch=5, window=window) == order(
        seed=3, epoch=5, batch_size=7, window=window
    )
    whole = batches_of(epoch=2, window=window)
    for start in range(len(whole) + 1):
        assert batches_of(epoch=2, start=start, window=window) == whole[start:]


def test_the_windowed_order_is_that_of_philox_words() -> None:
    found = order(seed=1, epoch=2, views=2, window=ShardWindow(SHARD_N, 2))
    words = philox_words((1, 2), 23)
    groups = sorted({(hash_of(i) % 2, int(SHARD_N[i])) for i in range(23)})
    word_of = dict(zip(groups, group_words((1, 2), len(groups)), strict=True))
    place = {group: rank for rank, group in enumerate(sorted(groups, key=word_of.__getitem__))}
    windows = -(-len(groups) // 2)
    expected = sorted(
        range(23),
        key=lambda i: (
            place[hash_of(i) % 2, int(SHARD_N[i])] * windows // len(groups),
            words[i],
        ),
    )
    assert found == expected


def group_words(key: tuple[int, int], count: int) -> list[int]:
    """As `philox_words`, with counters from 2^255 + 1 on."""
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=1 << 255)
    return [int(word) for word in generator.random_raw(count)]


def test_only_kept_samples_are_drawn_from_a_window() -> None:
    keep_N = np.arange(23) % 3 > 0
    window = ShardWindow(SHARD_N, 2)
    indices = order(keep_N=keep_N, window=window)
    assert sorted(indices) == [index for index in range(23) if keep_N[index]]
    assert order(keep_N=np.zeros(23, bool) | (np.arange(23) == 7), window=window) == [7]
