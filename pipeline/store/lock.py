"""The lock that admits one writer to a local store."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

MAX_HOLDER_CHARACTERS = 100


@contextmanager
def writer_lock(store: Path) -> Iterator[None]:
    """Hold the lock of the store at a path while the block runs. Does not wait for it.

    The lock is a file beside the store, not in it: the bytes of a store must not depend on who
    wrote it. The operating system releases the lock when the process ends, also when it is killed.
    Neither subprocesses nor forked processes keep it: `filelock` opens the file as not inheritable
    and closes it in forked children, so loader workers that outlive a killed writer by some seconds
    do not hold up the next one.

    Raises:
        ValueError: another writer holds the lock, or a symbolic link is in the lock file's place.
        OSError: the lock file cannot be opened, or its file system has no locks.
    """
    path = store.with_name(f".{store.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    # For a clear message. `filelock` itself opens the file with O_NOFOLLOW.
    if path.is_symlink():
        raise ValueError(
            f"expected a lock file at {path}, found a symbolic link: remove it, and run this again"
        )
    lock = FileLock(path, blocking=False, on_acquired=_write_holder)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{store} is being written by {_read_holder(path)}: wait for it, or stop it, and run "
            "this again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())


def _read_holder(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_HOLDER_CHARACTERS) or "another process"
    except (OSError, ValueError):  # Windows denies reading a locked range
        return "another process"
