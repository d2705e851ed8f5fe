"""A store's objects by name, on a local disk or behind an fsspec URL; each is written atomically.

Names are relative to the store and use `/`. A local object is a file, written under a temporary
name, synced and renamed. A remote object is put in place by the object store, atomically.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
import torch
from fsspec.asyn import sync
from numpy.typing import NDArray

from ..runtime.files import atomic
from ..runtime.lock import writer_lock
from ..runtime.text import check_url
from .schema import MANIFEST, is_object_name

MAX_OBJECT_BYTES = 1 << 32
"""Limit of what is read into memory; every object of a store is smaller."""

MAX_IN_FLIGHT = 64
"""Requests to an object store at a time, where many small objects are read."""

_TEMPORARY_NAME = re.compile(
    r"\.(?P<atomic>[^/]+)\.[0-9a-f]{16}\.tmp|(?P<zarr>zarr)\.[0-9a-f]{32}\.partial"
)
"""Unfinished files, as named by `atomic` and by zarr-python (for metadata)."""

EXECUTING_PROTOCOLS = {"dask", "jlab", "jupyter", "pyscript", "reference"}
"""fsspec's protocols that connect to something that runs code, or that render templates: a recipe
of somebody else could name them (fsspec/implementations/dask.py, jupyter.py, reference.py)."""

MAX_GROUP_BYTES = 1 << 24
"""Limit of the group's metadata."""


class Content(Protocol):
    """The bytes of an object: an array of uint8, or an object of which slices are read."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, or can be mapped to."""

    def __len__(self) -> int:
        """Number of bytes."""

    def __getitem__(self, part: slice, /) -> Any:
        """A slice without a step: uint8 (bytes,)."""


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

    def read_array(self, name: str) -> Content:
        """The content of an object: memory-mapped if local, on a local disk if that is its cache,
        in memory otherwise.
        """

    def read_many(self, names: Sequence[str], limit: int) -> list[bytes | None]:
        """The content of each object, None for those that cannot be read or exceed the limit.

        Remote objects are read concurrently, `MAX_IN_FLIGHT` at a time.
        """

    def object_sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Size in bytes of each of these objects that exists; concurrently, as `read_many`."""

    def discard(self, name: str) -> bool:
        """Remove a cached copy of an object. Returns whether there was one."""

    def write(self, name: str, content: bytes) -> None:
        """Create or replace an object atomically; it is durable when this returns."""

    def delete(self, name: str) -> None:
        """Remove an object, if it exists."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every object below a folder, by its name relative to the folder.

        Empty if there is no such folder.
        """

    def has_any(self, folder: str) -> bool:
        """Whether there is an object below a folder."""

    def names(self, folder: str) -> set[str]:
        """Names of the objects and folders directly in a folder; empty if there is none."""

    def exists(self) -> bool:
        """Whether there is a store, that is, the metadata of its group, which is written last."""

    def remove(self) -> None:
        """Remove a store. Nothing else is ever removed.

        Raises:
            ValueError: the group has no manifest of ours, or there are other files.
        """

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
        ValueError: the URL is incomplete, holds a password or could run code, or its protocol needs
            a package that is not installed.
    """
    if isinstance(location, Path) or "://" not in location:
        return LocalStorage(Path(location))
    check_url(location)
    protocol, path = location.split("://", 1)
    executing = EXECUTING_PROTOCOLS & set(re.split(r"::|://", location))
    if executing:
        raise ValueError(
            f"expected a location such as s3://bucket/run.zarr, got the protocol "
            f"{min(executing)}://, by which another machine or a file of references could run "
            "code here"
        )
    if not path.strip("/"):
        raise ValueError(f"expected a location such as s3://bucket/run.zarr, got {location}")
    return LocalStorage(Path(path)) if protocol == "file" else RemoteStorage(location.rstrip("/"))


