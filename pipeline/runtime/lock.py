"""The lock that admits one writer at a time to a store, a folder or a file."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .launch import launched_rank
from .text import printable

MAX_HOLDER_BYTES = 300

HOLDER = b"process "
"""What a lock file starts with."""

INSIDE = ".fpd.lock"
"""Name of a lock file inside the folder that it protects."""


class BeingWritten(ValueError):
    """Another writer holds the lock."""


@contextmanager
def writer_lock(target: Path, *, inside: bool = False) -> Iterator[None]:
    """Hold the lock of a path while the block runs. Does not wait for it.

    The operating system releases the lock when the process ends, also when it is killed. Neither
    subprocesses nor forked processes keep it: `filelock` opens the file as not inheritable and
    closes it in forked children, so loader workers that outlive a killed writer by some seconds do
    not hold up the next one. The lock file itself stays. Of processes that torchrun started
    together, the first one holds the lock for all.

    Args:
        target: what is written: a file or a folder, which need not exist.
        inside: put the lock file into the folder `target`, which exists, for folders whose parent
            may not be writable. Otherwise it is beside `target`, so that neither removing the
            folder removes the lock, nor its content depends on who wrote it.

    Raises:
        BeingWritten: another writer holds the lock.
        ValueError: a symbolic link or a file of others is in the lock file's place.
        OSError: the lock file cannot be opened.
    """
    if launched_rank() != 0:
        yield
        return
    lock = _acquire(target, _lock_file(target, inside=inside))
    try:
        yield
    finally:
        lock.release()


def _lock_file(target: Path, *, inside: bool) -> Path:
    absolute = target.absolute()
    return absolute / INSIDE if inside else absolute.with_name(f".{absolute.name}.lock")


def _acquire(target: Path, path: Path) -> FileLock:
    """Take the lock of `target`, whose file is at `path`; the exceptions of `writer_lock`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # For a clear message. `filelock` itself opens the file with O_NOFOLLOW.
    if path.is_symlink():
        raise ValueError(
            f"expected a lock file at {path}, found a symbolic link: remove it, and run this again"
        )
    lock = FileLock(path, blocking=False, on_acquired=_write_holder)
    try:
        lock.acquire()
    except _OthersFile:
        lock.release()
        raise ValueError(
            f"expected a lock file at {path}, found another file: move it away, and run this again"
        ) from None
    except Timeout:
        raise BeingWritten(
            f"{target} is being written by {_read_holder(path)}: wait for it, or stop it, and run "
            "this again"
        ) from None
    except OSError as error:  # writing the holder to a full disk names no file
        lock.release()
        error.filename = error.filename or str(path)
        raise
    return lock


class _OthersFile(Exception):
    """A file that no lock wrote is in the lock file's place."""


def _write_holder(descriptor: int) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    content = os.read(descriptor, len(HOLDER))
    if content != HOLDER[: len(content)]:
        raise _OthersFile
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, HOLDER + f"{os.getpid()} on {platform.node()}".encode())


def _read_holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            holder = file.read(MAX_HOLDER_BYTES).decode("utf-8", errors="replace")
    except OSError:  # Windows denies reading a locked range
        holder = ""
    return printable(holder) or "another process"
