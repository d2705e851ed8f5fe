"""One writer per store: excluded while it runs, admitted again however it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from fpd.pipeline.store.local_storage import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "store.zarr")


def fork(run: Callable[[], object]) -> int:
    """Call a function in a forked process, which it leaves by itself. Returns the process id."""
    process = os.fork()
    if process == 0:
        try:
            run()
        finally:
            os._exit(1)
    return process


def test_a_second_writer_is_refused_until_the_first_has_ended(storage: LocalStorage) -> None:
    with storage.locked():
        with (
            pytest.raises(
                ValueError, match=rf"store\.zarr is being written by process {os.getpid()} on "
            ),
            storage.locked(),
        ):
            raise AssertionError("two writers at the same time")
        with (
            pytest.raises(ValueError, match=f"process {os.getpid()} on "),
            storage.locked(),
        ):  # the refused one has not changed the lock
            raise AssertionError("two writers at the same time")
    with storage.locked():
        storage.write("a", b"bytes")
    assert list(storage.sizes("")) == ["a"]  # the lock file is not part of the store


def test_a_lock_is_released_after_an_exception(storage: LocalStorage) -> None:
    with pytest.raises(KeyError), storage.locked():
        raise KeyError
    with storage.locked():
        pass


def test_another_store_in_the_same_folder_is_not_locked(tmp_path: Path) -> None:
    with LocalStorage(tmp_path / "a.zarr").locked(), LocalStorage(tmp_path / "b.zarr").locked():
        assert {path.name for path in tmp_path.iterdir()} == {".a.zarr.lock", ".b.zarr.lock"}


def test_the_lock_of_a_killed_writer_is_released_while_its_forked_loader_lives(
    storage: LocalStorage,
) -> None:
    ready, finish = os.pipe(), os.pipe()

    def loader() -> NoReturn:
        os.write(ready[1], b"1")
        os.read(finish[0], 1)
        os._exit(0)

    def writer() -> None:
        with storage.locked():
            fork(loader)
            signal.pause()

    process = fork(writer)
    os.read(ready[0], 1)
    with (
        pytest.raises(ValueError, match=f"being written by process {process} on "),
        storage.locked(),
    ):
        raise AssertionError("two writers at the same time")
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with storage.locked():  # the loader is still waiting
        pass
    os.write(finish[1], b"1")


def test_a_forked_process_that_ends_does_not_release_the_lock(storage: LocalStorage) -> None:
    with storage.locked():
        os.waitpid(fork(lambda: None), 0)
        with pytest.raises(ValueError, match="is being written by"), storage.locked():
            raise AssertionError("two writers at the same time")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists open files by /proc")
def test_subprocesses_do_not_inherit_the_lock(storage: LocalStorage, tmp_path: Path) -> None:
    with storage.locked():
        inheritable = [
            os.get_inheritable(int(descriptor.name))
            for descriptor in Path("/proc/self/fd").iterdir()
            if descriptor.is_symlink() and descriptor.readlink() == tmp_path / ".store.zarr.lock"
        ]
    assert inheritable == [False]


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_in_the_lock_files_place_is_not_followed(
    storage: LocalStorage, tmp_path: Path, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    if exists:
        target.write_bytes(b"precious")
    (tmp_path / ".store.zarr.lock").symlink_to(target)
    with pytest.raises(ValueError, match=r"\.store\.zarr\.lock, found a symbolic link"):
        storage.locked().__enter__()
    # Nor if it is planted after the check.
    monkeypatch.setattr(Path, "is_symlink", lambda _: False)
    with pytest.raises(OSError, match=r"\.store\.zarr\.lock"):
        storage.locked().__enter__()
    assert target.exists() == exists
    assert not exists or target.read_bytes() == b"precious"


def test_a_file_of_others_in_the_lock_files_place_is_kept(
    storage: LocalStorage, tmp_path: Path
) -> None:
    (tmp_path / ".store.zarr.lock").write_bytes(b"precious")
    with pytest.raises(ValueError, match="found another file: move it away"):
        storage.locked().__enter__()
    assert (tmp_path / ".store.zarr.lock").read_bytes() == b"precious"
