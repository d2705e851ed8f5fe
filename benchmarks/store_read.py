"""Reading cached heatmaps: our reader against other ways to store and read the same data.

    python benchmarks/store_read.py [--views 20480] [--rounds 7] [--json OUT]

All rows but the last read the same int8 coefficients, one view of 16 x 64 x 64 per chunk,
compressed with zstd at the store's level; our reader also returns the steps, peaks and augmentation
parameters. zarr-python and tensorstore read our own store; h5py (with hdf5plugin's zstd) and LMDB
(with numcodecs') hold copies of the same zstd frames. The last row is the most common cache: raw
float16 heatmaps in a memory-mapped file.

One core, one process, all files in the page cache. Timed are random single views; batches of 32
random views as one array, by the fastest way of each row (tensorstore takes a list of indices in
one call, the others read view by view); and whole shards of 512 views as one array, in order. Views
per second are medians of rounds in which the rows take turns. Last come the memory and the open
files after 100,000 random reads.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from _common import (
    HEATMAP_PX,
    JOINTS,
    Case,
    Results,
    ShardFactory,
    format_number,
    make_parser,
    make_store,
    measure_rates,
    medians,
    print_table,
    process_memory_kib,
    teacher_like_heatmaps,
    use_one_core,
    write_results,
)
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from fpd.pipeline.store import StoreReader, reader
from fpd.pipeline.store.schema import shard_name

SHARD = 512
BATCH = 32
SINGLES = 64  # views per call, so that the timer's own cost is negligible
MEMMAP_VIEWS = 4096  # half a gigabyte
MIN_SECONDS = 0.25  # per case and round
GROWTH_READS = 100_000
TARGET_RATIOS = {"tensorstore": 8, "h5py": 3}
COLUMNS = ("single views", "batches of 32", "whole shards")

Array = NDArray[Any]


class Format(NamedTuple):
    """A way to store and read views; each function returns one array.

    Attributes:
        read_range: the views from start up to, but not including, stop.
    """

    bytes_per_view: float
    read: Callable[[int], Array]
    read_batch: Callable[[Array], Array]
    read_range: Callable[[int, int], Array]


def main() -> None:
    arguments = parse_arguments()
    use_one_core()
    views = arguments.views // SHARD * SHARD
    with tempfile.TemporaryDirectory() as folder:
        formats = write_formats(Path(folder), views)
        check_same_content(formats, views)
        results = {name: {"bytes per view": f.bytes_per_view} for name, f in formats.items()}
        for column, cases in zip(COLUMNS, make_cases(formats, views), strict=True):
            for name, rate in medians(measure_rates(cases, arguments.rounds, MIN_SECONDS)).items():
                results[name][column] = rate
        print_rates(results)
        growth = measure_growth(open_reader(Path(folder), views), views)
    write_results(arguments.json, "store_read", results, views=views, growth=growth)


def write_formats(folder: Path, views: int) -> dict[str, Format]:
    """Write the same views in every format whose packages are installed."""
    writer = make_store(folder / "heatmaps.zarr", 1, views, SHARD)
    factory = ShardFactory()
    for _, shard in writer.layout.tasks():
        writer.write(factory.make(0, shard, writer.layout.rows(shard)))
    writer.finish()
    frames = [frame for shard in range(views // SHARD) for frame in read_frames(folder, shard)]
    formats = {"fpd": fpd_format(folder, views), "zarr-python": zarr_format(folder, views)}
    optional = {
        "tensorstore": lambda: tensorstore_format(folder, views, 0),
        "tensorstore, 16 MiB cache": lambda: tensorstore_format(folder, views, 1 << 24),
        "h5py": lambda: h5py_format(folder, frames),
        "lmdb": lambda: lmdb_format(folder, frames),
    }
    for name, make in optional.items():
        missing = [package for package in packages(name) if not importlib.util.find_spec(package)]
        if missing:
            print(f"{name}: left out, {missing[0]} is not installed (`pip install {missing[0]}`)")
        else:
            formats[name] = make()
    return formats | {"float16 memmap": memmap_format(folder, views)}


def packages(format_name: str) -> list[str]:
    package = format_name.partition(",")[0]
    return [package, "hdf5plugin"] if package == "h5py" else [package]


def open_reader(folder: Path, views: int) -> StoreReader:
    writer = make_store(folder / "heatmaps.zarr", 1, views, SHARD)
    return StoreReader(writer.storage, writer.layout)


def read_frames(folder: Path, shard: int) -> list[bytes]:
    """The zstd frames of a shard, one per view, by the index at the end of its file."""
    content = (folder / "heatmaps.zarr" / shard_name("heatmaps", 0, shard)).read_bytes()
    index = np.frombuffer(content[-SHARD * 16 - 4 : -4], "<u8").reshape(SHARD, 2)
    return [content[offset : offset + size] for offset, size in index.tolist()]


def fpd_format(folder: Path, views: int) -> Format:
    store = open_reader(folder, views)
    return one_by_one(store_bytes(folder, views), lambda index: store.read(0, index).coefficients)


def store_bytes(folder: Path, views: int) -> float:
    """Bytes per view of the store's array `heatmaps`, which is all that the other formats hold."""
    files = (folder / "heatmaps.zarr" / "heatmaps" / "c").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / views


