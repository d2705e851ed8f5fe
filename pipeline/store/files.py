"""A store's objects by name, on a local disk or behind any fsspec URL, written whole or not at all.

Names are relative and use `/`. Locally an object is a file: written under a temporary name, synced,
renamed. Remotely it is an object, which object stores put in place at once.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..recipe import Recipe
from ..workdir import WorkDir, atomic

# No object of a store is larger: the bound on what is read into memory.
MAX_OBJECT_BYTES = 1 << 32


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
    return RemoteFiles(location.rstrip("/"))


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
        with (self.root / name).open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(content)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def sizes(self, folder: str) -> dict[str, int]:
        base = self.root / folder
        return {
            (Path(parent) / name).relative_to(base).as_posix(): (Path(parent) / name).stat().st_size
            for parent, _, names in os.walk(base)
            for name in names
        }

    def exists(self) -> bool:
        return (self.root / "zarr.json").is_file()

    def remove(self) -> None:
        shutil.rmtree(self.root)

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
            yield


class RemoteFiles:
    """A folder behind an fsspec URL, such as s3://bucket/run.zarr."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._system, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(f"{url} cannot be opened: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        return False

    def read(self, name: str, limit: int = MAX_OBJECT_BYTES) -> bytes:
        path = self._path(name)
        _check_size(self._system.size(path), limit, f"{self.url}/{name}")
        content: bytes = self._system.cat_file(path)
        return content

    def view(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self.read(name), np.uint8)

    def write(self, name: str, content: bytes) -> None:
        self._system.pipe_file(self._path(name), content)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))
        self._system.invalidate_cache()

    def sizes(self, folder: str) -> dict[str, int]:
        base = self._path(folder)
        self._system.invalidate_cache()
        found = self._system.find(base, detail=True)
        return {
            path.removeprefix(base + "/"): int(info["size"] or 0) for path, info in found.items()
        }

    def exists(self) -> bool:
        self._system.invalidate_cache()
        return bool(self._system.exists(self._path("zarr.json")))

    def remove(self) -> None:
        self._system.rm(self._root, recursive=True)
        self._system.invalidate_cache()

    def zarr(self) -> Any:
        return self.url

    @contextmanager
    def locked(self) -> Iterator[None]:
        # Object stores have no locks. Two writers put the same bytes under the same names, each
        # object at once, and vouch for them in the same words: they waste time and break nothing.
        yield

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _check_size(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}: not a file of this store")
