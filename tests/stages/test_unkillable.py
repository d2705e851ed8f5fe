"""Killed at any moment, out of disk, locked out: what was complete stays, and the rest is made.

Every store that was disturbed must end byte for byte as the one that never was.
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

import fpd.pipeline.caching.fill as caching
from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.store import Shard, StoreReader, StoreWriter, coverage, files_at, read_manifest
from fpd.pipeline.store.coverage import read_receipt
from fpd.pipeline.store.manifest import stored_layout
from fpd.pipeline.store.storage import LocalFiles
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps

CPU = torch.device("cpu")
KILLED = -signal.SIGKILL


def content(path: Path) -> dict[str, bytes]:
    """Every file below a folder, half-written ones too."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def in_child(job: Callable[[], object], kill_after_s: float | None = None) -> int:
    """Run a job in a forked process; its exit status, negative for the signal that ended it."""
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


@pytest.fixture(scope="module")
def shards(toy_work: Path) -> list[Shard]:
    """The shards of the toy store, as they were given to the writer that made it."""
    files = files_at(toy_work / "heatmaps.zarr")
    layout = stored_layout(files)
    reader, found = StoreReader(files, layout), []
    for view, shard in layout.tasks():
        receipt = read_receipt(files, view, shard)
        assert receipt is not None
        cells = [reader.read(view, index) for index in layout.rows(shard)]
        columns = [np.stack([cell[i] for cell in cells]) for i in range(4)]
        found.append(Shard(view, shard, *columns, receipt["encoding_error"], receipt["canaries"]))
    return found


@pytest.fixture
def write_all(
    toy_work: Path, shards: list[Shard], toy_samples: SampleSet
) -> Callable[[Path], None]:
    """What `fpd cache-heatmaps` does, with a teacher that answers at once."""
    manifest = read_manifest(files_at(toy_work / "heatmaps.zarr"))
    fresh = {key: value for key, value in manifest.items() if key != "encoding_error"}

    def write(path: Path) -> None:
        files = files_at(path)
        with files.locked():
            writer = StoreWriter(files, fresh, 2, path.parent, samples=toy_samples)
            missing = writer.coverage().missing
            for shard in shards:
                if (shard.view, shard.shard) in missing:
                    writer.write(shard)
            writer.finish()

    return write


def check_nothing_torn(store: Path, whole: dict[str, bytes]) -> None:
    """Whatever bears its final name is all there; the manifest's last entry comes last."""
    for name, found in content(store).items():
        half_written = name.endswith((".tmp", ".partial"))
        assert half_written or found == whole[name] or name == "zarr.json", name
        if name == "zarr.json":
            json.loads(found)


CHANGES = {"open", "os.rename", "os.remove", "os.mkdir"}


def die_at(change: int, store: Path) -> None:
    """SIGKILL this process when it is about to change or open the store's files for that time."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES and str(arguments[0]).startswith(str(store)):
            count += 1
            if count == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("first", [1, 4, 8])
def test_killed_between_any_two_changes_and_taken_up_again(
    write_all: Callable[[Path], None], toy_work: Path, tmp_path: Path, first: int
) -> None:
    """Killed at change `first`, the next one 11 changes further on, and so on to the end."""
    whole, store = content(toy_work / "heatmaps.zarr"), tmp_path / "heatmaps.zarr"
    layout = stored_layout(files_at(toy_work / "heatmaps.zarr"))
    change, complete = first, 0

    def job() -> None:
        die_at(change, store)
        write_all(store)

    while in_child(job) == KILLED:
        check_nothing_torn(store, whole)
        now = len(coverage(files_at(store), layout).receipts)
        assert now >= complete
        complete = now
        change += 11
    assert complete > 0
    assert content(store) == whole


def test_killed_at_random_moments_and_taken_up_again(
    write_all: Callable[[Path], None], toy_work: Path, tmp_path: Path
) -> None:
    """By the clock, so in the middle of changes too; where exactly does not matter."""
    whole, store = content(toy_work / "heatmaps.zarr"), tmp_path / "heatmaps.zarr"
    start = time.perf_counter()
    write_all(tmp_path / "other.zarr")
    took, moments = time.perf_counter() - start, random.Random(0)
    for _ in range(6):
        in_child(lambda: write_all(store), kill_after_s=moments.random() * took / 2)
        if store.exists():
            check_nothing_torn(store, whole)
    assert in_child(lambda: write_all(store)) == 0
    assert content(store) == whole


def test_the_command_killed_and_given_again(toy_work: Path, work: WorkDir) -> None:
    """For real: an interpreter of its own, with a loader's process that outlives it a while."""
    whole = content(work.store)
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
    check_nothing_torn(work.store, whole | content(work.store / "zarr.json"))
    again = fpd("cache-heatmaps", "-w", work.root)
    assert again.exit_code == 0, again.output
    assert content(work.store) == whole


