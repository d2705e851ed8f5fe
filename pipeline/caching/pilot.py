"""A pilot run: measures bytes and seconds of a few dozen views, in memory.

The views pass through the teacher, the encoder and the codecs with the recipe's settings. Their
sizes are measured with and without crops, and the time to load them from photographs and from
stored crops, whichever of them the recipe's store has.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from ...data.io.jpeg import encode_jpeg
from ...data.samples import SampleSet
from ..config.recipe import Recipe
from ..models.predictor import HeatmapPredictor
from ..runtime.device import loader_workers
from ..runtime.loader import Key
from ..store import Layout
from ..store.canaries import Canary
from ..store.coverage import sealed
from ..store.reader import CRC32C_BYTES, INDEX_ENTRY_BYTES
from ..store.splits import sample_columns
from ..store.writer import Column, Shard, encode_shard
from .encode import Columns, encode_batches, make_shard, summarize_errors, take_canaries
from .inputs import StoreInputs
from .loading import Loading, measure_loading

TIMED_VIEWS = 48


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk.

    Attributes:
        view: of a view of a sample, in all arrays.
        padding: of a row of padding, in all arrays.
        receipt: of a shard's receipt.
    """

    view: float
    padding: float
    receipt: float


class SplitSizes(NamedTuple):
    """Bytes on disk of samples in a group of a portable store; a view is a sample there."""

    with_crops: Sizes
    without_crops: Sizes

    def of(self, layout: Layout) -> Sizes:
        """The sizes in a group of this layout."""
        return self.with_crops if layout.crop_px else self.without_crops


@dataclass(frozen=True)
class Pilot:
    """The measurements of a pilot run. Seconds are per view.

    Attributes:
        views: number of views measured.
        sizes: in the recipe's store.
        other_sizes: of the same views with crops if the recipe's store has none, and without
            if it has them.
        split_sizes: of samples in the groups of a portable store, with and without crops.
        loading: the time that a student's loader takes.
        spread_bytes: standard deviation of a view's size.
        encoding_error: as in a shard's receipt.
        read_s: to read and crop, in one process.
        teacher_s: the teacher's passes.
        encode_s, compress_s: to encode the heatmaps on the teacher's device, and to compress them.
        workers: number of loader processes; 0: views are read between the teacher's passes.
        on_cpu: whether the teacher runs on the CPU, and competes with compression for its cores.
    """

    views: int
    sizes: Sizes
    other_sizes: Sizes
    split_sizes: SplitSizes
    loading: Loading
    spread_bytes: float
    encoding_error: dict[str, float]
    read_s: float
    teacher_s: float
    encode_s: float
    compress_s: float
    workers: int
    on_cpu: bool

    @property
    def cache_s(self) -> float:
        """Seconds per view of caching, in which the slowest of the parallel parts decides.

        Loader processes run in parallel to the teacher; so does compression if that is on a GPU.
        """
        device_s = self.teacher_s + self.encode_s + (self.compress_s if self.on_cpu else 0)
        if not self.workers:
            return max(self.read_s + device_s, self.compress_s)
        return max(self.read_s / self.workers, device_s, self.compress_s)


def run_pilot(inputs: StoreInputs, layout: Layout) -> Pilot:
    """Run teacher, encoder and compression on views spread over the samples, in memory.

    The first batch is a warm-up, and is not measured.
    """
    recipe, samples, device = inputs.recipe, inputs.samples, inputs.device
    batches = pilot_keys(len(samples), recipe.store.batch_size)
    stopwatch = Stopwatch(device)
    encode_all(inputs, batches[:1], Stopwatch(device))
    joined = encode_all(inputs, batches[1:], stopwatch)
    sizes, view_bytes = measure_sizes(joined, layout, stopwatch)
    crop_px = recipe.geometry.crop_px
    other_layout = replace(layout, crop_px=0 if layout.crop_px else crop_px)
    other_sizes, _ = measure_sizes(joined, other_layout, Stopwatch(device))
    keys = [key for batch in batches[1:] for key in batch]
    count = len(joined["peaks"])
    seconds = {name: total / count for name, total in stopwatch.seconds.items()}
    return Pilot(
        views=count,
        sizes=sizes,
        other_sizes=other_sizes,
        split_sizes=measure_split_sizes(joined, recipe, samples, keys, layout),
        loading=measure_loading(recipe, samples, keys, joined, replace(layout, crop_px=crop_px)),
        spread_bytes=float(np.std(view_bytes)),
        encoding_error=summarize_errors(joined["encoding_error"], joined["peaks"]),
        read_s=seconds["read"],
        teacher_s=seconds["teacher"],
        encode_s=seconds["encode"] - seconds["teacher"],
        compress_s=seconds["compress"],
        workers=loader_workers(recipe.loader.workers, device),
        on_cpu=device.type == "cpu",
    )


