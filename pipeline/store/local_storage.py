"""A store on a local disk: each file is written under a temporary name, synced and renamed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime.files import atomic
from ..runtime.lock import writer_lock
from .storage import MAX_OBJECT_BYTES, check_removable, check_size, foreign_names, is_temporary


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
                if is_temporary(path.relative_to(self._folder).as_posix()):
                    path.unlink(missing_ok=True)


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
