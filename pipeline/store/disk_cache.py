"""Keeps the shards of a remote store on a local disk, which takes no more than a stated size.

    CACHE_DIR/fpd-cache-UID/       mode 0700, of the user UID
      URL/OBJECT                   digests of the store's URL and of the object's name
      usage                        bytes reserved, at least the size of all objects
      lock, fetch-00.lock, ...

An object is fetched whole, by one of all processes that use the folder, and written under a
temporary name of its final size before it is renamed. What was used least recently is removed
first. Parts are read on demand: a file that is mapped or kept open would take disk space after its
removal. Metadata and receipts are always read from the store. The reader compares objects with
their receipts, as it does without a cache; one that does not match is fetched again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from .storage import MAX_OBJECT_BYTES, Content, Storage, check_size

log = logging.getLogger("fpd")

BLOCK_BYTES = 4096
"""Disks allocate whole blocks, of this size on most."""

KEPT_SHARE = 0.9
"""Share of the cache that a removal leaves: removals, which list all files, are then rare."""

LOCK_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.01

FETCH_LOCKS = 64
"""Processes that want the same object share a lock; with this many, others rarely wait."""

TOUCH_INTERVAL_S = 10.0
"""How often an object that is read again and again is marked as used."""

_SHARD_NAME = re.compile(r"(.+/)?\w+/c(/\d+)+", re.ASCII)
_FOLDER_NAME = re.compile("[0-9a-f]{32}")
_FILE_NAME = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\.[0-9a-f]{16}\.tmp")

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
_BINARY = getattr(os, "O_BINARY", 0)  # only Windows has it


def with_disk_cache(storage: Storage, location: str | None, max_bytes: int) -> Storage:
    """A storage whose shards are kept on a local disk; a local storage is returned as it is.

    Args:
        location: the folder to use, which is created; None: no cache.
        max_bytes: largest size of all files in it.

    Raises:
        ValueError: the folder cannot be used.
    """
    if location is None or storage.is_local:
        return storage
    return CachedStorage(storage, DiskCache.open(Path(location), max_bytes))


class _File(NamedTuple):
    """A file of the cache; sorts by its last use."""

    used_ns: int
    size: int
    path: Path


@dataclass(frozen=True)
class DiskCache:
    """A folder of objects. Safe for several processes; cheap to pickle."""

    folder: Path
    max_bytes: int

    @classmethod
    def open(cls, location: Path, max_bytes: int) -> DiskCache:
        """The cache in a folder, created if need be.

        Raises:
            ValueError: the folder cannot be created, or others have access to it.
        """
        user = os.geteuid() if hasattr(os, "geteuid") else 0
        folder = location.absolute() / f"fpd-cache-{user}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
        except OSError as error:
            raise ValueError(
                f"the cache {folder} cannot be created ({error.strerror}): name another folder "
                "with --cache-dir"
            ) from None
        is_private = os.name == "nt" or (status.st_uid == user and not status.st_mode & 0o077)
        if not stat.S_ISDIR(status.st_mode) or not is_private:
            raise ValueError(
                f"expected a folder at {folder} that nobody else has access to (mode 0700), found "
                "another: move it away, or name another folder with --cache-dir"
            )
        return cls(folder, max_bytes)

    def path(self, store: str, name: str) -> Path:
        """Where an object is kept."""
        return self.folder / _digest(store) / _digest(name)

    def size(self, path: Path) -> int | None:
        """Size in bytes of a kept object; None if it is not kept."""
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                return status.st_size
        return None

    def read(self, path: Path, start: int, end: int, *, touch: bool) -> bytes | None:
        """Some bytes of a kept object; None if it is not kept, or shorter.

        Args:
            touch: mark it as used.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _BINARY)
        except OSError:
            return None
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(end - start)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if touch:
            with suppress(OSError):  # it may have been removed meanwhile
                os.utime(path)
        return content if len(content) == end - start else None

    def add(self, path: Path, content: bytes) -> bool:
        """Keep an object, for which others may be removed. Returns whether it is kept."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            if not self._reserve(temporary, len(content)):
                return False
            with temporary.open("r+b") as file:
                file.write(content)
            temporary.replace(path)
        except OSError as error:  # also where another process removed it to make room
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            log.debug("%s: not kept: %s", path, error)
            return False
        return True

    def remove(self, path: Path) -> bool:
        """Remove an object. Returns whether it was kept."""
        with suppress(OSError):
            path.unlink()
            return True
        return False

    @contextmanager
    def fetching(self, path: Path) -> Iterator[None]:
        """Let other processes that want the same object wait until it is kept, or for a minute."""
        number = int(path.name[:8], 16) % FETCH_LOCKS
        lock = self._lock(f"fetch-{number:02}.lock")
        with suppress(OSError, Timeout):  # without the lock, an object may be fetched twice
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / name, timeout=LOCK_TIMEOUT_S, poll_interval=POLL_INTERVAL_S)

    def _reserve(self, temporary: Path, size: int) -> bool:
        """Make room for a file, and create it with its final size; False if it is too large."""
        needed = _disk_bytes(size)
        if needed > self.max_bytes:
            return False
        with self._lock("lock"):
            used = self._usage()
            if used is None or used + needed > self.max_bytes:
                used = self._shrink(self.max_bytes - needed)
            # First, so that a process that is killed here leaves the sum too large, not too small.
            (self.folder / "usage").write_text(f"{used + needed}\n")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
            descriptor = os.open(temporary, flags, 0o600)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
        return True

    def _usage(self) -> int | None:
        """The bytes that were reserved; None if unknown."""
        try:
            with (self.folder / "usage").open() as file:
                return int(file.read(32))
        except (OSError, ValueError):
            return None

    def _shrink(self, most: int) -> int:
        """Remove files until they take at most this many bytes. Returns what the others take."""
        files = sorted(self._files())
        used = sum(file.size for file in files)
        if used > most:
            most = min(most, int(KEPT_SHARE * self.max_bytes))
            for file in files:
                if used <= most:
                    break
                file.path.unlink(missing_ok=True)
                used -= file.size
        return used

    def _files(self) -> Iterator[_File]:
        """Our own files: objects, and unfinished ones, also of processes that were killed."""
        for folder in os.scandir(self.folder):
            if not _FOLDER_NAME.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if _FILE_NAME.fullmatch(entry.name) and stat.S_ISREG(status.st_mode):
                        size = _disk_bytes(status.st_size)
                        yield _File(status.st_mtime_ns, size, Path(entry.path))


class CachedObject:
    """A kept object, of which parts are read on demand; fetched again where it was removed."""

    nbytes = 0
    """Bytes of memory that it takes."""

    def __init__(self, storage: CachedStorage, name: str, size: int) -> None:
        self._storage = storage
        self._name = name
        self._size = size
        self._touched_s = 0.0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        """The bytes of a slice without a step, uint8.

        Raises:
            ValueError: the object was fetched again and has another size now.
            OSError: it was removed from the disk, and cannot be fetched.
        """
        start, end, step = part.indices(self._size)
        if step != 1:
            raise ValueError(f"expected a slice without a step, got {part}")
        now = time.monotonic()
        touch = now - self._touched_s > TOUCH_INTERVAL_S
        self._touched_s = now if touch else self._touched_s
        content = self._storage.read_part(self._name, start, max(start, end), self._size, touch)
        return np.frombuffer(content, np.uint8)


@dataclass(frozen=True)
class CachedStorage:
    """A remote storage whose shards are kept on a local disk."""

    remote: Storage
    cache: DiskCache

    def __str__(self) -> str:
        return str(self.remote)

    @property
    def is_local(self) -> bool:
        return False

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        if not _SHARD_NAME.fullmatch(name):
            return self.remote.read(name, limit)
        path = self._path(name)
        size = self.cache.size(path)
        if size is not None:
            check_size(size, limit, f"{self}/{name}")
            content = self.cache.read(path, 0, size, touch=True)
            if content is not None:
                return content
        return self._fetch(name, limit)

    def read_array(self, name: str) -> Content:
        path = self._path(name)
        size = self.cache.size(path)
        if size is None:
            content = self._fetch(name)
            size = len(content)
            if self.cache.size(path) != size:  # there is no room for it
                return np.frombuffer(content, np.uint8)
        return CachedObject(self, name, size)

    def read_part(self, name: str, start: int, end: int, size: int, touch: bool) -> bytes:
        """Some bytes of an object of `size` bytes; see `CachedObject`."""
        content = self.cache.read(self._path(name), start, end, touch=touch)
        if content is not None:
            return content
        whole = self._fetch(name)
        if len(whole) != size:
            raise ValueError(f"{name} was replaced while it was read")
        return whole[start:end]

    def read_many(self, names: Sequence[str], limit: int) -> list[bytes | None]:
        return self.remote.read_many(names, limit)

    def object_sizes(self, names: Sequence[str]) -> dict[str, int]:
        return self.remote.object_sizes(names)

    def discard(self, name: str) -> bool:
        return self.cache.remove(self._path(name))

    def write(self, name: str, content: bytes) -> None:
        self.discard(name)
        self.remote.write(name, content)

    def delete(self, name: str) -> None:
        self.discard(name)
        self.remote.delete(name)

    def sizes(self, folder: str) -> dict[str, int]:
        return self.remote.sizes(folder)

    def has_any(self, folder: str) -> bool:
        return self.remote.has_any(folder)

    def names(self, folder: str) -> set[str]:
        return self.remote.names(folder)

    def exists(self) -> bool:
        return self.remote.exists()

    def remove(self) -> None:
        self.remote.remove()

    def zarr(self) -> Any:
        return self.remote.zarr()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.remote.locked():
            yield

    def _path(self, name: str) -> Path:
        return self.cache.path(str(self.remote), name)

    def _fetch(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """The content of an object, fetched unless another process just did, and kept."""
        path = self._path(name)
        with self.cache.fetching(path):
            size = self.cache.size(path)
            if size is not None and size <= limit:
                kept = self.cache.read(path, 0, size, touch=True)
                if kept is not None:
                    return kept
            content = self.remote.read(name, limit)
            self.cache.add(path, content)
        return content


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _disk_bytes(size: int) -> int:
    """Bytes that a file takes on disk."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES
