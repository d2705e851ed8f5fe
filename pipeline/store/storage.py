"""A store's objects by name, on a local disk or behind any fsspec URL, written whole or not at all.

Names are relative and use `/`. Locally an object is a file: written under a temporary name, synced,
renamed. Remotely it is an object, which object stores put in place at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import fsspec
import numpy as np
import torch
from numpy.typing import NDArray

from ..config.recipe import Recipe
from ..runtime.files import atomic
from ..workdir import WorkDir

# No object of a store is larger: the bound on what is read into memory.
MAX_OBJECT_BYTES = 1 << 32

HALF_WRITTEN = (".*.tmp", "*.partial")
"""Temporary names: ours, and those that zarr-python gives to metadata."""


class Files(Protocol):
    """Where a store lies. Cheap to pickle."""

    @property
    def is_local(self) -> bool:
        """Whether the operating system can map its files."""

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        """An object's content.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is larger than `limit` bytes.
        """

    def view(self, name: str) -> NDArray[np.uint8]:
        """An object's content as uint8 (bytes,): mapped where it is local, read where not."""

    def write(self, name: str, content: bytes) -> None:
        """Put an object in place, whole; it is durable when this returns."""

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every object below a folder, by name relative to it; {} if none is."""

    def exists(self) -> bool:
        """Whether there is a store: its group's metadata, which is written last."""

    def remove(self) -> None:
        """Remove everything."""

    def zarr(self) -> Any:
        """What zarr-python opens it by."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second writer out, as far as the place allows it.

        Raises:
            ValueError: another process is writing.
        """


def files_at(location: str | Path) -> Files:
    """The files at a path or URL.

    Raises:
        ValueError: the URL's protocol needs a package that is not installed.
    """
    if isinstance(location, Path) or "://" not in location:
        return LocalFiles(Path(location))
    protocol, path = location.split("://", 1)
    if not path.strip("/"):
        raise ValueError(f"expected a place such as s3://bucket/run.zarr, got {location}")
    return LocalFiles(Path(path)) if protocol == "file" else RemoteFiles(location.rstrip("/"))


def store_files(work: WorkDir, recipe: Recipe) -> Files:
    """Where a run's store lies: where its recipe says, else in the work directory."""
    return files_at(recipe.store.location or work.store)


@dataclass(frozen=True)
class LocalFiles:
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

    def view(self, name: str) -> NDArray[np.uint8]:
        path = self.root / name
        # PyTorch's mapping keeps no file descriptor, as mmap's does: a process usually has 1024.
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
        except OSError as error:  # of a full disk, the system does not say where
            raise OSError(error.errno, error.strerror or str(error), str(path)) from None

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sizes(self, folder: str) -> dict[str, int]:
        base = self.root / folder
        found = {}
        for parent, _, names in os.walk(base):
            for path in (Path(parent) / name for name in names):
                with suppress(FileNotFoundError):  # renamed or removed since, by a writer at work
                    found[path.relative_to(base).as_posix()] = path.stat().st_size
        return found

    def exists(self) -> bool:
        return (self.root / "zarr.json").is_file()

    def remove(self) -> None:
        # Moved aside at once: a store that is half removed is neither one nor an empty place.
        self.root.rename(self._aside)
        shutil.rmtree(self._aside)

    def zarr(self) -> Any:
        return self.root

    @contextmanager
    def locked(self) -> Iterator[None]:
        # Beside the store, not in it: the store's own bytes must not depend on who wrote them. The
        # kernel lets go of the lock when its process ends, however it ends.
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with self.root.with_name(f".{self.root.name}.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                file.seek(0)
                raise ValueError(
                    f"{self.root} is being written by {file.read(100) or 'another process'}: wait "
                    "for it, or stop it, and run this again"
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
            with _not_inherited(file):
                self._tidy()
                yield
                self._tidy()  # of workers that were killed meanwhile

    @property
    def _aside(self) -> Path:
        return self.root.with_name(f".{self.root.name}.removed")

    def _tidy(self) -> None:
        """Remove what writers left half-done when they were killed: nobody else is writing now."""
        if self._aside.exists():
            shutil.rmtree(self._aside)
        for pattern in HALF_WRITTEN:
            for path in self.root.rglob(pattern):
                path.unlink(missing_ok=True)


_held: set[IO[str]] = set()


@contextmanager
def _not_inherited(file: IO[str]) -> Iterator[None]:
    """Have processes forked meanwhile close a lock's file.

    A lock lasts while any process has its file open: loaders that outlive a killed writer by some
    seconds would keep it.
    """
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)


def _let_go() -> None:
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


@dataclass(frozen=True)
class RemoteFiles:
    """A folder behind an fsspec URL, such as s3://bucket/run.zarr.

    Credentials and endpoint come from where the URL's library looks for them (AWS_ACCESS_KEY_ID,
    AWS_ENDPOINT_URL, ~/.aws, ...). Whatever goes wrong there is an OSError with a reason.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{self.url} cannot be opened ({error}): install what it needs, for s3:// with "
                "`pip install 'fast-pose-distillation[s3]'`, or name another place with --store"
            ) from None

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        with self._opened(name) as (system, path):
            # One request, and no more than asked for: its size would be a request of its own.
            content: bytes = system.cat_file(path, start=0, end=limit + 1)
        _check_size(len(content), limit, f"{self.url}/{name}")
        return content

    def view(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self.read(name), np.uint8)

    def write(self, name: str, content: bytes) -> None:
        with self._opened(name) as (system, path):
            system.pipe_file(path, content)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError), self._opened(name) as (system, path):
            system.rm_file(path)

    def sizes(self, folder: str) -> dict[str, int]:
        with suppress(FileNotFoundError), self._opened(folder) as (system, base):
            found = system.find(base, detail=True)
            return {
                path.removeprefix(base + "/"): int(info["size"] or 0)
                for path, info in found.items()
                # Not the empty objects that some tools call folders; s3fs may drop their slash.
                if path.startswith(base + "/") and not path.endswith("/")
            }
        return {}

    def exists(self) -> bool:
        with suppress(FileNotFoundError), self._opened("zarr.json") as (system, path):
            system.info(path)
            return True
        return False

    def remove(self) -> None:
        # The group's metadata last: until then this is a store, which the same command removes.
        names = [name for name in self.sizes("") if name != "zarr.json"]
        with self._opened("") as (system, root):
            if names:
                system.rm([f"{root}/{name}" for name in names])
        self.delete("zarr.json")

    def zarr(self) -> Any:
        return self.url

    @contextmanager
    def locked(self) -> Iterator[None]:
        # Object stores have no locks. Two writers put the same bytes under the same names, each
        # object at once, and vouch for them in the same words: they waste time and break nothing.
        yield

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[Any, str]]:
        """The file system, and an object's path there; what goes wrong inside is an OSError."""
        place = f"{self.url}/{name}" if name else self.url
        try:
            # fsspec keeps one for each process: kept here, it would not survive a fork.
            system, root = fsspec.url_to_fs(self.url)
            system.invalidate_cache()  # others write, too
            yield system, f"{root}/{name}" if name else root
        except Exception as error:  # each library has its own family of errors
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise OSError(_error_number(error), reason, place) from error


def _error_number(error: Exception) -> int:
    """The system's number for an error that may have come without one."""
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return errno.EACCES
    return getattr(error, "errno", None) or errno.EIO


def _check_size(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}: not a file of this store")
