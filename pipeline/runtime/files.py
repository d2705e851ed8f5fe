"""Files: atomic writes, our own JSON, digests, versions."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from ... import __version__
from ...data.io.files import read_bytes

MAX_JSON_BYTES = 1 << 28


def make_writable(folder: Path, what: str, remedy: str) -> None:
    """Create a folder, and check that files can be written into it.

    Args:
        what: what the folder is, for the message.
        remedy: what to do if it cannot be written to, for the message.

    Raises:
        ValueError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{secrets.token_hex(8)}"
        create_new(probe)
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{what} {folder} cannot be written to ({error.strerror}): {remedy}"
        ) from None


def read_json(path: Path, remedy: str = "remove it and run its stage again") -> dict[str, Any]:
    """Read one of our own JSON files.

    Args:
        remedy: what to do if it is damaged, for the message.

    Raises:
        ValueError: the file cannot be read, or is damaged.
    """
    content = read_bytes(path, MAX_JSON_BYTES, "one of fpd's own files")
    try:
        value = json.loads(content, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged (no JSON object): {remedy}")
    return value


def _finite(text: str) -> float:
    """A number of a JSON file; NaN, Infinity and 1e999, which Python would accept, are refused."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, found {text:.40}")
    return number


def write_json(path: Path, value: dict[str, Any], *, sort_keys: bool = True) -> None:
    """Write a JSON file atomically. Equal values give equal bytes.

    Args:
        sort_keys: False if the order of the keys is significant, as it is for a sweep's points.
    """
    with atomic(path) as temporary:
        temporary.write_text(as_json(value, sort_keys=sort_keys), "utf-8")


CHECKSUM = "checksum"
"""The key under which a sealed JSON file has the SHA-256 of the rest of its content."""


def write_sealed_json(path: Path, value: dict[str, Any], *, sort_keys: bool = True) -> None:
    """As `write_json`, with a checksum of the content under `CHECKSUM`, as the last key.

    The checksum reveals damage and accidental edits; it is no signature.
    """
    sealed = json.loads(as_json(value, sort_keys=sort_keys))
    sealed.pop(CHECKSUM, None)  # of the file that the value was read from
    sealed[CHECKSUM] = _checksum(sealed)
    write_json(path, sealed, sort_keys=False)


def read_sealed_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a file of `write_sealed_json`. The value has no checksum.

    Args:
        remedy: what else to do than to restore a file that was changed, for the message.

    Raises:
        ValueError: the file cannot be read, is damaged, or was changed since it was written.
    """
    value = read_json(path, f"restore it, or {remedy}")
    checksum = value.pop(CHECKSUM, None)
    if checksum != _checksum(value):
        state = "has no checksum" if checksum is None else "does not match its checksum"
        raise ValueError(
            f"{path} {state}: it is damaged, or was changed since fpd wrote it: restore it, or "
            f"{remedy}"
        )
    return value


def _checksum(value: dict[str, Any]) -> str:
    """SHA-256 of a JSON object, in hexadecimal; it depends on the order of the keys."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def as_json(value: dict[str, Any], *, sort_keys: bool = True) -> str:
    """The text of one of our own JSON files."""
    return json.dumps(value, indent=2, sort_keys=sort_keys) + "\n"


def check_output(json_path: Path | None, inputs: tuple[Path, ...]) -> None:
    """Check a command's `--json` file before the work instead of after it.

    Args:
        inputs: files that the command reads, which must not be overwritten.

    Raises:
        ValueError: its folder does not exist or cannot be written to, it is one of the inputs, or
            it is not a regular file.
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
    """Yield a temporary path to write to; if the block succeeds, sync it and rename it to `path`.

    Raises:
        OSError: the file cannot be written; `filename` is `path`.
    """
    with atomic_group(path) as (temporary,):
        yield temporary


@contextmanager
def atomic_group(*paths: Path) -> Iterator[list[Path]]:
    """Yield temporary paths to write to; all of them are synced before the first one is renamed.

    If the disk is full, files that belong together therefore all stay as they were.

    Raises:
        OSError: a file cannot be written; `filename` is its final path.
    """
    # Not named by process id: on a shared disk, processes of two machines may have the same one.
    final_paths = {p.with_name(f".{p.name}.{secrets.token_hex(8)}.tmp"): p for p in paths}
    try:
        for temporary in final_paths:
            create_new(temporary)
        yield list(final_paths)
        for temporary in final_paths:
            sync(temporary)
        for temporary, path in final_paths.items():
            temporary.replace(path)
        for folder in {path.parent for path in paths}:
            sync(folder)
    except OSError as error:
        # Users know the final names. An error of a full disk names no file at all.
        by_name = {str(temporary): path for temporary, path in final_paths.items()}
        final_path = by_name.get(error.filename)
        nameless = error.errno is not None and error.filename is None  # not a library's own message
        if final_path is not None or nameless:
            error.filename = str(final_path or paths[0])
        raise
    finally:
        for temporary in final_paths:
            with suppress(OSError):  # an earlier error is the one to report
                temporary.unlink(missing_ok=True)


def create_new(path: Path) -> None:
    """Create an empty file. No existing file is opened, and no symbolic link is followed.

    Raises:
        OSError: it cannot be created, or something of this name exists.
    """
    no_follow = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | no_follow, 0o666))


def sync(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
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
    """Versions of fpd, Python, and the packages that pixels and heatmaps depend on."""
    import cv2  # imported here, all of them: together they take seconds
    import numcodecs
    import numpy as np
    import torch
    import zarr

    packages = (cv2, numcodecs, np, torch, zarr)
    installed = {package.__name__: package.__version__ for package in packages}
    return {"fpd": __version__, "python": platform.python_version()} | installed
