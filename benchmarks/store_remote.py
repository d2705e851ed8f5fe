"""Training from a remote store: requests and bytes a view by order and cache, and time to open.

    python benchmarks/store_remote.py [--delay-ms 20] [--json OUT]
    python benchmarks/store_remote.py --simulate 100000000

The server is moto's, in a process of its own; every request of the client takes `--delay-ms`
longer. The store is portable: 4 views of 3,072 samples in 24 shards of 512, with crops of 17 kB
(random bytes, as JPEG does not compress). Readers may keep 15 % of it in memory, the share that
256 MiB are of MPII's 1.7 GB. The first table is of one epoch's keys, read without decoding crops
or training; the order over the whole epoch without a cache is read for 150 views only. The second
is of a store of 320 shards: what `fpd run student` does before the first step, with an audit and
without, and with one request at a time.

`--simulate` needs no server. It draws an epoch of a store of that many views, and counts the
shards that a least-recently-used cache fetches: requests, bytes, and the sampler's memory and time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import tempfile
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fsspec
import numpy as np
import torch
from _common import (
    CPU,
    Results,
    ShardFactory,
    make_parser,
    minimal_manifest,
    print_results,
    write_results,
)
from numpy.typing import NDArray

from fpd.pipeline.runtime.loader import make_loader
from fpd.pipeline.store import (
    Layout,
    Storage,
    StoreReader,
    StoreWriter,
    canaries,
    check_complete,
    coverage,
    open_storage,
    read_manifest,
    reader,
    remote_storage,
)
from fpd.pipeline.store.coverage import read_receipts, sealed
from fpd.pipeline.store.disk_cache import with_disk_cache
from fpd.pipeline.store.schema import receipt_name, shard_name
from fpd.pipeline.store.writer import LabeledCrops
from fpd.pipeline.training.sampler import EpochSampler, ShardWindow

VIEWS, SAMPLES, SHARD_SAMPLES = 4, 3072, 512
CROP_PX, CROP_BYTES = 256, 17_000
BATCH_SIZE = 16
MEMORY_SHARE = 0.15
WINDOW = 2
FEW_VIEWS = 150
OPENED_SAMPLES, OPENED_SHARD_SAMPLES = 1280, 16

SIMULATED_VIEWS = 4
SIMULATED_OBJECTS = 8
SIMULATED_SHARD_BYTES = 9_700_000
SIMULATED_STEPS = 2_000_000
"""Views of an epoch that are simulated; their rates stay the same from then on."""


class Samples:
    """As much of a sample set as the sampler needs."""

    def __init__(self, count: int) -> None:
        self.id_hash_N = np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.id_hash_N)


class Traffic:
    """Requests and bytes of this process and those that it forks."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.requests = multiprocessing.Value("q")
        self.bytes = multiprocessing.Value("q")

    def reset(self) -> None:
        self.requests.value = self.bytes.value = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Delay and count the requests of aiobotocore's clients."""
        from aiobotocore.client import AioBaseClient  # of the extra `s3`

        original = AioBaseClient._make_api_call
        traffic = self

        async def call(client: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(traffic.delay_s)
            response = await original(client, method, *args, **kwargs)
            with traffic.requests:
                traffic.requests.value += 1
                traffic.bytes.value += response.get("ContentLength") or 0
            return response

        with patch.object(AioBaseClient, "_make_api_call", call):
            yield


class ReadViews(torch.utils.data.Dataset[int]):
    """Reads what a student needs of a view; returns the crop's size."""

    def __init__(self, store: StoreReader) -> None:
        self.store = store

    def __getitem__(self, key: tuple[int, int]) -> int:
        index, view = key
        self.store.read(view, index)
        self.store.read_row("joints", view, index)
        return len(self.store.read_crop(view, index))


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    if arguments.simulate:
        results = simulate(arguments.simulate)
        print_results("order, cache", results)
        write_results(arguments.json, "store_remote", results, views=arguments.simulate)
        return
    with server(), tempfile.TemporaryDirectory() as folder:
        traffic = Traffic(arguments.delay_ms / 1000)
        results = measure_epochs(Path(folder), traffic)
        print_results("order, cache, processes", results)
        opening = measure_opening(Path(folder), traffic)
        print_results("opening", opening)
        write_results(
            arguments.json,
            "store_remote",
            {"epochs": results, "opening": opening},
            delay_ms=arguments.delay_ms,
        )


@contextmanager
def server() -> Iterator[None]:
    """An S3 server in another process, and the environment by which s3fs finds it."""
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(child,), daemon=True)
    process.start()
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": parent.recv(),
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "no_proxy": "127.0.0.1",
    }
    fsspec.filesystem("s3").mkdir("benchmark")
    try:
        yield
    finally:
        process.terminate()
        process.join()


