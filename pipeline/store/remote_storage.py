"""A store behind an fsspec URL, such as S3, which puts each object in place atomically."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import numpy as np
from fsspec.asyn import sync
from numpy.typing import NDArray

from .storage import MAX_OBJECT_BYTES, check_removable, check_size

MAX_IN_FLIGHT = 64
"""Requests to an object store at a time, where many small objects are read."""


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


def _error_number(error: Exception) -> int:
    """The `errno` of an exception, which libraries may raise without one."""
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError):
        return errno.EACCES
    return getattr(error, "errno", None) or errno.EIO
