"""Fills the groups of samples of a portable store: labels, and crops without augmentation.

This process does it, also where a cluster makes the heatmaps: there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat

import torch
from tqdm import tqdm

from ...data.datasets import load
from ...data.samples import SampleSet
from ...data.sections import Augmentation
from ...data.views import CENTER_CROP, Views
from ..config.recipe import Recipe
from ..runtime.interrupt import Interrupted, stop_requested
from ..runtime.loader import in_batches, make_loader
from ..store import Layout, Storage, coverage
from ..store.schema import SPLITS
from ..store.splits import open_split, sample_columns
from ..store.storage import StoragePart
from ..store.writer import write_columns
from .fill import STOPPED


def samples_by_split(recipe: Recipe, samples: SampleSet) -> dict[str, SampleSet]:
    """The samples of every split that the recipe's portable store has.

    Args:
        samples: the training samples.

    Raises:
        ValueError: the data set does not have one of the splits.
    """
    loaded = {split: _load(recipe, split) for split in SPLITS if split != "train"}
    return {"train": samples} | {name: held for name, held in loaded.items() if held is not None}


def fill_splits(
    store: Storage, recipe: Recipe, splits: Mapping[str, SampleSet], work_options: str
) -> None:
    """Write the missing shards of every split of a portable store.

    Args:
        splits: their samples (`samples_by_split`).
        work_options: what follows `-w` in the commands of messages.

    Raises:
        Interrupted: after a signal; finished shards are kept.
    """
    for split, samples in splits.items():
        part, layout = open_split(store, split, samples, work_options)
        _fill_split(part, layout, recipe, samples)


def _fill_split(part: StoragePart, layout: Layout, recipe: Recipe, samples: SampleSet) -> None:
    tasks = coverage(part, layout).missing
    crops = _read_jpegs(recipe, samples, layout, tasks) if layout.crop_px else repeat(None)
    total = sum(len(layout.rows(shard)) for _, shard in tasks)
    with (
        stop_requested() as stop,
        tqdm(total=total, desc=part.folder, unit="sample", leave=False, disable=None) as bar,
    ):
        for (view, shard), jpegs in zip(tasks, crops, strict=False):
            columns = sample_columns(
                samples, layout.rows(shard), jpegs, source_names=recipe.store.source_names
            )
            write_columns(part, layout, view, shard, columns)
            bar.update(len(layout.rows(shard)))
            if stop.is_set():
                raise Interrupted(STOPPED, stop.signal)


def _load(recipe: Recipe, split: str) -> SampleSet | None:
    """The samples of "validation" or "test"; None: the store is to have none, or there are none."""
    # Without labels, nothing can be scored.
    if split not in recipe.store.splits or recipe.data.reader == "folder":
        return None
    if split == "validation":
        held_out = load(recipe.data, "validation")
        return held_out if len(held_out) else None
    try:
        return load(recipe.data, "test")
    except ValueError as error:
        raise ValueError(
            f"{error}; a portable store without test samples: --set 'store.splits=[\"validation\"]'"
        ) from None


def _read_jpegs(
    recipe: Recipe, samples: SampleSet, layout: Layout, tasks: list[tuple[int, int]]
) -> Iterator[list[bytes]]:
    """The crops of each shard, as JPEG."""
    views = Views(
        samples, recipe.geometry, Augmentation(), 0, crop_quality=recipe.store.crop_quality
    )
    shards = [layout.rows(shard) for _, shard in tasks]
    batches = [batch for rows in shards for batch in in_batches(rows, recipe.store.batch_size)]
    loader = iter(
        make_loader(
            views,
            [[(index, CENTER_CROP) for index in batch] for batch in batches],
            torch.device("cpu"),
            workers=recipe.loader.workers,
            prefetch=recipe.loader.prefetch,
        )
    )
    for rows in shards:
        jpegs: list[bytes] = []
        while len(jpegs) < len(rows):
            jpegs += next(loader)["jpeg"]
        yield jpegs