def serve(connection: Any) -> None:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    connection.send(f"http://{host}:{port}")
    time.sleep(1e6)


def measure_epochs(folder: Path, traffic: Traffic) -> Results:
    """The first table."""
    local = make_portable_store(folder / "large.zarr", SAMPLES, SHARD_SAMPLES, crops=True)
    remote, layout = upload(local, "s3://benchmark/large.zarr"), local.layout
    store_bytes = coverage(local.storage, layout).bytes()
    memory_bytes = int(MEMORY_SHARE * store_bytes)
    cache = folder / "cache"
    results: Results = {}

    def measure(
        window: int | None, cache_bytes: int | None, processes: int = 1, *, keep: bool = False
    ) -> None:
        order = "whole epoch" if window is None else f"{window} shards"
        where = "memory" if cache_bytes is None else f"disk {cache_bytes / store_bytes:.0%}"
        if not keep:
            shutil.rmtree(cache, ignore_errors=True)
        location = None if cache_bytes is None else str(cache)
        cached = with_disk_cache(remote, location, cache_bytes or 0)
        limit = FEW_VIEWS if window is None and cache_bytes is None else None
        name = f"{order}, {where}, {processes}{', again' if keep else ''}"
        results[name] = read_epoch(cached, layout, window, traffic, processes, limit)
        print_results("order, cache, processes", {name: results[name]})

    with patch.object(reader, "CACHE_BYTES", memory_bytes), traffic.measured():
        measure(None, None)
        measure(WINDOW, None)
        measure(WINDOW, None, processes=4)
        measure(None, int(1.1 * store_bytes))
        measure(None, int(1.1 * store_bytes), keep=True)
        measure(WINDOW, int(0.25 * store_bytes))
        measure(WINDOW, int(0.25 * store_bytes), processes=4)
    return results


def read_epoch(
    remote: Storage,
    layout: Layout,
    window: int | None,
    traffic: Traffic,
    processes: int,
    limit: int | None,
) -> dict[str, float]:
    """One row: an epoch, or the first `limit` views of one."""
    per_view = np.repeat(np.arange(layout.shards, dtype=np.int32), layout.shard_samples)
    sampler = EpochSampler(
        Samples(layout.samples),  # type: ignore[arg-type]
        BATCH_SIZE,
        seed=0,
        views=layout.views,
        window=None if window is None else ShardWindow(per_view, window),
    )
    dataset = ReadViews(StoreReader(remote, layout, own_layout=True))
    loader = make_loader(
        dataset, sampler, CPU, workers=processes if processes > 1 else 0, prefetch=4
    )
    traffic.reset()
    count, start = 0, time.perf_counter()
    for sizes in loader:
        count += len(sizes)
        if limit is not None and count >= limit:
            break
    seconds = time.perf_counter() - start
    return {
        "views": count,
        "requests per view": traffic.requests.value / count,
        "bytes per view": traffic.bytes.value / count,
        "ms per view": 1000 * seconds / count,
    }


def measure_opening(folder: Path, traffic: Traffic) -> Results:
    """The second table."""
    local = make_portable_store(
        folder / "many.zarr", OPENED_SAMPLES, OPENED_SHARD_SAMPLES, crops=False
    )
    remote, layout = upload(local, "s3://benchmark/many.zarr"), local.layout
    read_manifest(remote)  # connects
    cases: dict[str, Callable[[], object]] = {
        "audited": lambda: open_store(remote, layout),
        "every receipt": lambda: coverage(remote, layout),
    }
    results: Results = {}
    for name, work in cases.items():
        for in_flight in (1, remote_storage.MAX_IN_FLIGHT):
            with patch.object(remote_storage, "MAX_IN_FLIGHT", in_flight), traffic.measured():
                traffic.reset()
                start = time.perf_counter()
                work()
                results[f"{name}, {in_flight} at a time"] = {
                    "shards": layout.views * layout.shards,
                    "requests": traffic.requests.value,
                    "seconds": time.perf_counter() - start,
                }
    return results