@dataclass(frozen=True)
class LocalStorage:
    """A folder, or a symbolic link to one. Links below it are not followed to write."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @property
    def is_local(self) -> bool:
        return True

    @property
    def _folder(self) -> Path:
        """The folder itself, where `root` is a link to it."""
        return Path(os.path.realpath(self.root))

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        path = self.root / name
        check_size(_file_size(path), limit, str(path))
        with path.open("rb") as file:  # it may grow meanwhile
            content = file.read(limit + 1)
        check_size(len(content), limit, str(path))
        return content

    def read_array(self, name: str) -> NDArray[np.uint8]:
        path = self.root / name
        size = _file_size(path)
        # Unlike `mmap`, PyTorch keeps no file descriptor open for a mapping; a process usually may
        # have 1024 of them.
        mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        content: NDArray[np.uint8] = mapped.numpy()
        content.flags.writeable = False
        return content

    def read_many(self, names: Sequence[str], limit: int) -> list[bytes | None]:
        contents: list[bytes | None] = []
        for name in names:
            try:
                contents.append(self.read(name, limit))
            except (OSError, ValueError):
                contents.append(None)
        return contents

    def object_sizes(self, names: Sequence[str]) -> dict[str, int]:
        sizes = {}
        for name in names:
            with suppress(OSError, ValueError):
                sizes[name] = _file_size(self.root / name)
        return sizes

    def discard(self, name: str) -> bool:
        return False

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        try:
            self._make_room(name)
            with atomic(self._folder / name) as temporary:
                temporary.write_bytes(content)
        except OSError as error:  # name the file: a full disk is reported without one
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None

    def _make_room(self, name: str) -> None:
        """Create an object's folder, and remove an empty folder in the object's place.

        Raises:
            ValueError: a link, a file or a folder with content is in the way.
        """
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(
                f"expected a folder at {path.parent}, found a file there or above it: move it "
                "away, and run the same command again"
            ) from None
        _check_not_linked(path.parent)
        _remove_empty_folder(path)

    def delete(self, name: str) -> None:
        path = self._folder / name
        _check_not_linked(path.parent)
        with suppress(FileNotFoundError, NotADirectoryError):
            _remove_empty_folder(path)
            path.unlink()

    def sizes(self, folder: str) -> dict[str, int]:
        base = self.root / folder
        sizes = {}
        for parent, _, names in os.walk(base):
            for path in (Path(parent) / name for name in names):
                with suppress(FileNotFoundError):  # a writer has renamed or removed it meanwhile
                    sizes[path.relative_to(base).as_posix()] = path.stat().st_size
        return sizes

    def has_any(self, folder: str) -> bool:
        return any(names for _, _, names in os.walk(self.root / folder))

    def names(self, folder: str) -> set[str]:
        try:
            return {path.name for path in (self.root / folder).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def exists(self) -> bool:
        return (self.root / "zarr.json").is_file()

    def remove(self) -> None:
        check_removable(self)
        # Renamed first, which is atomic: a half-removed store would be neither a store nor an empty
        # folder.
        self._folder.rename(self._to_remove)
        shutil.rmtree(self._to_remove)

    def zarr(self) -> Any:
        return self.root

    @contextmanager
    def locked(self) -> Iterator[None]:
        with writer_lock(self._folder):
            self._remove_leftovers()
            yield
            self._remove_leftovers()  # of workers that were killed meanwhile

    @property
    def _to_remove(self) -> Path:
        return self._folder.with_name(f".{self._folder.name}.removed")

    def _remove_leftovers(self) -> None:
        """Remove unfinished files of killed writers, and nothing else. Call with the lock held."""
        to_remove = LocalStorage(self._to_remove)
        if to_remove.root.is_dir() and not to_remove.root.is_symlink():
            unknown = foreign_names(to_remove)
            if unknown:
                raise ValueError(
                    f"expected the rest of a removed store at {to_remove}, found {unknown[0]} in "
                    "it: move the folder away, and run the same command again"
                )
            shutil.rmtree(to_remove.root)
        for parent, _, names in os.walk(self._folder):
            for path in (Path(parent) / name for name in names):
                if _is_temporary(path.relative_to(self._folder).as_posix()):
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
        check_size(len(content), limit, f"{self.url}/{name}")
        return content

    def read_array(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self.read(name), np.uint8)

    def read_many(self, names: Sequence[str], limit: int) -> list[bytes | None]:
        results = self._call_for_each("cat_file", names, start=0, end=limit + 1)
        return [r if isinstance(r, bytes) and len(r) <= limit else None for r in results]

    def object_sizes(self, names: Sequence[str]) -> dict[str, int]:
        results = self._call_for_each("info", names)
        return {
            name: int(result["size"] or 0)
            for name, result in zip(names, results, strict=True)
            if isinstance(result, dict) and result.get("type") == "file"
        }

    def discard(self, name: str) -> bool:
        return False

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

    def has_any(self, folder: str) -> bool:
        return bool(self.names(folder))

    def names(self, folder: str) -> set[str]:
        with suppress(FileNotFoundError), self._file_system(folder) as (system, base):
            return {path.rstrip("/").rpartition("/")[2] for path in system.ls(base, detail=False)}
        return set()

    def exists(self) -> bool:
        with suppress(FileNotFoundError), self._file_system("zarr.json") as (system, path):
            system.info(path)
            return True
        return False

    def remove(self) -> None:
        check_removable(self)
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

    def _call_for_each(self, method: str, names: Sequence[str], **arguments: Any) -> list[Any]:
        """The results of a file system's method for each object, exceptions among them."""
        with self._file_system("") as (system, root):
            paths = [f"{root}/{name}" for name in names]
            if system.async_impl:
                call = partial(getattr(system, f"_{method}"), **arguments)
                results: list[Any] = sync(system.loop, _gather, call, paths)
                return results
            return [
                _result_or_error(partial(getattr(system, method), **arguments), p) for p in paths
            ]

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


