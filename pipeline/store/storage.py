"""A store's objects by name: what every storage can do, and which names belong to a store.

Names are relative to the store and use `/`. `local_storage` has stores on a disk, `remote_storage`
those behind an fsspec URL, and `location` chooses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .schema import MANIFEST, is_object_name

MAX_OBJECT_BYTES = 1 << 32
"""Limit of what is read into memory; every object of a store is smaller."""

_TEMPORARY_NAME = re.compile(
    r"\.(?P<atomic>[^/]+)\.[0-9a-f]{16}\.tmp|(?P<zarr>zarr)\.[0-9a-f]{32}\.partial"
)
"""Unfinished files, as named by `atomic` and by zarr-python (for metadata)."""

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
            if not (is_object_name(full_name) or is_temporary(full_name)):
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
    return sorted(name for name in names if not (is_object_name(name) or is_temporary(name)))


def is_temporary(name: str) -> bool:
    """Whether this is the name of an unfinished object of a store."""
    folder, slash, file = name.rpartition("/")
    match = _TEMPORARY_NAME.fullmatch(file)
    if match is None:
        return False
    finished = match["atomic"] or f"{match['zarr']}.json"
    return is_object_name(f"{folder}{slash}{finished}")


def check_size(size: int, limit: int, name: str) -> None:
    """Refuse an object that is larger than `limit` bytes."""
    if size > limit:
        raise ValueError(f"{name} has {size} bytes, more than {limit}: not a file of this store")
