"""Files: atomic writes, our own JSON, digests, versions."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

import cv2
import numcodecs
import numpy as np
import torch
import zarr

from ... import __version__
from ...data.io.files import read_bytes

MAX_JSON_BYTES = 1 << 28


def make_writable(folder: Path, what: str, remedy: str) -> None:
    """Make a folder, and see that files can be written into it.

    Raises:
        ValueError: they cannot; `what` the folder is, and the `remedy`, stand in the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{what} {folder} cannot be written to ({error.strerror}): {remedy}"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read one of our own JSON files.

    Raises:
        ValueError: it cannot be read, or is damaged.
    """
    content = read_bytes(path, MAX_JSON_BYTES, "one of fpd's own files")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it and run its stage again"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (no JSON object): remove it and run its stage again")
    return value


def write_json(path: Path, value: dict[str, Any], *, sort_keys: bool = True) -> None:
    """Write a JSON file whole or not at all, the same bytes for the same value.

    Args:
        sort_keys: False where their order means something, as a sweep's points' does.
    """
    with atomic(path) as temporary:
        temporary.write_text(as_json(value, sort_keys=sort_keys), "utf-8")


def as_json(value: dict[str, Any], *, sort_keys: bool = True) -> str:
    """The text of one of our own JSON files."""
    return json.dumps(value, indent=2, sort_keys=sort_keys) + "\n"


def check_output(json_path: Path | None, inputs: tuple[Path, ...]) -> None:
    """Refuse, before the work rather than after it, what cannot or must not be written to.

    Raises:
        ValueError: there is no such folder, nothing can be written to it, or the file is one of the
            inputs.
    """
    if json_path is None:
        return
    if not json_path.parent.is_dir():
        raise ValueError(f"{json_path}: expected a folder {json_path.parent}, found none")
    if json_path.exists() and any(p.exists() and json_path.samefile(p) for p in inputs):
        raise ValueError(f"{json_path} is one of the files to read: name another with --json")
    if json_path.exists() and not S_ISREG(json_path.lstat().st_mode):
        raise ValueError(
            f"{json_path}: expected a new file or a plain one to replace, found another kind: name "
            "another with --json"
        )
    make_writable(json_path.parent, "the folder", "name a file in another with --json")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path to write to, synced and renamed to `path` when the block succeeds.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    with atomic_group(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_group(*paths: Path) -> Iterator[list[Path]]:
    """Temporary paths to write to; all are synced before the first is renamed.

    So a disk that is full leaves files that belong together as they were, all of them.

    Raises:
        OSError: one cannot be written; `filename` is the path that it was meant for.
    """
    # Not by process id: on a shared disk, processes of two machines may have the same.
    names = {p.with_name(f".{p.name}.{secrets.token_hex(8)}.tmp"): p for p in paths}
    try:
        yield list(names)
        for temporary in names:
            sync(temporary)
        for temporary, path in names.items():
            temporary.replace(path)
        for folder in {path.parent for path in paths}:
            sync(folder)
    except OSError as error:
        # People know the files' own names; writing to a full disk names none.
        meant = {str(temporary): path for temporary, path in names.items()}.get(error.filename)
        nameless = error.errno is not None and error.filename is None  # not a library's own message
        if meant is not None or nameless:
            error.filename = str(meant or paths[0])
        raise
    finally:
        for temporary in names:
            with suppress(OSError):  # what went wrong before is what matters
                temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file's, or a folder's, content reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides pixels and numbers."""
    packages = (cv2, numcodecs, np, torch, zarr)
    found = {package.__name__: package.__version__ for package in packages}
    return {"fpd": __version__, "python": platform.python_version()} | found
