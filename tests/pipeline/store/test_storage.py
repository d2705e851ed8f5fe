"""Objects on a local disk: put in place whole or not at all, and by one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import files_at, store_files
from fpd.pipeline.store.storage import Files, LocalFiles
from fpd.pipeline.workdir import WorkDir


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return files_at(tmp_path / "store.zarr")


def everything(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_is_written_is_read(files: Files, tmp_path: Path) -> None:
    files.write("a/b/c", b"some bytes")
    assert files.read("a/b/c") == b"some bytes"
    assert files.view("a/b/c").tobytes() == b"some bytes"
    assert (tmp_path / "store.zarr/a/b/c").read_bytes() == b"some bytes"
    files.write("a/b/c", b"others")
    assert files.read("a/b/c") == b"others"
    assert everything(tmp_path) == ["store.zarr/a/b/c"]


def test_what_is_not_there_is_not_found(files: Files) -> None:
    for look in (files.read, files.view):
        with pytest.raises(FileNotFoundError):
            look("nothing")
    files.delete("nothing")
    assert files.sizes("nowhere") == files.sizes("") == {}
    assert not files.exists()


def test_an_object_larger_than_asked_for_is_refused(files: Files) -> None:
    files.write("a", b"12345")
    assert files.read("a", limit=5) == b"12345"
    with pytest.raises(ValueError, match="a has 5 bytes, more than 4: not a file of this store"):
        files.read("a", limit=4)


def test_a_view_stays_what_it_was_when_its_file_is_replaced(files: Files) -> None:
    files.write("a", b"before")
    view = files.view("a")
    files.write("a", b"behind")
    assert view.tobytes() == b"before"


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_what_was_there(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    files.write("a", b"before")

    def fail(path: Path, content: object) -> None:
        if isinstance(content, bytes):
            with path.open("wb") as file:
                file.write(content[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, fail)
        for name in ("a", "b"):
            with pytest.raises(OSError, match="No space left on device") as caught:
                files.write(name, b"after")
            assert caught.value.filename == str(tmp_path / "store.zarr" / name)
    assert files.read("a") == b"before"
    assert everything(tmp_path) == ["store.zarr/a"]


def test_a_write_has_reached_the_disk_before_it_shows(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files.write("a", b"bytes")
    assert done == ["file", "rename", "folder"]


def test_sizes_are_by_name_relative_to_the_folder(files: Files) -> None:
    for name, size in {"x/1/a": 3, "x/1/b/c": 0, "x/2/a": 7, "xy/1/a": 1}.items():
        files.write(name, bytes(size))
    assert files.sizes("x/1") == {"a": 3, "b/c": 0}
    assert files.sizes("x") == {"1/a": 3, "1/b/c": 0, "2/a": 7}
    assert set(files.sizes("")) == {"x/1/a", "x/1/b/c", "x/2/a", "xy/1/a"}


def test_what_is_deleted_is_gone(files: Files) -> None:
    files.write("x/a", b"1")
    files.write("x/b", b"1")
    files.delete("x/a")
    files.delete("x/a")
    assert files.sizes("x") == {"b": 1}


def test_a_removed_store_leaves_nothing(files: Files, tmp_path: Path) -> None:
    files.write("zarr.json", b"{}")
    files.write("x/a", b"1")
    assert files.exists()
    files.remove()
    assert not files.exists()
    assert list(tmp_path.iterdir()) == []


def test_files_are_cheap_to_pickle(files: Files) -> None:
    again = pickle.loads(pickle.dumps(files))
    files.write("a", b"bytes")
    assert again.read("a") == b"bytes"
    assert str(again) == str(files)


# One writer at a time


def hold(root: Path, connection: Connection) -> None:
    """Take the lock, and keep it until killed."""
    with files_at(root).locked():
        connection.send("held")
        signal.pause()


def test_a_second_writer_is_refused_until_the_first_is_gone_however_it_ended(
    files: LocalFiles, tmp_path: Path
) -> None:
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=hold, args=(files.root, there), daemon=True)
    process.start()
    assert here.poll(30) and here.recv() == "held"
    with (
        pytest.raises(ValueError, match=rf"store\.zarr is being written by process {process.pid} "),
        files.locked(),
    ):
        raise AssertionError("two writers at a time")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    with files.locked():
        files.write("a", b"bytes")
    assert everything(tmp_path / "store.zarr") == ["a"]  # the lock is not part of the store


def test_two_writers_in_one_process_are_two_as_well(files: Files) -> None:
    with (
        files.locked(),
        pytest.raises(ValueError, match=f"being written by process {os.getpid()}"),
        files.locked(),
    ):
        raise AssertionError("two writers at a time")
    with files.locked():
        pass


def test_another_store_in_the_same_folder_is_not_locked(tmp_path: Path) -> None:
    with files_at(tmp_path / "a.zarr").locked(), files_at(tmp_path / "b.zarr").locked():
        pass


# Places


@pytest.mark.parametrize("location", ["x/y.zarr", "/x/y.zarr", Path("x/y.zarr")])
def test_paths_are_local(location: str | Path) -> None:
    files = files_at(location)
    assert files.is_local
    assert str(files) == str(location)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nosuch://bucket/run\.zarr cannot be opened"):
        files_at("nosuch://bucket/run.zarr")


def test_a_store_lies_in_the_work_directory_unless_its_recipe_says_otherwise(
    toy_recipe: Recipe, tmp_path: Path
) -> None:
    assert str(store_files(WorkDir(tmp_path), toy_recipe)) == str(tmp_path / "heatmaps.zarr")
    changes = ["store.location='/scratch/run.zarr'"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), changes)
    assert str(store_files(WorkDir(tmp_path), recipe)) == "/scratch/run.zarr"
