"""A store's objects by name, on a local disk or behind an fsspec URL; each is written atomically.

Names are relative to the store and use `/`. A local object is a file, written under a temporary
name, synced and renamed. A remote object is put in place by the object store, atomically.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.files import atomic
from .lock import writer_lock

MAX_OBJECT_BYTES = 1 << 32
"""Limit of what is read into memory; every object of a store is smaller."""

TEMPORARY_NAMES = (".*.tmp", "*.partial")
"""Unfinished files, as named by `atomic` and by zarr-python (for metadata)."""


class Storage(Protocol):
    """The objects of one store. Cheap to pickle; `str` gives the path or URL."""

    @property
    def is_local(self) -> bool:
        """Whether the objects are files that can be memory-mapped."""

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """The content of an object.

        Raises:
            FileNotFoundError: there is no such object.
            ValueError: it is larger than `limit` bytes.
        """

    def read_array(self, name: str) -> NDArray[np.uint8]:
        """The content of an object as uint8 (bytes,): memory-mapped if local, read otherwise."""

    def write(self, name: str, content: bytes) -> None:
        """Create or replace an object atomically; it is durable when this returns."""

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every object below a folder, by its name relative to the folder.

        Empty if there is no such folder.
        """

    def exists(self) -> bool:
        """Whether there is a store, that is, the metadata of its group, which is written last."""

    def remove(self) -> None:
        """Remove all objects."""

    def zarr(self) -> Any:
        """The argument by which zarr-python opens the store."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude other writers while the block runs, where the storage has locks.

        Raises:
            ValueError: another process is writing the store.
        """


def open_storage(location: str | Path) -> Storage:
    """The storage at a path or URL. Nothing has to exist there yet.

    Raises:
        ValueError: the URL is incomplete, or its protocol needs a package that is not installed.
    """
    if isinstance(location, Path) or "://" not in location:
        return LocalStorage(Path(location))
    protocol, path = location.split("://", 1)
    if not path.strip("/"):
        raise ValueError(f"expected a location such as s3://bucket/run.zarr, got {location}")
    return LocalStorage(Path(path)) if protocol == "file" else RemoteStorage(location.rstrip("/"))


@dataclass(frozen=True)
class LocalStorage:
    """A folder."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @property
    def is_local(self) -> bool:
        return True

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        path = self.root / name
        _check_size(path.stat().st_size, limit, str(path))
        return path.read_bytes()

    def read_array(self, name: str) -> NDArray[np.uint8]:
        path = self.root / name
        # Unlike `mmap`, PyTorch keeps no file descriptor open for a mapping; a process usually may
        # have 1024 of them.
        mapped = torch.from_file(
            str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8
        )
        content: NDArray[np.uint8] = mapped.numpy()
        content.flags.writeable = False
        return content

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:  # name the file: a full disk is reported without one
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sizes(self, folder: str) -> dict[str, int]:
        base = self.root / folder
        sizes = {}
        for parent, _, names in os.walk(base):
            for path in (Path(parent) / name for name in names):
                with suppress(FileNotFoundError):  # a writer has renamed or removed it meanwhile
                    sizes[path.relative_to(base).as_posix()] = path.stat().st_size
        return sizes

    def exists(self) -> bool:
        return (self.root / "zarr.json").is_file()

    def remove(self) -> None:
        # Renamed first, which is atomic: a half-removed store would be neither a store nor an empty
        # folder.
        self.root.rename(self._to_remove)
        shutil.rmtree(self._to_remove)

    def zarr(self) -> Any:
        return self.root

    @contextmanager
    def locked(self) -> Iterator[None]:
        with writer_lock(self.root):
            self._remove_leftovers()
            yield
            self._remove_leftovers()  # of workers that were killed meanwhile

    @property
    def _to_remove(self) -> Path:
        return self.root.with_name(f".{self.root.name}.removed")

    def _remove_leftovers(self) -> None:
        """Remove unfinished files of killed writers. Call with the lock held."""
        if self._to_remove.exists():
            shutil.rmtree(self._to_remove)
        for pattern in TEMPORARY_NAMES:
            for path in self.root.rglob(pattern):
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RemoteStorage:
    """A folder behind an fsspec URL, such as s3://bucket/run.zarr.

    Credentials and endpoint come from where the URL's library looks for them (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, ~/.aws, ...). Any error of the library is raised as an OSError with its
    message.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{self.url} cannot be opened ({error}): install what it needs, for s3:// with "
                "`pip install 'fast-pose-distillation[s3]'`, or name another location with --store"
            ) from None

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        with self._file_system(name) as (system, path):
            # A single request that reads at most one byte too many. Checking the size first would
            # take a second request.
            content: bytes = system.cat_file(path, start=0, end=limit + 1)
        _check_size(len(content), limit, f"{self.url}/{name}")
        return content

    def read_array(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self.read(name), np.uint8)

    def write(self, name: str, content: bytes) -> None:
        with self._file_system(name) as (system, path):
            system.pipe_file(path, content)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError), self._file_system(name) as (system, path):
            system.rm_file(path)

    def sizes(self, folder: str) -> dict[str, int]:
        with suppress(FileNotFoundError), self._file_system(folder) as (system, base):
            objects = system.find(base, detail=True)
            return {
                path.removeprefix(base + "/"): int(info["size"] or 0)
                for path, info in objects.items()
                # Skip the empty objects that some tools create to represent folders. s3fs may list
                # them without the slash at their end.
                if path.startswith(base + "/") and not path.endswith("/")
            }
        return {}

    def exists(self) -> bool:
        with suppress(FileNotFoundError), self._file_system("zarr.json") as (system, path):
            system.info(path)
            return True
        return False

    def remove(self) -> None:
        # The metadata of the group last. If interrupted, this is still a store, and the same
        # command removes the rest.
        names = [name for name in self.sizes("") if name != "zarr.json"]
        with self._file_system("") as (system, root):
            if names:
                system.rm([f"{root}/{name}" for name in names])
        self.delete("zarr.json")

    def zarr(self) -> Any:
        return self.url

    @contextmanager
    def locked(self) -> Iterator[None]:
        # Object stores have no locks. Two writers put the same bytes under the same names, each
        # object atomically, and write identical receipts: the work is wasted, but correct.
        yield

    @contextmanager
    def _file_system(self, name: str) -> Iterator[tuple[Any, str]]:
        """The file system and an object's path in it; any exception in the block is an OSError."""
        location = f"{self.url}/{name}" if name else self.url
        try:
            # fsspec caches one instance per process. Kept here, it would not survive a fork.
            system, root = fsspec.url_to_fs(self.url)
            system.invalidate_cache()  # of listings: other processes write, too
            yield system, f"{root}/{name}" if name else root
        except Exception as error:  # each library has its own exceptions
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(_error_number(error), reason, location) from error


def _error_number(error: Exception) -> int:
    """The `errno` of an exception, which libraries may raise without one."""
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return errno.EACCES
    return getattr(error, "errno", None) or errno.EIO


def _check_size(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}: not a file of this store")
