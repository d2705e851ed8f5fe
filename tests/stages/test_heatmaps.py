"""`fpd cache-heatmaps` after kills, full disks and signals: finished shards stay, the rest is made.

Every disturbed store must end byte for byte as an undisturbed one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.caching import fill
from fpd.pipeline.caching.fill_splits import fill_splits, samples_by_split
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.store import (
    Shard,
    StoreReader,
    StoreWriter,
    coverage,
    open_storage,
    read_manifest,
)
from fpd.pipeline.store.coverage import read_receipt
from fpd.pipeline.store.data_card import write_data_card
from fpd.pipeline.store.local_storage import LocalStorage
from fpd.pipeline.store.manifest import stored_layout
from fpd.pipeline.store.writer import LabeledCrops
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps

CPU = torch.device("cpu")
KILLED = -signal.SIGKILL


def content(path: Path) -> dict[str, bytes]:
    """Every file below a folder, partly written ones too."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def in_child(job: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Run a job in a forked process; its exit code, negative for the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            job()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module", params=["plain", "portable"])
def toy(request: pytest.FixtureRequest) -> Path:
    """The toy work directory, with each kind of store. Read-only."""
    name = {"plain": "toy_work", "portable": "portable_toy_work"}[request.param]
    work: Path = request.getfixturevalue(name)
    return work


@pytest.fixture
def work(toy: Path, tmp_path: Path) -> WorkDir:
    """A copy of the toy work directory, to change; with its own recipe."""
    return WorkDir(Path(shutil.copytree(toy, tmp_path / "work")))


@pytest.fixture
def recipe(toy: Path) -> Recipe:
    return WorkDir(toy).recipe(None, ())


@pytest.fixture(scope="module")
def shards(toy: Path) -> list[Shard]:
    """The shards of the toy store, as its writer was given them."""
    files = open_storage(toy / "heatmaps.zarr")
    layout = stored_layout(files)
    reader, shards = StoreReader(files, layout), []
    for view, shard in layout.tasks():
        receipt = read_receipt(files, view, shard)
        assert receipt is not None
        views = [reader.read(view, index) for index in layout.rows(shard)]
        columns = [np.stack([cached[i] for cached in views]) for i in range(4)]
        crops = None
        if layout.crop_px:
            rows = layout.rows(shard)
            jpegs = [reader.read_crop(view, index).tobytes() for index in rows]
            joints = np.stack([reader.read_row("joints", view, index) for index in rows])
            crops = LabeledCrops(jpegs, joints)
        shards.append(
            Shard(view, shard, *columns, receipt["encoding_error"], receipt["canaries"], crops)
        )
    return shards


@pytest.fixture
def write_all(
    toy: Path, recipe: Recipe, shards: list[Shard], toy_samples: SampleSet
) -> Callable[[Path], None]:
    """Writes a store as `fpd cache-heatmaps` does, with heatmaps that are known already."""
    manifest = read_manifest(open_storage(toy / "heatmaps.zarr"))
    fresh = {
        key: value for key, value in manifest.items() if key not in ("encoding_error", "audit")
    }
    if recipe.store.portable:
        fresh["splits"] = {}
    splits = samples_by_split(recipe, toy_samples) if recipe.store.portable else {}

    def write(path: Path) -> None:
        files = open_storage(path)
        with files.locked():
            writer = StoreWriter(files, fresh, 2, path.parent, samples=toy_samples)
            fill_splits(files, recipe, splits, "w")
            missing = writer.coverage().missing
            for shard in shards:
                if (shard.view, shard.shard) in missing:
                    writer.write(shard)
            writer.finish()
            write_data_card(files)

    return write


def check_files_are_complete(store: Path, undisturbed: dict[str, bytes]) -> None:
    """Every file under its final name is complete."""
    for name, written in content(store).items():
        temporary = name.endswith((".tmp", ".partial"))
        assert temporary or written == undisturbed[name] or name == "zarr.json", name
        if name == "zarr.json":
            json.loads(written)  # its totals change


CHANGES = {"open", "os.rename", "os.remove", "os.mkdir"}