async def _gather(call: Callable[[str], Awaitable[Any]], paths: Sequence[str]) -> list[Any]:
    """The result of a call for each path, or its exception; `MAX_IN_FLIGHT` at a time."""
    in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def bounded(path: str) -> Any:
        async with in_flight:
            return await call(path)

    return await asyncio.gather(*map(bounded, paths), return_exceptions=True)


def _result_or_error(call: Callable[[str], Any], path: str) -> Any:
    try:
        return call(path)
    except Exception as error:  # each library has its own exceptions
        return error


@dataclass(frozen=True)
class StoragePart:
    """The objects of a storage below a folder, such as the samples of a split."""

    whole: Storage
    folder: str

    def __str__(self) -> str:
        return f"{self.whole}/{self.folder}"

    @property
    def is_local(self) -> bool:
        return self.whole.is_local

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        return self.whole.read(f"{self.folder}/{name}", limit)

    def read_array(self, name: str) -> Content:
        return self.whole.read_array(f"{self.folder}/{name}")

    def read_many(self, names: Sequence[str], limit: int) -> list[bytes | None]:
        return self.whole.read_many([f"{self.folder}/{name}" for name in names], limit)

    def object_sizes(self, names: Sequence[str]) -> dict[str, int]:
        sizes = self.whole.object_sizes([f"{self.folder}/{name}" for name in names])
        return {name.removeprefix(f"{self.folder}/"): size for name, size in sizes.items()}

    def discard(self, name: str) -> bool:
        return self.whole.discard(f"{self.folder}/{name}")

    def write(self, name: str, content: bytes) -> None:
        self.whole.write(f"{self.folder}/{name}", content)

    def delete(self, name: str) -> None:
        self.whole.delete(f"{self.folder}/{name}")

    def sizes(self, folder: str) -> dict[str, int]:
        return self.whole.sizes(f"{self.folder}/{folder}".rstrip("/"))

    def has_any(self, folder: str) -> bool:
        return self.whole.has_any(f"{self.folder}/{folder}")

    def names(self, folder: str) -> set[str]:
        return self.whole.names(f"{self.folder}/{folder}".rstrip("/"))

    def exists(self) -> bool:
        return "zarr.json" in self.names("")

    def remove(self) -> None:
        """Remove all objects; the metadata of the group last.

        Raises:
            ValueError: there are other files, or the folder is a symbolic link.
        """
        names = sorted(self.sizes(""), key=lambda name: name == "zarr.json")
        for name in names:
            full_name = f"{self.folder}/{name}"
            if not (is_object_name(full_name) or _is_temporary(full_name)):
                raise ValueError(
                    f"{self} also holds {name}, which is not part of a heatmap store, so it is not "
                    "removed: move that away, and run the same command again"
                )
        for name in names:
            self.delete(name)

    def zarr(self) -> Any:
        location = self.whole.zarr()
        return location / self.folder if isinstance(location, Path) else f"{location}/{self.folder}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.whole.locked():
            yield


