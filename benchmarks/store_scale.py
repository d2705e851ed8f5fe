"""Opening and reading stores of 10,000 to 1,000,000 views: the wait before training, and reads.

    python benchmarks/store_scale.py [--largest 1000000] [--json OUT]

For each size: what `fpd run student` does with a store before the first step (manifest,
completeness, the receipts of the canaries' shards), with the audit in the manifest; for comparison,
reading every receipt; and a random read of any view once every shard is open. Not included is
cutting the canaries' crops, which takes the same time at any size.

Each store is one encoded shard of 512 views, hard-linked under many names, with a receipt for each.
It therefore fits into the page cache, which a real store of that size might not. Times are the
shortest of several runs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    Results,
    ShardFactory,
    make_parser,
    make_store,
    print_results,
    use_one_core,
    write_results,
)

from fpd.pipeline.store import (
    Layout,
    Storage,
    StoreReader,
    StoreWriter,
    check_complete,
    coverage,
    read_manifest,
)
from fpd.pipeline.store.canaries import SHARDS_CHECKED
from fpd.pipeline.store.coverage import read_receipt, sealed
from fpd.pipeline.store.schema import ARRAYS, receipt_name, shard_name

SHARD_SAMPLES = 512
SAMPLES = 10_240
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
READS = 20_000
RUNS = 3


def main() -> None:
    arguments = parse_arguments()
    use_one_core()
    results: Results = {}
    for size in SIZES:
        if size <= arguments.largest:
            views = max(1, size // SAMPLES)
            results[f"{views * SAMPLES:,}"] = measure_store(views)
    print_results("views", results)
    write_results(
        arguments.json, "store_scale", results, shard_samples=SHARD_SAMPLES, samples=SAMPLES
    )


def measure_store(views: int) -> dict[str, float]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "heatmaps.zarr"
        writer = make_store(folder, views, SAMPLES, SHARD_SAMPLES)
        write_shards(writer, folder)
        writer.finish()
        storage, layout = writer.storage, writer.layout
        indices = np.random.default_rng(0).integers((views, SAMPLES), size=(READS, 2)).tolist()
        store = StoreReader(storage, layout)
        for view, shard in layout.tasks():
            store.read(view, layout.rows(shard)[0])

        def read_all() -> None:
            for view, index in indices:
                store.read(view, index)

        return {
            "shards": len(layout.tasks()),
            "open, ms": 1e3 * shortest_s(lambda: open_store(storage, layout)),
            "every receipt, ms": 1e3 * shortest_s(lambda: coverage(storage, layout)),
            "first read, ms": 1e3 * shortest_s(lambda: StoreReader(storage, layout).read(0, 0)),
            "read, us": 1e6 / READS * shortest_s(read_all),
            "MiB per reader": store._memory / 2**20,
        }


def write_shards(writer: StoreWriter, folder: Path) -> None:
    """Write one shard, and link its files under the names of all others."""
    layout = writer.layout
    writer.write(ShardFactory(pool_views=32).make(0, 0, layout.rows(0)))
    receipt: dict[str, Any] = json.loads((folder / receipt_name(0, 0)).read_text())
    for view, shard in layout.tasks()[1:]:
        for array in ARRAYS:
            target = folder / shard_name(array, view, shard)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / shard_name(array, 0, 0), target)
        path = folder / receipt_name(view, shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sealed(receipt | {"view": view, "shard": shard}))


def open_store(storage: Storage, layout: Layout) -> None:
    """The reads of `pipeline/store/match.py` when the data set and the teacher match."""
    read_manifest(storage)
    check_complete(storage, layout, ".")
    tasks = layout.tasks()
    for i in range(SHARDS_CHECKED):
        assert read_receipt(storage, *tasks[len(tasks) * i // SHARDS_CHECKED])


def shortest_s(work: Callable[[], object]) -> float:
    """Seconds of the shortest of `RUNS` calls, after one for warming up."""
    return min(timeit.repeat(work, number=1, repeat=1 + RUNS)[1:])


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--largest", type=int, default=SIZES[-1], help="leave out stores of more views"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