def die_at(change: int, store: Path) -> None:
    """SIGKILL this process at its change number `change` of the store's files."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES and str(arguments[0]).startswith(str(store)):
            count += 1
            if count == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 4, 8])
def test_resumes_after_a_kill_between_any_two_changes(
    write_all: Callable[[Path], None], toy: Path, tmp_path: Path, first: int
) -> None:
    """The first process is killed at change `first`, the next one 11 changes later, and so on."""
    undisturbed, store = content(toy / "heatmaps.zarr"), tmp_path / "heatmaps.zarr"
    layout = stored_layout(open_storage(toy / "heatmaps.zarr"))
    change, complete = first, 0

    def job() -> None:
        die_at(change, store)
        write_all(store)

    while in_child(job) == KILLED:
        check_files_are_complete(store, undisturbed)
        now = len(coverage(open_storage(store), layout).receipts)
        assert now >= complete
        complete = now
        change += 11
    assert complete > 0
    assert content(store) == undisturbed


@pytest.mark.slow
def test_resumes_after_kills_at_random_moments(
    write_all: Callable[[Path], None], toy: Path, tmp_path: Path
) -> None:
    """By the clock: in the middle of changes too."""
    undisturbed, store = content(toy / "heatmaps.zarr"), tmp_path / "heatmaps.zarr"
    start = time.perf_counter()
    write_all(tmp_path / "other.zarr")
    took, moments = time.perf_counter() - start, random.Random(0)
    for _ in range(6):
        in_child(lambda: write_all(store), kill_after_s=moments.random() * took / 2)
        if store.exists():
            check_files_are_complete(store, undisturbed)
    assert in_child(lambda: write_all(store)) == 0
    assert content(store) == undisturbed


@pytest.mark.slow
def test_the_command_resumes_after_a_kill(work: WorkDir) -> None:
    """In an interpreter of its own, with a loader process that outlives it for a while."""
    undisturbed = content(work.store)
    shutil.rmtree(work.store)
    arguments = [sys.executable, "-m", "fpd", "cache-heatmaps", "-w", str(work.root)]
    arguments += ["--set", "loader.workers=1"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    receipts = work.store / "heatmaps" / "receipts"
    while not list(receipts.glob("*/*.json")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    check_files_are_complete(work.store, undisturbed | content(work.store / "zarr.json"))
    again = fpd("cache-heatmaps", "-w", work.root)
    assert again.exit_code == 0, again.output
    assert content(work.store) == undisturbed


@pytest.mark.slow
def test_resumes_after_a_kill_while_a_store_is_overwritten(work: WorkDir, recipe: Recipe) -> None:
    """A partly removed store does not hinder the new one."""
    undisturbed = content(work.store)

    def job() -> None:
        removed = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal removed
            if event == "os.remove" and arguments[1] != -1:  # only rmtree goes by folder
                removed += 1
                if removed == 5:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        heatmaps.run(work, recipe, CPU, overwrite=True)

    assert in_child(job) == KILLED
    again = fpd("cache-heatmaps", "-w", work.root)
    assert again.exit_code == 0, again.output
    assert content(work.store) == undisturbed
    assert not list(work.root.glob(".heatmaps.zarr.removed"))


# Full disks and read-only stores


def fail_writing(
    monkeypatch: pytest.MonkeyPatch, number: int, *, part: str, after: int = 0
) -> None:
    """Make writing to paths that contain `part` fail, `after` so many bytes."""
    write_as_usual = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        if part not in str(self):
            return write_as_usual(self, data)
        if after:
            write_as_usual(self, data[:after])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize(("part", "after"), [("heatmaps/c/1", 20), ("receipts/0", 0)])
def test_a_full_disk_is_reported_and_the_same_command_resumes(
    work: WorkDir, part: str, after: int
) -> None:
    undisturbed = content(work.store)
    shutil.rmtree(work.store)
    with pytest.MonkeyPatch.context() as patched:
        fail_writing(patched, errno.ENOSPC, part=part, after=after)
        full = fpd("cache-heatmaps", "-w", work.root)
    assert full.exit_code == 1
    assert "No space left on device" in full.output
    assert str(work.store) in full.output
    assert "same command" in full.output
    check_files_are_complete(work.store, undisturbed)
    assert not list(work.store.rglob("*.tmp"))
    assert fpd("cache-heatmaps", "-w", work.root).exit_code == 0
    assert content(work.store) == undisturbed


def test_a_full_disk_loses_no_complete_shard(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard cannot be written: those before and after it are."""
    shutil.rmtree(work.store)
    fail_writing(monkeypatch, errno.ENOSPC, part="steps/c/0/1")
    assert fpd("cache-heatmaps", "-w", work.root).exit_code == 1
    files = open_storage(work.store)
    present = coverage(files, stored_layout(files))
    assert (0, 1) in present.missing
    assert [receipt["shard"] for receipt in present.receipts][:2] == [0, 2]


