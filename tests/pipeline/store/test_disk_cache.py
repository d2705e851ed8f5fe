"""The local cache of a remote store: what it fetches, keeps and removes, and what it survives.

A folder plays the remote store; it counts what is read from it, over all processes.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fpd.cli import main
from fpd.pipeline.config.recipe import Recipe, absolute_settings, apply_overrides
from fpd.pipeline.store import Layout, StoreReader, open_storage
from fpd.pipeline.store.disk_cache import (
    BLOCK_BYTES,
    CachedObject,
    CachedStorage,
    DiskCache,
    with_disk_cache,
)
from fpd.pipeline.store.local_storage import LocalStorage
from fpd.pipeline.store.schema import receipt_name, shard_name

HEATMAPS = shard_name("heatmaps", 0, 1)
LARGE = 10**9


@dataclass(frozen=True)
class Remote(LocalStorage):
    """A folder that is read as if it were remote, with a log of the objects that are read."""

    log: Path = Path()

    @property
    def is_local(self) -> bool:
        return False

    def read(self, name: str, limit: int = LARGE) -> bytes:
        content = super().read(name, limit)
        with self.log.open("a") as file:
            file.write(f"{name}\n")
        return content

    def fetched(self) -> Counter[str]:
        """How often each shard's object was read, since the last call."""
        names = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return Counter(name for name in names if "/c/" in name)


@pytest.fixture
def remote(whole: Path, tmp_path: Path) -> Remote:
    return Remote(Path(shutil.copytree(whole, tmp_path / "remote.zarr")), tmp_path / "log")


def cached(remote: Remote, tmp_path: Path, max_bytes: int = LARGE) -> CachedStorage:
    storage = with_disk_cache(remote, str(tmp_path / "cache"), max_bytes)
    assert isinstance(storage, CachedStorage)
    return storage


def read_all(small: Any, reader: StoreReader) -> None:
    for view, index in small.views:
        small.check(reader.read(view, index), view, index)


def kept(tmp_path: Path) -> list[Path]:
    """The objects in the cache, and unfinished ones."""
    return list((tmp_path / "cache").glob("*/*/*"))