def test_killed_while_a_store_is_overwritten(work: WorkDir, toy_recipe: Recipe) -> None:
    """A store that is half removed must not stand in its successor's way."""
    whole = content(work.store)

    def job() -> None:
        removed = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal removed
            if event == "os.remove" and arguments[1] != -1:  # only rmtree goes by folder
                removed += 1
                if removed == 5:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        heatmaps.run(work, toy_recipe, CPU, overwrite=True)

    assert in_child(job) == KILLED
    again = fpd("cache-heatmaps", "-w", work.root)
    assert again.exit_code == 0, again.output
    assert content(work.store) == whole
    assert not list(work.root.glob(".heatmaps.zarr.removed"))


# Full disks and stores that cannot be written to


def fail_writing(
    monkeypatch: pytest.MonkeyPatch, number: int, *, part: str, after: int = 0
) -> None:
    """Have writing below a folder of that name fail, `after` so many bytes."""
    write_as_usual = Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        if part not in str(self):
            return write_as_usual(self, data)
        if after:
            write_as_usual(self, data[:after])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize("after", [0, 20])
@pytest.mark.parametrize("part", ["heatmaps/c/1", "peaks/c/0/2", "receipts/0"])
def test_a_full_disk_is_said_and_the_same_command_goes_on(
    work: WorkDir, part: str, after: int
) -> None:
    whole = content(work.store)
    shutil.rmtree(work.store)
    with pytest.MonkeyPatch.context() as patched:
        fail_writing(patched, errno.ENOSPC, part=part, after=after)
        full = fpd("cache-heatmaps", "-w", work.root)
    assert full.exit_code == 1
    assert "No space left on device" in full.output
    assert str(work.store) in full.output
    assert "the same command goes on" in full.output
    check_nothing_torn(work.store, whole)
    assert not list(work.store.rglob("*.tmp"))
    assert fpd("cache-heatmaps", "-w", work.root).exit_code == 0
    assert content(work.store) == whole


def test_a_full_disk_loses_no_shard_that_was_complete(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard cannot be written: those before and after it are there."""
    shutil.rmtree(work.store)
    fail_writing(monkeypatch, errno.ENOSPC, part="steps/c/0/1")
    assert fpd("cache-heatmaps", "-w", work.root).exit_code == 1
    files = files_at(work.store)
    found = coverage(files, stored_layout(files))
    assert (0, 1) in found.missing
    assert [receipt["shard"] for receipt in found.receipts][:2] == [0, 2]


def test_a_read_only_store_is_said_and_left_as_it_was(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work.store / "heatmaps/receipts/1/0.json").unlink()
    before = content(work.store)
    fail_writing(monkeypatch, errno.EROFS, part="heatmaps.zarr/")
    found = fpd("cache-heatmaps", "-w", work.root)
    assert found.exit_code == 1
    assert "Read-only file system" in found.output
    assert str(work.store) in found.output
    assert content(work.store) == before


def test_a_read_only_store_can_be_verified(work: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_writing(monkeypatch, errno.EROFS, part=str(work.root))
    assert fpd("verify-cache", "-w", work.root, "--deep").exit_code == 0


# Two writers


def test_a_second_writer_is_told_who_the_first_is(work: WorkDir, toy_recipe: Recipe) -> None:
    before = content(work.store)
    with files_at(work.store).locked():
        for command in (["cache-heatmaps", "--overwrite"], ["verify-cache", "--deep", "--repair"]):
            (work.store / "heatmaps/receipts/1/2.json").unlink(missing_ok=True)
            second = fpd(*command, "-w", work.root)
            assert second.exit_code == 1
            assert f"is being written by process {os.getpid()} on " in second.output
        assert {**content(work.store)}.items() <= before.items()
    assert fpd("cache-heatmaps", "-w", work.root).exit_code == 0
    assert content(work.store) == before


def test_a_killed_writers_lock_goes_with_it_though_its_loaders_live(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path / "heatmaps.zarr")
    ready, go = os.pipe(), os.pipe()

    def writer() -> NoReturn:
        with files.locked():
            if os.fork() == 0:  # as a loader's process
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


def test_a_fork_does_not_let_go_of_its_parents_lock(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path / "heatmaps.zarr")
    with files.locked():
        assert in_child(lambda: None) == 0
        with (tmp_path / ".heatmaps.zarr.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Interrupted


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("stopped")])
def test_shards_in_flight_are_written_when_it_is_interrupted(
    work: WorkDir,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    """Three shards are answered, none is written yet when the interruption comes."""
    whole = content(work.store)
    shutil.rmtree(work.store)
    answers_as_usual, write_as_usual = caching.answers, StoreWriter.write

    def interrupted(*arguments: Any) -> Any:
        for count, said in enumerate(answers_as_usual(*arguments)):
            if count == 2:
                raise error
            yield said

    def slow(self: StoreWriter, shard: Shard) -> None:
        time.sleep(0.2)
        write_as_usual(self, shard)

    with monkeypatch.context() as patched:
        patched.setattr(caching, "answers", interrupted)
        patched.setattr(StoreWriter, "write", slow)
        with pytest.raises(type(error)):
            heatmaps.run(work, toy_recipe, CPU)
    files = files_at(work.store)
    found = coverage(files, replace(stored_layout(files), views=1))
    assert [receipt["shard"] for receipt in found.receipts] == [0, 1]
    heatmaps.run(work, toy_recipe, CPU)
    assert content(work.store) == whole
