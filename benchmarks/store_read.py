"""Reading cached heatmaps: our reader beside what a user would store and read them with instead.

    python benchmarks/store_read.py [--json OUT]

Every row but the last holds the same int8 coefficients, one view of 16 x 64 x 64 a chunk, zstd at
the store's level, and gives them back decoded; our reader gives the steps, peaks and augmentation
with them. zarr-python and tensorstore read our own store; h5py (with hdf5plugin's zstd) and LMDB
(with numcodecs') hold the very same zstd frames, copied. The last row is what most people have: raw
float16 heatmaps in a memory-mapped file.

One core, one process, all files in the page cache. Random single views; batches of 32 random views
as one array, asked for in the way that is fastest for the row (tensorstore: a list of indices in
one call; the others one by one); and whole shards of 512 views as one array, one after another.
Views a second: medians of rounds in which the rows take turns.
Then what 100,000 random reads leave behind.
"""

from __future__ import annotations

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
    Content,
    heatmaps_like_a_teachers,
    medians,
    new_store,
    number,
    options,
    print_table,
    rates,
    use_one_core,
    write_json,
)
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from fpd.pipeline.store import StoreReader, reader
from fpd.pipeline.store.schema import shard_name

SHARD = 512
BATCH = 32
SINGLES = 64  # views a call, so that the clock's own cost does not show
MEMMAP_VIEWS = 4096  # half a gigabyte
ROUNDS = 7
SECONDS = 0.25  # a case and round
GROWTH_READS = 100_000
TARGETS = {"tensorstore": 8, "h5py": 3}
COLUMNS = ("single views", "batches of 32", "whole shards")

Array = NDArray[Any]


class Row(NamedTuple):
    """A way to read: one view, several as one array, a whole run as one array."""

    bytes_per_view: float
    one: Callable[[int], Array]
    several: Callable[[Array], Array]
    run: Callable[[int, int], Array]


def main() -> None:
    arguments = options(__doc__, views=20_480, rounds=ROUNDS)
    use_one_core()
    views = arguments.views // SHARD * SHARD
    with tempfile.TemporaryDirectory() as folder:
        rows = make_rows(Path(folder), views)
        check_same_content(rows, views)
        results = {name: {"bytes a view": row.bytes_per_view} for name, row in rows.items()}
        for column, cases in zip(COLUMNS, all_cases(rows, views), strict=True):
            for name, rate in medians(rates(cases, arguments.rounds, SECONDS)).items():
                results[name][column] = rate
        print_results(results)
        growth = measure_growth(StoreReader(*opened(Path(folder), views)), views)
    write_json(arguments.json, "store_read", results, views=views, growth=growth)


def make_rows(folder: Path, views: int) -> dict[str, Row]:
    """Write the content in every format whose package is there."""
    writer = new_store(folder / "heatmaps.zarr", 1, views, SHARD)
    content = Content()
    for _, shard in writer.layout.tasks():
        writer.write(content.shard(0, shard, writer.layout.rows(shard)))
    writer.finish()
    frames = [frame for shard in range(views // SHARD) for frame in frames_of(folder, shard)]
    rows = {"fpd": fpd_row(folder, views), "zarr-python": zarr_row(folder, views)}
    optional = {
        "tensorstore": lambda: tensorstore_row(folder, views, 0),
        "tensorstore, 16 MiB cache": lambda: tensorstore_row(folder, views, 1 << 24),
        "h5py": lambda: h5py_row(folder, frames),
        "lmdb": lambda: lmdb_row(folder, frames),
    }
    for name, make in optional.items():
        absent = [package for package in needed(name) if not importlib.util.find_spec(package)]
        if absent:
            print(f"{name}: left out, {absent[0]} is not installed (`pip install {absent[0]}`)")
        else:
            rows[name] = make()
    return rows | {"float16 memmap": memmap_row(folder, views)}


def needed(row: str) -> list[str]:
    """The packages of a row."""
    package = row.partition(",")[0]
    return [package, "hdf5plugin"] if package == "h5py" else [package]


def opened(folder: Path, views: int) -> tuple[Any, Any]:
    writer = new_store(folder / "heatmaps.zarr", 1, views, SHARD)
    return writer.files, writer.layout


def frames_of(folder: Path, shard: int) -> list[bytes]:
    """The zstd frames of a shard, one a view."""
    content = (folder / "heatmaps.zarr" / shard_name("heatmaps", 0, shard)).read_bytes()
    index = np.frombuffer(content[-SHARD * 16 - 4 : -4], "<u8").reshape(SHARD, 2)
    return [content[offset : offset + size] for offset, size in index.tolist()]


def fpd_row(folder: Path, views: int) -> Row:
    files, layout = opened(folder, views)
    store = StoreReader(files, layout)
    return one_by_one(in_store(folder, views), lambda index: store.read(0, index).coefficients)


def in_store(folder: Path, views: int) -> float:
    """Bytes a view of the store's `heatmaps`: what the other rows have of it."""
    files = (folder / "heatmaps.zarr" / "heatmaps" / "c").rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / views


def one_by_one(bytes_per_view: float, one: Callable[[int], Array]) -> Row:
    """A row whose views are asked for singly, whatever is wanted."""
    return Row(
        bytes_per_view,
        one,
        lambda indices: np.stack([one(index) for index in indices.tolist()]),
        lambda start, stop: np.stack([one(index) for index in range(start, stop)]),
    )


def zarr_row(folder: Path, views: int) -> Row:
    array: Any = zarr.open_array(folder / "heatmaps.zarr" / "heatmaps", mode="r")
    return one_by_one(in_store(folder, views), lambda index: array[0, index])._replace(
        run=lambda start, stop: array[0, start:stop]
    )


def tensorstore_row(folder: Path, views: int, cache_bytes: int) -> Row:
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(folder / "heatmaps.zarr" / "heatmaps")},
        "context": {
            # Without a cache (its default) each call reads a shard's index again. 16 MiB is room
            # for all indices, and for one decoded view in a hundred.
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
        },
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }
    array = tensorstore.open(spec, open=True, read=True).result()
    return Row(
        in_store(folder, views),
        lambda index: array[0, index].read().result(),
        lambda indices: array[0, indices].read().result(),
        lambda start, stop: array[0, start:stop].read().result(),
    )


