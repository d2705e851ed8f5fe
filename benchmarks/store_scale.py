"""Opening and reading stores of 10,000 to 1,000,000 views: what a run waits for before it trains.

    python benchmarks/store_scale.py [--largest 1000000] [--json OUT]

Per size: what `fpd run student` does with a store before step 0 (manifest, completeness, the
receipts of the canaries; cutting the canaries' crops takes the same time at any size), with the
audit in the manifest and, for comparison, with every receipt read; and a random read out of all
views, once every shard has been touched. Each store is one encoded shard of 512 views under many
names, hard-linked, with a receipt for each: so the page cache holds all of it, as it might not a
store of real size. The least of some rounds.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import Content, new_store, number, options, print_table, use_one_core, write_json

from fpd.pipeline.store import (
    Files,
    Layout,
    StoreReader,
    StoreWriter,
    check_complete,
    coverage,
    read_manifest,
)
from fpd.pipeline.store.canaries import SHARDS_CHECKED
from fpd.pipeline.store.coverage import read_receipt, sealed
from fpd.pipeline.store.schema import ARRAYS, receipt_name, shard_name

SHARD = 512
SAMPLES = 10_240
READS = 20_000
ROUNDS = 3


def main() -> None:
    arguments = options(__doc__, largest=1_000_000)
    use_one_core()
    results = {}
    for wanted in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        if wanted <= arguments.largest:
            views = max(1, wanted // SAMPLES)
            results[views * SAMPLES] = measure(views)
    columns = list(next(iter(results.values())))
    print_table(
        ["views", *columns],
        [[f"{size:,}", *(number(row[c]) for c in columns)] for size, row in results.items()],
    )
    write_json(arguments.json, "store_scale", results, shard_samples=SHARD, samples=SAMPLES)


def measure(views: int) -> dict[str, float]:
    """One size's figures."""
    with tempfile.TemporaryDirectory() as folder:
        writer = new_store(Path(folder) / "heatmaps.zarr", views, SAMPLES, SHARD)
        fill(writer, Path(folder) / "heatmaps.zarr")
        writer.finish()
        files, layout = writer.files, writer.layout
        indices = np.random.default_rng(0).integers((views, SAMPLES), size=(READS, 2)).tolist()
        store = StoreReader(files, layout)
        for view, shard in layout.tasks():
            store.read(view, layout.rows(shard)[0])
        return {
            "shards": len(layout.tasks()),
            "open, ms": 1e3 * seconds(lambda: open_store(files, layout)),
            "every receipt, ms": 1e3 * seconds(lambda: coverage(files, layout)),
            "first read, ms": 1e3 * seconds(lambda: StoreReader(files, layout).read(0, 0)),
            "read, us": 1e6 / READS * seconds(lambda: read_all(store, indices)),
            "MiB a reader": store._memory / 2**20,
        }


def fill(writer: StoreWriter, store: Path) -> None:
    """Write one shard, and link it under every other's name."""
    layout = writer.layout
    writer.write(Content(32).shard(0, 0, layout.rows(0)))
    receipt: dict[str, Any] = json.loads((store / receipt_name(0, 0)).read_text())
    for view, shard in layout.tasks()[1:]:
        for name in ARRAYS:
            link(store / shard_name(name, 0, 0), store / shard_name(name, view, shard))
        path = store / receipt_name(view, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sealed(receipt | {"view": view, "shard": shard}))


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def open_store(files: Files, layout: Layout) -> None:
    """As `stages/student.py` opens one, for a data set and teacher that fit."""
    read_manifest(files)
    check_complete(files, layout, ".")
    tasks = layout.tasks()
    for i in range(SHARDS_CHECKED):
        assert read_receipt(files, *tasks[len(tasks) * i // SHARDS_CHECKED])


def read_all(store: StoreReader, keys: list[list[int]]) -> None:
    for view, index in keys:
        store.read(view, index)


def seconds(work: Callable[[], object]) -> float:
    """Seconds of the shortest of `ROUNDS` calls, after one that does not count."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


if __name__ == "__main__":
    main()