def open_store(remote: Storage, layout: Layout) -> None:
    """The reads of `pipeline/store/match.py` when the data set and the teacher match."""
    read_manifest(remote)
    check_complete(remote, layout, ".")
    tasks = layout.tasks()
    spread = [tasks[len(tasks) * i // canaries.SHARDS_CHECKED] for i in range(16)]
    assert all(read_receipts(remote, spread, layout))


def make_portable_store(
    path: Path, samples: int, shard_samples: int, *, crops: bool
) -> StoreWriter:
    """A local store whose shards are all alike.

    Args:
        crops: of `CROP_BYTES`; without, of one byte.
    """
    manifest = minimal_manifest(samples, shard_samples)
    manifest["geometry"] |= {"crop_px": CROP_PX}
    manifest["crops"] = {"format": "jpeg", "splits": []}
    writer = StoreWriter(open_storage(path), manifest, VIEWS, path.parent)
    layout = writer.layout
    content = ShardFactory(pool_views=32).make(0, 0, layout.rows(0))
    random = np.random.default_rng(0)
    jpegs = [random.bytes(CROP_BYTES if crops else 1) for _ in layout.rows(0)]
    joints = np.zeros((len(jpegs), layout.joints, 2), np.float32)
    writer.write(type(content)(**vars(content) | {"labeled_crops": LabeledCrops(jpegs, joints)}))
    receipt = json.loads((path / receipt_name(0, 0)).read_text())
    for view, shard in layout.tasks()[1:]:
        for array in layout.arrays:
            target = path / shard_name(array, view, shard)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path / shard_name(array, 0, 0), target)
        target = path / receipt_name(view, shard)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(sealed(receipt | {"view": view, "shard": shard}))
    writer.finish()
    return writer


def upload(local: StoreWriter, url: str) -> Storage:
    """Copy a store's objects."""
    remote = open_storage(url)
    for name in local.storage.sizes(""):
        remote.write(name, local.storage.read(name))
    return remote


# Simulation


def simulate(views: int) -> Results:
    """An epoch of a store of that many views, `SIMULATED_VIEWS` of each sample."""
    count = views // SIMULATED_VIEWS
    samples = Samples(count)
    shard_N = (np.arange(count) // SHARD_SAMPLES).astype(np.int32)
    shards = SIMULATED_VIEWS * (int(shard_N[-1]) + 1)
    results: Results = {}
    for window in (None, 64, 16, 4):
        sampler = EpochSampler(
            samples,  # type: ignore[arg-type]
            BATCH_SIZE,
            seed=0,
            views=SIMULATED_VIEWS,
            window=None if window is None else ShardWindow(shard_N, window),
        )
        tracemalloc.start()
        start = time.perf_counter()
        order = sampler._order(sampler._random_words())
        seconds = time.perf_counter() - start
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        drawn = order[:SIMULATED_STEPS]
        visited = sampler._view_numbers(drawn) * (shards // SIMULATED_VIEWS) + shard_N[drawn]
        for capacity, name in ((27, "256 MiB"), (2061, "20 GB")):
            fetched = fetches(visited, capacity)
            results[f"{'whole epoch' if window is None else f'{window} shards'}, {name}"] = {
                "shards": shards,
                "requests per view": SIMULATED_OBJECTS * fetched / len(drawn),
                "kB per view": SIMULATED_SHARD_BYTES / 1000 * fetched / len(drawn),
                "s to draw": seconds,
                "peak MB": peak_bytes / 1e6,
            }
    return results


def fetches(visited: NDArray[np.int64], capacity: int) -> int:
    """Number of shards that a cache of that many shards fetches for a sequence of views."""
    kept: OrderedDict[int, None] = OrderedDict()
    count = 0
    for shard in visited.tolist():
        if shard in kept:
            kept.move_to_end(shard)
            continue
        count += 1
        kept[shard] = None
        if len(kept) > capacity:
            kept.popitem(last=False)
    return count


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--delay-ms", type=float, default=20.0, help="added to each request")
    parser.add_argument(
        "--simulate", type=int, metavar="VIEWS", help="simulate a store of this many views"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