def test_a_read_only_store_is_reported_and_not_changed(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work.store / "heatmaps/receipts/1/0.json").unlink()
    before = content(work.store)
    fail_writing(monkeypatch, errno.EROFS, part="heatmaps.zarr/")
    result = fpd("cache-heatmaps", "-w", work.root)
    assert result.exit_code == 1
    assert "Read-only file system" in result.output
    assert str(work.store) in result.output
    assert content(work.store) == before


def test_a_read_only_store_can_be_verified(work: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_writing(monkeypatch, errno.EROFS, part=str(work.root))
    assert fpd("verify-cache", "-w", work.root, "--deep").exit_code == 0


# Two writers


def test_a_second_writer_is_refused_naming_the_first(work: WorkDir) -> None:
    before = content(work.store)
    with open_storage(work.store).locked():
        for command in (["cache-heatmaps", "--overwrite"], ["verify-cache", "--deep", "--repair"]):
            (work.store / "heatmaps/receipts/1/2.json").unlink(missing_ok=True)
            second = fpd(*command, "-w", work.root)
            assert second.exit_code == 1
            assert f"is being written by process {os.getpid()} on " in second.output
        assert {**content(work.store)}.items() <= before.items()
    assert fpd("cache-heatmaps", "-w", work.root).exit_code == 0
    assert content(work.store) == before


@pytest.mark.slow
def test_a_killed_writers_lock_is_released_though_its_loaders_live(tmp_path: Path) -> None:
    files = LocalStorage(tmp_path / "heatmaps.zarr")
    ready, go = os.pipe(), os.pipe()

    def writer() -> NoReturn:
        with files.locked():
            if os.fork() == 0:  # as a loader process
                os.write(ready[1], b"1")
                os.read(go[0], 1)
                os._exit(0)
            os.read(ready[0], 1)
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    assert in_child(writer) == KILLED
    with files.locked():  # while the loader still waits
        pass
    os.write(go[1], b"1")


@pytest.mark.slow
def test_a_forks_end_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    files = LocalStorage(tmp_path / "heatmaps.zarr")
    with files.locked():
        assert in_child(lambda: None) == 0
        with (tmp_path / ".heatmaps.zarr.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("stopped")])
def test_shards_in_flight_are_written_after_an_interruption(
    work: WorkDir,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    """It comes after the heatmaps of three shards, before the first of them is written."""
    undisturbed = content(work.store)
    shutil.rmtree(work.store)
    encode_as_usual, write_as_usual = fill.encode_batches, StoreWriter.write

    def interrupted(*arguments: Any) -> Any:
        for count, batch in enumerate(encode_as_usual(*arguments)):
            if count == 2:
                raise error
            yield batch

    def slow(self: StoreWriter, shard: Shard) -> None:
        time.sleep(0.2)
        write_as_usual(self, shard)

    with monkeypatch.context() as patched:
        patched.setattr(fill, "encode_batches", interrupted)
        patched.setattr(StoreWriter, "write", slow)
        with pytest.raises(type(error)):
            heatmaps.run(work, recipe, CPU)
    files = open_storage(work.store)
    present = coverage(files, replace(stored_layout(files), views=1))
    assert [receipt["shard"] for receipt in present.receipts] == [0, 1]
    heatmaps.run(work, recipe, CPU)
    assert content(work.store) == undisturbed