def pilot_keys(samples: int, batch_size: int) -> list[list[Key]]:
    """Batches of views spread evenly over the samples: one to warm up, the others to measure.

    All view numbers differ, so that no view comes twice, however few samples there are.
    """
    batches = 1 + math.ceil(TIMED_VIEWS / batch_size)
    keys = [(i * samples // (batches * batch_size), i) for i in range(batches * batch_size)]
    return [keys[start::batches] for start in range(batches)]


class Stopwatch:
    """Adds up seconds by name, synchronizing a GPU: `with stopwatch("read"): ...`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def encode_all(
    inputs: StoreInputs, batches: Sequence[Sequence[Key]], stopwatch: Stopwatch
) -> Columns:
    """Encode batches of views and join them; with crops, also if the store is to have none.

    The stopwatch adds up "read", "encode" and, which is part of that, "teacher".
    """
    timed_predictor = partial(_predict_timed, inputs.predictor, stopwatch)
    views, settings = inputs.views, inputs.recipe.store
    parts: list[Columns] = []
    for keys in batches:
        with stopwatch("read"):
            batch = default_collate([views[key] for key in keys])
        if "jpeg" not in batch:
            crops = batch["crop"].numpy()
            batch["jpeg"] = [encode_jpeg(crop, settings.crop_quality) for crop in crops]
        with stopwatch("encode"):
            parts += encode_batches(timed_predictor, [batch], settings.max_error)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _predict_timed(predictor: HeatmapPredictor, stopwatch: Stopwatch, *inputs: Tensor) -> Tensor:
    with stopwatch("teacher"):
        return predictor(*inputs)


def measure_sizes(
    joined: Columns, layout: Layout, stopwatch: Stopwatch
) -> tuple[Sizes, NDArray[np.int64]]:
    """Compress shards in memory, as long as there are rows for whole ones; "compress" is timed.

    Args:
        layout: of the store; if it has no crops, those in `joined` are left out.

    Returns:
        The sizes; and int64 (N,), the bytes of each view's heatmaps.
    """
    rows = min(layout.shard_samples, len(joined["peaks"]))
    layout = replace(layout, shard_samples=rows)
    total_bytes, receipt_bytes, view_bytes = 0, 0, []
    for start in range(0, len(joined["peaks"]) - rows + 1, rows):
        part = {name: values[start : start + rows] for name, values in joined.items()}
        with stopwatch("compress"):
            canaries = take_canaries(part, 0, rows)
            shard = make_shard(0, 0, [part], canaries)
            columns = _encoded(shard.columns(), layout)
        total_bytes += sum(map(len, columns.values()))
        receipt_bytes += _receipt_bytes(shard, layout)
        view_bytes.append(_chunk_bytes(columns["heatmaps"], rows))
    shards = len(view_bytes)
    sizes = Sizes(
        view=total_bytes / (shards * rows),
        padding=_padding_bytes(shard.columns(), layout),
        receipt=receipt_bytes / shards,
    )
    return sizes, np.concatenate(view_bytes)


def measure_split_sizes(
    joined: Columns, recipe: Recipe, samples: SampleSet, keys: Sequence[Key], layout: Layout
) -> SplitSizes:
    """Compress the labels of the views' samples, with their crops, as a split's group has them.

    Args:
        keys: of the views in `joined`.
        layout: of the store.
    """
    indices = list(dict.fromkeys(index for index, _ in keys))[: layout.shard_samples]
    rows = len(indices)
    columns = sample_columns(
        samples.take(indices),
        range(rows),
        joined["jpegs"][:rows].tolist(),
        source_names=recipe.store.source_names,
    )
    layout = replace(layout, shard_samples=rows, is_split=True)
    return SplitSizes(
        _split_sizes(columns, replace(layout, crop_px=recipe.geometry.crop_px)),
        _split_sizes(columns, replace(layout, crop_px=0)),
    )


def _split_sizes(columns: Mapping[str, Column], layout: Layout) -> Sizes:
    rows = layout.shard_samples
    total_bytes = sum(map(len, _encoded(columns, layout).values()))
    receipt = _sealed_receipt(layout, canaries=[], encoding_error={})
    return Sizes(total_bytes / rows, _padding_bytes(columns, layout), len(receipt))


def _padding_bytes(columns: Mapping[str, Column], layout: Layout) -> float:
    """Bytes of a row of padding, in all arrays."""
    padding = _encoded({name: values[:0] for name, values in columns.items()}, layout)
    return sum(map(len, padding.values())) / layout.shard_samples


def _encoded(columns: Mapping[str, Column], layout: Layout) -> dict[str, bytes]:
    """The files of a layout's arrays."""
    return {name: encode_shard(name, columns[name], layout) for name in layout.arrays}


def _receipt_bytes(shard: Shard, layout: Layout) -> int:
    return len(
        _sealed_receipt(layout, canaries=shard.canaries, encoding_error=shard.encoding_error)
    )


def _sealed_receipt(
    layout: Layout, *, canaries: Sequence[Canary], encoding_error: Mapping[str, float]
) -> bytes:
    """A receipt as long as that of a shard with these entries."""
    return sealed(
        {
            "arrays": {name: {"bytes": 100_000, "blake2b": "0" * 32} for name in layout.arrays},
            "canaries": list(canaries),
            "encoding_error": dict(encoding_error),
            "samples": layout.shard_samples,
            "shard": 0,
            "view": 0,
        }
    )


def _chunk_bytes(shard: bytes, rows: int) -> NDArray[np.int64]:
    """Size of each inner chunk: int64 (rows,), from the index at the end of a shard."""
    index = shard[-(rows * INDEX_ENTRY_BYTES + CRC32C_BYTES) : -CRC32C_BYTES]
    return np.frombuffer(index, "<u8").reshape(rows, 2)[:, 1].astype(np.int64)
