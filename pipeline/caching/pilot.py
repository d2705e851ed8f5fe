"""A pilot: what a few dozen views take, in bytes and seconds, with nothing written.

The views go through the real teacher, the real encoder and the real codecs at the recipe's
settings, into memory.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from ...data.samples import SampleSet
from ..config.recipe import Recipe, stored_views
from ..models.predictor import HeatmapPredictor
from ..runtime.device import loader_workers
from ..runtime.loader import Key
from ..store import Layout
from ..store.coverage import sealed
from ..store.reader import CRC32C_BYTES
from ..store.schema import ARRAYS
from ..store.writer import Shard, encode_shard
from .encode import Columns, encode_batches, make_shard, summary, take_canaries

TIMED_VIEWS = 48

INDEX_BYTES = 16
"""Of a shard's index, a view: offset and size."""


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk: of a view in all arrays, of a row of padding, of a shard's receipt."""

    view: float
    blank: float
    receipt: float


@dataclass(frozen=True)
class Pilot:
    """What a few dozen views took. Seconds are a view's.

    Attributes:
        spread_bytes: standard deviation of a view's size.
        measured: errors, as in a shard's receipt.
        read_s: reading and cutting a crop, in one process.
        teacher_s: the teacher's passes over it.
        encode_s, compress_s: coding its answer where the teacher runs, and compressing it.
        workers: reading processes; 0: the reading is done between the teacher's passes.
        on_cpu: the teacher runs there, and compression takes its cores.
    """

    views: int
    sizes: Sizes
    spread_bytes: float
    measured: dict[str, float]
    read_s: float
    teacher_s: float
    encode_s: float
    compress_s: float
    workers: int
    on_cpu: bool

    @property
    def cache_s(self) -> float:
        """Seconds a view: readers, and beside a GPU the compressing thread, do not hold it up."""
        taught = self.teacher_s + self.encode_s + (self.compress_s if self.on_cpu else 0)
        if not self.workers:
            return max(self.read_s + taught, self.compress_s)
        return max(self.read_s / self.workers, taught, self.compress_s)


def run_pilot(
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    layout: Layout,
    device: torch.device,
) -> Pilot:
    """Send views spread over the samples through teacher, encoder and compression, in memory.

    The first batch is for warming up, and is not pluralize.
    """
    batches = pilot_keys(len(samples), recipe.store.batch_size)
    watch = Stopwatch(device)
    encode_all(predictor, recipe, samples, device, batches[:1], Stopwatch(device))
    joined = encode_all(predictor, recipe, samples, device, batches[1:], watch)
    sizes, view_bytes = measure_sizes(joined, layout, watch)
    count = len(joined["peaks"])
    seconds = {name: total / count for name, total in watch.seconds.items()}
    return Pilot(
        views=count,
        sizes=sizes,
        spread_bytes=float(np.std(view_bytes)),
        measured=summary(joined["cost"], joined["peaks"]),
        read_s=seconds["read"],
        teacher_s=seconds["teacher"],
        encode_s=seconds["answer"] - seconds["teacher"],
        compress_s=seconds["compress"],
        workers=loader_workers(recipe.loader.workers, device),
        on_cpu=device.type == "cpu",
    )


def pilot_keys(samples: int, batch: int) -> list[list[Key]]:
    """Batches of views spread evenly over the samples: one to warm up, the others to time.

    Each view has another number, so that few samples do not give the same view twice.
    """
    count = 1 + math.ceil(TIMED_VIEWS / batch)
    keys = [(i * samples // (count * batch), i) for i in range(count * batch)]
    return [keys[first::count] for first in range(count)]


class Stopwatch:
    """Seconds by name, of what runs on a device: `with watch("read"): ...`."""

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
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    batches: Sequence[Sequence[Key]],
    watch: Stopwatch,
) -> Columns:
    """What the teacher says of batches of views, joined; "read", "answer" and "teacher" timed.

    The teacher's time is part of the answer's, the rest of which is encoding.
    """
    timed = partial(_timed, predictor, watch)
    views = stored_views(recipe, samples)
    parts: list[Columns] = []
    for keys in batches:
        with watch("read"):
            batch = default_collate([views[key] for key in keys])
        with watch("answer"):
            parts += encode_batches(timed, [batch], recipe.store.max_error)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _timed(predictor: HeatmapPredictor, watch: Stopwatch, crop_BSS3: Tensor) -> Tensor:
    with watch("teacher"):
        return predictor(crop_BSS3)


def measure_sizes(
    joined: Columns, layout: Layout, watch: Stopwatch
) -> tuple[Sizes, NDArray[np.int64]]:
    """Write shards to memory: what a view, a row of padding and a receipt take.

    Returns:
        The sizes; and int64 (N,), the bytes of each view's heatmaps.
    """
    rows = min(layout.shard_samples, len(joined["peaks"]))
    layout = replace(layout, shard_samples=rows)
    total, receipts, view_bytes = 0, 0, []
    for start in range(0, len(joined["peaks"]) - rows + 1, rows):
        part = {name: values[start : start + rows] for name, values in joined.items()}
        with watch("compress"):
            canaries = take_canaries(part, 0, rows)
            shard = make_shard(0, 0, [part], canaries)
            columns = _encoded(shard.columns(), layout)
        total += sum(map(len, columns.values()))
        receipts += _receipt_bytes(shard)
        view_bytes.append(_chunk_bytes(columns["heatmaps"], rows))
    padding = _encoded({name: v[:0] for name, v in shard.columns().items()}, layout)
    shards = len(view_bytes)
    sizes = Sizes(
        view=total / (shards * rows),
        blank=sum(map(len, padding.values())) / rows,
        receipt=receipts / shards,
    )
    return sizes, np.concatenate(view_bytes)


def _encoded(columns: Columns, layout: Layout) -> dict[str, bytes]:
    return {name: encode_shard(name, values, layout) for name, values in columns.items()}


def _receipt_bytes(shard: Shard) -> int:
    arrays = {name: {"bytes": 100_000, "blake2b": "0" * 32} for name in ARRAYS}
    receipt = {
        "arrays": arrays,
        "canaries": shard.canaries,
        "encoding_error": shard.measured,
        "samples": len(shard.peaks_SK),
        "shard": shard.shard,
        "view": shard.view,
    }
    return len(sealed(receipt))


def _chunk_bytes(shard: bytes, rows: int) -> NDArray[np.int64]:
    """Size of each inner chunk, from the index at the end of a shard."""
    index = shard[-(rows * INDEX_BYTES + CRC32C_BYTES) : -CRC32C_BYTES]
    return np.frombuffer(index, "<u8").reshape(rows, 2)[:, 1].astype(np.int64)