def disk_bytes(tmp_path: Path) -> int:
    return sum(-(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for path in kept(tmp_path))


# What is fetched


def test_each_object_is_fetched_once_by_all_readers(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path)
    read_all(small, StoreReader(storage, small.layout))
    expected = {shard_name(a, *task): 1 for a in small.layout.arrays for task in small.shards}
    assert remote.fetched() == expected
    read_all(small, StoreReader(cached(remote, tmp_path), small.layout))
    assert not remote.fetched()


def test_metadata_and_receipts_are_never_kept(small: Any, remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path)
    for name in ("zarr.json", receipt_name(0, 0)):
        assert storage.read(name) == remote.read(name)
    assert not kept(tmp_path)


def test_stores_do_not_share_objects(small: Any, remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path)
    storage.read(HEATMAPS)
    other = Remote(Path(shutil.copytree(remote.root, tmp_path / "other.zarr")), tmp_path / "log")
    remote.fetched()
    cached(other, tmp_path).read(HEATMAPS)
    assert other.fetched() == {HEATMAPS: 1}


def read_in_process(storage: CachedStorage, layout: Layout, seed: int) -> None:
    reader = StoreReader(storage, layout)
    rng = np.random.default_rng(seed)
    for _ in range(40):
        view, index = rng.integers((layout.views, layout.samples)).tolist()
        reader.read(view, index)
        reader._shards.clear()  # as if many others had been read since


@pytest.mark.parametrize("objects", [100, 3])
def test_several_processes_share_a_cache(
    small: Any, remote: Remote, tmp_path: Path, objects: int
) -> None:
    max_bytes = objects * BLOCK_BYTES
    storage = cached(remote, tmp_path, max_bytes)
    processes = [
        multiprocessing.Process(target=read_in_process, args=(storage, small.layout, seed))
        for seed in range(4)
    ]
    for process in processes:
        process.start()
    largest = 0
    while any(process.is_alive() for process in processes):
        largest = max(largest, folder_bytes(tmp_path / "cache"))
    assert [process.exitcode for process in processes] == [0] * 4
    assert largest <= max_bytes
    if objects == 100:
        assert set(remote.fetched().values()) == {1}
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    read_all(small, StoreReader(storage, small.layout))


def folder_bytes(folder: Path) -> int:
    """Size of the objects, while processes add and remove some."""
    sizes = []
    for path in folder.glob("*/*/*"):
        try:
            sizes.append(-(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES)
        except FileNotFoundError:
            continue
    return sum(sizes)


# What is kept, and what is removed


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_the_folder_stays_within_its_size(
    small: Any, remote: Remote, tmp_path: Path, blocks: int
) -> None:
    reader = StoreReader(cached(remote, tmp_path, blocks * BLOCK_BYTES), small.layout)
    for view, index in small.views:
        small.check(reader.read(view, index), view, index)
        reader._shards.clear()
        assert disk_bytes(tmp_path) <= blocks * BLOCK_BYTES
    assert kept(tmp_path)


def test_what_was_used_least_recently_is_removed(remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path, 4 * BLOCK_BYTES)
    names = [shard_name("steps", 0, shard) for shard in range(3)]
    for name in names:
        storage.read(name)
    for age, name in enumerate([names[1], names[2], names[0]]):
        os.utime(storage._path(name), ns=(10**18 + age, 10**18 + age))
    storage.read(names[1])  # used now
    for shard in range(2):
        storage.read(shard_name("peaks", 0, shard))
    remote.fetched()
    storage.read(names[1])
    assert not remote.fetched()
    storage.read(names[2])
    assert remote.fetched() == {names[2]: 1}


def test_an_object_larger_than_the_cache_is_read_into_memory(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path, BLOCK_BYTES - 1)
    read_all(small, StoreReader(storage, small.layout))
    assert not kept(tmp_path)
    assert isinstance(storage.read_array(HEATMAPS), np.ndarray)


def test_a_removed_object_takes_no_disk_and_is_fetched_again(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path)
    reader = StoreReader(storage, small.layout)
    small.check(reader.read(0, 4), 0, 4)
    for path in kept(tmp_path):
        path.unlink()
    open_files = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    mapped = Path("/proc/self/maps").read_text()
    assert not any(str(tmp_path / "cache") in text for text in [*open_files, mapped])
    remote.fetched()
    small.check(reader.read(0, 5), 0, 5)
    assert remote.fetched() == {HEATMAPS: 1}


def test_an_open_shard_takes_the_memory_of_its_index_only(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    reader, in_memory = (
        StoreReader(storage, small.layout) for storage in (cached(remote, tmp_path), remote)
    )
    reader.read(0, 4)
    in_memory.read(0, 4)
    assert reader._memory == in_memory._memory - len(remote.read(HEATMAPS))


def test_only_its_own_files_are_removed(small: Any, remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path, 2 * BLOCK_BYTES)
    storage.read(HEATMAPS)
    folder = storage._path(HEATMAPS).parent
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ("a" * 32)).write_bytes(bytes(10 * BLOCK_BYTES))
    precious = [
        folder / "notes.txt",
        folder / ("A" * 32),
        folder.parent / "notes.txt",
        outside / ("a" * 32),
    ]
    for path in precious:
        path.write_bytes(b"precious")
    (folder.parent / ("b" * 32)).symlink_to(outside)
    (folder / ("c" * 32)).symlink_to(outside / ("a" * 32))
    (folder / ("d" * 32)).mkdir()
    (folder.parent / "usage").unlink()  # list the files
    read_all(small, StoreReader(storage, small.layout))
    assert [path.read_bytes() for path in precious] == [b"precious"] * 4
    assert (folder / ("c" * 32)).is_symlink()


# What goes wrong


@contextmanager
def damaged(storage: CachedStorage, name: str, damage: str) -> Iterator[None]:
    path = storage._path(name)
    content = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    elif damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "swapped":
        path.write_bytes(storage.remote.read(name.replace("/c/0/1", "/c/0/0")))
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    yield
    if damage != "folder":
        assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "swapped", "folder"])
@pytest.mark.parametrize("array", ["heatmaps", "peaks"])
def test_a_damaged_copy_is_fetched_again(
    small: Any, remote: Remote, tmp_path: Path, array: str, damage: str
) -> None:
    storage = cached(remote, tmp_path)
    StoreReader(storage, small.layout).read(0, 4)
    with damaged(storage, shard_name(array, 0, 1), damage):
        small.check(StoreReader(storage, small.layout).read(0, 5), 0, 5)


def test_a_copy_that_is_damaged_while_it_is_open_is_fetched_again(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path)
    reader = StoreReader(storage, small.layout)
    reader.read(0, 4)
    path = storage._path(HEATMAPS)
    path.write_bytes(bytes(path.stat().st_size))
    small.check(reader.read(0, 5), 0, 5)
    assert path.read_bytes() == remote.read(HEATMAPS)


def test_a_store_that_was_made_again_is_fetched_again(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path)
    read_all(small, StoreReader(storage, small.layout))
    for name in storage.cache.folder.glob("*/*"):  # as another store of this URL had them
        name.write_bytes(name.read_bytes()[::-1])
    read_all(small, StoreReader(storage, small.layout))


def test_damage_of_the_store_itself_is_reported(small: Any, remote: Remote, tmp_path: Path) -> None:
    path = remote.root / HEATMAPS
    path.write_bytes(path.read_bytes()[::-1])
    storage = cached(remote, tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"view 0 of sample 4 .* changed after it was written"):
            StoreReader(storage, small.layout).read(0, 4)
    assert remote.fetched()[HEATMAPS] == 3  # it might have been the copy that was damaged


def test_an_object_that_is_written_or_deleted_is_not_read_from_the_cache(
    remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path)
    storage.read(HEATMAPS)
    storage.write(HEATMAPS, b"new")
    assert storage.read(HEATMAPS) == b"new"
    storage.delete(HEATMAPS)
    with pytest.raises(FileNotFoundError):
        storage.read(HEATMAPS)