def check_removable(storage: Storage) -> None:
    """Check that a location holds a store of ours, of any schema, and nothing else.

    Raises:
        ValueError: it does not.
    """
    try:
        group = json.loads(storage.read("zarr.json", MAX_GROUP_BYTES))
        is_ours = "schema" in group["attributes"][MANIFEST]
    except (FileNotFoundError, KeyError, TypeError, ValueError, RecursionError):
        is_ours = False
    if not is_ours:
        raise ValueError(
            f"{storage} is not a heatmap store (its zarr.json has no manifest), so it is not "
            "removed: move it away, or name another location with --store"
        )
    unknown = foreign_names(storage)
    if unknown:
        raise ValueError(
            f"{storage} also holds {unknown[0]}, which is not part of a heatmap store, so it is "
            "not removed: move that away, or name another location with --store"
        )


def foreign_names(storage: Storage) -> list[str]:
    """Names of the objects that no store has, in order."""
    names = storage.sizes("")
    return sorted(name for name in names if not (is_object_name(name) or _is_temporary(name)))


def _is_temporary(name: str) -> bool:
    """Whether this is the name of an unfinished object of a store."""
    folder, slash, file = name.rpartition("/")
    match = _TEMPORARY_NAME.fullmatch(file)
    if match is None:
        return False
    finished = match["atomic"] or f"{match['zarr']}.json"
    return is_object_name(f"{folder}{slash}{finished}")


def _file_size(path: Path) -> int:
    """Size of a regular file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: something else has its name, such as a folder.
    """
    try:
        status = path.stat()
    except NotADirectoryError:
        raise ValueError(f"{path}: expected a file, found one in its folder's place") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "something else"
        raise ValueError(f"{path}: expected a file, found {kind}")
    return status.st_size


def _check_not_linked(folder: Path) -> None:
    """Refuse to change files below a symbolic link, which are not the store's.

    Raises:
        ValueError: the folder, or one above it, is a link.
    """
    if os.path.realpath(folder) != str(folder):
        raise ValueError(
            f"expected a folder at {folder}, found a symbolic link: a store is written "
            "into no other folder; replace the link by the folder"
        )


def _remove_empty_folder(path: Path) -> None:
    """Remove a folder in a file's place.

    Raises:
        ValueError: it is not empty.
    """
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError:
            raise ValueError(
                f"expected a file at {path}, found a folder that is not empty: move it away, and "
                "run the same command again"
            ) from None


def _error_number(error: Exception) -> int:
    """The `errno` of an exception, which libraries may raise without one."""
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return errno.EACCES
    return getattr(error, "errno", None) or errno.EIO


def check_size(size: int, limit: int, name: str) -> None:
    """Refuse an object that is larger than `limit` bytes."""
    if size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}: not a file of this store")