def one_by_one(bytes_per_view: float, read: Callable[[int], Array]) -> Format:
    """A format that reads batches and ranges view by view."""
    return Format(
        bytes_per_view,
        read,
        lambda indices: np.stack([read(index) for index in indices.tolist()]),
        lambda start, stop: np.stack([read(index) for index in range(start, stop)]),
    )


def zarr_format(folder: Path, views: int) -> Format:
    array: Any = zarr.open_array(folder / "heatmaps.zarr" / "heatmaps", mode="r")
    return one_by_one(store_bytes(folder, views), lambda index: array[0, index])._replace(
        read_range=lambda start, stop: array[0, start:stop]
    )


def tensorstore_format(folder: Path, views: int, cache_bytes: int) -> Format:
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder / "heatmaps.zarr" / "heatmaps")},
        "context": {
            # Without a cache, which is its default, each call reads a shard's index again. 16 MiB
            # hold all indices, and one decoded view in a hundred.
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
        },
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }
    array = tensorstore.open(spec, open=True, read=True).result()
    return Format(
        store_bytes(folder, views),
        lambda index: array[0, index].read().result(),
        lambda indices: array[0, indices].read().result(),
        lambda start, stop: array[0, start:stop].read().result(),
    )


def h5py_format(folder: Path, frames: list[bytes]) -> Format:
    import h5py
    import hdf5plugin

    path = folder / "heatmaps.h5"
    shape = frame_shape()
    with h5py.File(path, "w", libver="latest") as file:
        array = file.create_dataset(
            "heatmaps",
            shape=(len(frames), *shape),
            dtype="int8",
            chunks=(1, *shape),
            **hdf5plugin.Zstd(clevel=15),
        )
        for index, frame in enumerate(frames):
            array.id.write_direct_chunk((index, 0, 0, 0, 0), frame)
    array = h5py.File(path, "r")["heatmaps"]
    return one_by_one(path.stat().st_size / len(frames), lambda index: array[index])._replace(
        read_range=lambda start, stop: array[start:stop]
    )


def lmdb_format(folder: Path, frames: list[bytes]) -> Format:
    import lmdb

    path = folder / "heatmaps.lmdb"
    environment = lmdb.open(str(path), map_size=1 << 32, readahead=False)
    with environment.begin(write=True) as transaction:
        for index, frame in enumerate(frames):
            transaction.put(index.to_bytes(8, "big"), frame)
    transaction = environment.begin(buffers=True)
    codec, shape = Zstd(), frame_shape()

    def read(index: int) -> Array:
        decoded = np.empty(shape, np.int8)
        codec.decode(transaction.get(index.to_bytes(8, "big")), out=decoded)
        return decoded

    return one_by_one(path.joinpath("data.mdb").stat().st_size / len(frames), read)