def test_a_link_in_an_objects_place_is_not_followed(remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path)
    content = storage.read(HEATMAPS)
    path, target = storage._path(HEATMAPS), tmp_path / "target"
    path.unlink()
    target.write_bytes(b"of somebody")
    path.symlink_to(target)
    assert storage.read(HEATMAPS) == content
    assert target.read_bytes() == b"of somebody"
    assert not path.is_symlink()


def test_a_full_disk_is_no_error(
    small: Any, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    storage = cached(remote, tmp_path)
    monkeypatch.setattr(os, "ftruncate", full)
    read_all(small, StoreReader(storage, small.layout))
    assert not kept(tmp_path)


def test_a_killed_writers_file_counts_and_is_removed(
    small: Any, remote: Remote, tmp_path: Path
) -> None:
    storage = cached(remote, tmp_path, 3 * BLOCK_BYTES)
    storage.read(HEATMAPS)
    path = storage._path(HEATMAPS)
    leftover = path.with_name(f".{path.name}.{'0' * 16}.tmp")
    leftover.write_bytes(bytes(BLOCK_BYTES))
    os.utime(leftover, ns=(0, 0))
    (storage.cache.folder / "usage").write_text("damaged")
    for shard in range(3):
        storage.read(shard_name("steps", 0, shard))
    assert not leftover.exists()
    assert disk_bytes(tmp_path) <= 3 * BLOCK_BYTES


def test_an_object_beyond_a_limit_is_refused(remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="more than 10"):
            storage.read(HEATMAPS, limit=10)
        storage.read(HEATMAPS)


# The folder


def test_the_folder_is_private(remote: Remote, tmp_path: Path) -> None:
    storage = cached(remote, tmp_path)
    storage.read(HEATMAPS)
    path = storage._path(HEATMAPS)
    assert path.is_relative_to(tmp_path / "cache")
    assert storage.cache.folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
    assert "remote" not in str(path.relative_to(tmp_path / "cache"))


@pytest.mark.parametrize("what", ["shared", "link", "file"])
def test_a_folder_of_others_is_refused(tmp_path: Path, what: str) -> None:
    folder = DiskCache.open(tmp_path / "cache", LARGE).folder
    if what == "shared":
        folder.chmod(0o770)
    else:
        folder.rmdir()
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere") if what == "link" else folder.touch(0o600)
    with pytest.raises(ValueError, match="--cache-dir"):
        DiskCache.open(tmp_path / "cache", LARGE)


@pytest.mark.parametrize("name", ["../../x/c/0", "/etc/c/0", "a/../../c/0/0"])
def test_names_do_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    cache = DiskCache.open(tmp_path / "cache", LARGE)
    for path in (cache.path("s3://b/../..", name), cache.path(name, name)):
        assert path.resolve().parent.parent == cache.folder.resolve()


def test_a_local_store_needs_no_cache(whole: Path, tmp_path: Path) -> None:
    storage = open_storage(whole)
    assert with_disk_cache(storage, str(tmp_path / "cache"), LARGE) is storage
    assert not (tmp_path / "cache").exists()


def test_slices_are_those_of_the_content(remote: Remote, tmp_path: Path) -> None:
    content = cached(remote, tmp_path).read_array(HEATMAPS)
    expected = np.frombuffer(remote.read(HEATMAPS), np.uint8)
    assert isinstance(content, CachedObject)
    assert len(content) == len(expected)
    parts = [slice(None), slice(3, 9), slice(-7, None), slice(5, 2), slice(0, 10**9), slice(9, 9)]
    for part in parts:
        np.testing.assert_array_equal(content[part], expected[part])
    with pytest.raises(ValueError, match="without a step"):
        content[::2]


# Settings


def test_the_size_is_checked() -> None:
    assert apply_overrides({}, ["loader.cache_size=1.5 TiB"]).loader.cache_bytes == 3 * 2**39
    with pytest.raises(ValueError, match=r"loader.cache_size.*expected a size above zero"):
        apply_overrides({}, ["loader.cache_size=much"])


def test_workers_of_a_cluster_get_an_absolute_path() -> None:
    recipe = apply_overrides({}, ["loader.cache_dir=here"])
    assert absolute_settings(recipe)["loader"]["cache_dir"] == str(Path("here").absolute())


def test_the_options_are_those_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Recipe] = []

    def run(_: Any, recipe: Recipe, *args: Any, **kwargs: Any) -> dict[str, Any]:
        recipes.append(recipe)
        raise ValueError("enough")

    monkeypatch.setattr("fpd.stages.student.run", run)
    monkeypatch.setattr("fpd.stages.sweep.run", run)
    options = ["-w", str(tmp_path / "w"), "-r", "demo"]
    options += ["--cache-dir", str(tmp_path / "cache"), "--cache-size", "2GB"]
    for command in (["run", "student"], ["sweep", "x", "--grid", "student.alpha=0,1"]):
        result = CliRunner().invoke(main, [*command, *options])
        assert "enough" in result.output
    assert len(recipes) == 2
    for recipe in recipes:
        assert recipe.loader.cache_dir == str(tmp_path / "cache")
        assert recipe.loader.cache_bytes == 2 * 10**9