def h5py_row(folder: Path, frames: list[bytes]) -> Row:
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
        run=lambda start, stop: array[start:stop]
    )


def lmdb_row(folder: Path, frames: list[bytes]) -> Row:
    import lmdb

    path = folder / "heatmaps.lmdb"
    environment = lmdb.open(str(path), map_size=1 << 32, readahead=False)
    with environment.begin(write=True) as transaction:
        for index, frame in enumerate(frames):
            transaction.put(index.to_bytes(8, "big"), frame)
    reading = environment.begin(buffers=True)
    codec, shape = Zstd(), frame_shape()

    def one(index: int) -> Array:
        decoded = np.empty(shape, np.int8)
        codec.decode(reading.get(index.to_bytes(8, "big")), out=decoded)
        return decoded

    return one_by_one(path.joinpath("data.mdb").stat().st_size / len(frames), one)


def memmap_row(folder: Path, views: int) -> Row:
    count = min(views, MEMMAP_VIEWS)
    shape = (JOINTS, HEATMAP_PX, HEATMAP_PX)
    array = np.memmap(folder / "heatmaps.f16", np.float16, "w+", shape=(count, *shape))
    for start in range(0, count, SHARD):
        array[start : start + SHARD] = (
            heatmaps_like_a_teachers(32).half().numpy()[np.arange(SHARD) % 32]
        )
    return Row(
        float(array[0].nbytes),
        lambda index: np.array(array[index % count]),
        lambda indices: array[indices % count],
        lambda start, stop: np.array(array[start % count : (start % count) + stop - start]),
    )


def frame_shape() -> tuple[int, ...]:
    blocks = HEATMAP_PX // 8
    return (JOINTS, blocks, blocks, 64)


def check_same_content(rows: dict[str, Row], views: int) -> None:
    """Everyone gives the same coefficients, however asked."""
    indices = np.array([1, 5, SHARD + 3, views - 1])
    expected = rows["fpd"].several(indices)
    for name, row in rows.items():
        if name != "float16 memmap":
            np.testing.assert_array_equal(np.stack([row.one(int(i)) for i in indices]), expected)
            np.testing.assert_array_equal(row.several(indices), expected)
            np.testing.assert_array_equal(row.run(0, 8), rows["fpd"].run(0, 8))


def all_cases(rows: dict[str, Row], views: int) -> list[dict[str, Callable[[int], int]]]:
    """By column and row, something to time; the same indices for everyone."""

    def draw(seed: int, count: int) -> Array:
        return np.random.default_rng(seed).integers(views, size=count)

    def singles(row: Row) -> Callable[[int], int]:
        def work(seed: int) -> int:
            for index in draw(seed, SINGLES).tolist():
                row.one(index)
            return SINGLES

        return work

    def batches(row: Row) -> Callable[[int], int]:
        return lambda seed: len(row.several(draw(seed, BATCH)))

    def shards(row: Row) -> Callable[[int], int]:
        def work(seed: int) -> int:
            start = seed % (views // SHARD) * SHARD
            return len(row.run(start, start + SHARD))

        return work

    return [{name: make(row) for name, row in rows.items()} for make in (singles, batches, shards)]


def print_results(results: dict[str, dict[str, float]]) -> None:
    ours = results["fpd"]
    print_table(
        ["views a second (ours is so many times it)", "bytes a view", *COLUMNS],
        [
            [
                name,
                number(row["bytes a view"]),
                *(f"{number(row[c])} ({number(ours[c] / row[c])} x)" for c in COLUMNS),
            ]
            for name, row in results.items()
        ],
    )
    for name, target in TARGETS.items():
        if name in results:
            worst = min(ours[column] / results[name][column] for column in COLUMNS[:2])
            print(f"target: {target} x {name} at single views and batches; measured {worst:.1f} x")


def measure_growth(store: StoreReader, views: int) -> dict[str, list[int]]:
    """Memory of this process' own (mapped files left out) and open files, over many reads."""
    reader.OPEN_SHARDS = views // SHARD // 2  # so that shards are opened and closed all the time
    indices = np.random.default_rng(0).integers(views, size=GROWTH_READS).tolist()
    found: dict[str, list[int]] = {"reads": [], "memory_kib": [], "open_files": []}
    for done, index in enumerate(indices, 1):
        store.read(0, index)
        if done in (GROWTH_READS // 100, GROWTH_READS // 10, GROWTH_READS):
            found["reads"].append(done)
            found["memory_kib"].append(own_memory_kib())
            found["open_files"].append(len(list(Path("/proc/self/fd").iterdir())))
    print_table(
        ["after reads", "own memory, KiB", "open files"],
        [[f"{value:,}" for value in row] for row in zip(*found.values(), strict=True)],
    )
    return found


def own_memory_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


if __name__ == "__main__":
    main()