def memmap_format(folder: Path, views: int) -> Format:
    count = min(views, MEMMAP_VIEWS)
    shape = (JOINTS, HEATMAP_PX, HEATMAP_PX)
    array = np.memmap(folder / "heatmaps.f16", np.float16, "w+", shape=(count, *shape))
    heatmaps = teacher_like_heatmaps(32).half().numpy()
    for start in range(0, count, SHARD):
        array[start : start + SHARD] = heatmaps[np.arange(SHARD) % len(heatmaps)]
    return Format(
        float(array[0].nbytes),
        lambda index: np.array(array[index % count]),
        lambda indices: array[indices % count],
        lambda start, stop: np.array(array[start % count : (start % count) + stop - start]),
    )


def frame_shape() -> tuple[int, ...]:
    blocks = HEATMAP_PX // 8
    return (JOINTS, blocks, blocks, 64)


def check_same_content(formats: dict[str, Format], views: int) -> None:
    """Check that all formats of coefficients return the same ones, by each way of reading."""
    indices = np.array([1, 5, SHARD - 3, views - 1])
    ours = formats["fpd"]
    batch, first_views = ours.read_batch(indices), ours.read_range(0, 8)
    for name, other in formats.items():
        if name != "float16 memmap":
            np.testing.assert_array_equal(np.stack([other.read(int(i)) for i in indices]), batch)
            np.testing.assert_array_equal(other.read_batch(indices), batch)
            np.testing.assert_array_equal(other.read_range(0, 8), first_views)


def make_cases(formats: dict[str, Format], views: int) -> list[dict[str, Case]]:
    """The work to time for each column and format; the same indices for all formats."""

    def random_indices(seed: int, count: int) -> Array:
        return np.random.default_rng(seed).integers(views, size=count)

    def single_views(way: Format) -> Case:
        def work(seed: int) -> int:
            for index in random_indices(seed, SINGLES).tolist():
                way.read(index)
            return SINGLES

        return work

    def batches(way: Format) -> Case:
        return lambda seed: len(way.read_batch(random_indices(seed, BATCH)))

    def whole_shards(way: Format) -> Case:
        def work(seed: int) -> int:
            start = seed % (views // SHARD) * SHARD
            return len(way.read_range(start, start + SHARD))

        return work

    return [
        {name: make(way) for name, way in formats.items()}
        for make in (single_views, batches, whole_shards)
    ]


def print_rates(results: Results) -> None:
    """Print each format's rates, and the ratio of ours to each."""
    ours = results["fpd"]
    rows = [
        [
            name,
            format_number(row["bytes per view"]),
            *(f"{format_number(row[c])} ({format_number(ours[c] / row[c])} x)" for c in COLUMNS),
        ]
        for name, row in results.items()
    ]
    print_table(["views/s (fpd / this)", "bytes per view", *COLUMNS], rows)
    for name, target in TARGET_RATIOS.items():
        if name in results:
            lowest = min(ours[column] / results[name][column] for column in COLUMNS[:2])
            print(
                f"target: {target} x {name} for single views and batches; measured {lowest:.1f} x"
            )


def measure_growth(store: StoreReader, views: int) -> dict[str, list[int]]:
    """Anonymous memory of this process (no mapped files) and its open files, after many reads."""
    reader.OPEN_SHARDS = views // SHARD // 2  # so that shards are opened and closed all the time
    indices = np.random.default_rng(0).integers(views, size=GROWTH_READS).tolist()
    growth: dict[str, list[int]] = {"reads": [], "memory_kib": [], "open_files": []}
    for reads, index in enumerate(indices, 1):
        store.read(0, index)
        if reads in (GROWTH_READS // 100, GROWTH_READS // 10, GROWTH_READS):
            growth["reads"].append(reads)
            growth["memory_kib"].append(process_memory_kib("RssAnon"))
            growth["open_files"].append(len(list(Path("/proc/self/fd").iterdir())))
    print_table(
        ["after reads", "own memory, KiB", "open files"],
        [[f"{value:,}" for value in row] for row in zip(*growth.values(), strict=True)],
    )
    return growth


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--views", type=int, default=20_480, help=f"rounded down to whole shards of {SHARD}"
    )
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
