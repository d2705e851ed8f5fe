"""Number arrays that other tools wrote: `.mat`, `.npz`, `.npy` and `.json`.

Nothing is unpickled, and nothing is read into memory before its size is known: a file is listed by
its headers first (`arrays`), and the caller reads what has the shape it expects.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import scipy.io
from numpy.typing import NDArray

from .files import read_bytes

MAX_FILE_BYTES = 1 << 26
MAX_INFLATED_BYTES = 1 << 28
# Nested structs are mostly headers: MPII's 12 MB of labels inflate to some hundred.
MAX_STRUCT_BYTES = 1 << 29
NAMED_ARRAYS = 10
JSON_KEYS = ("preds", "joints")

# MATLAB's classes of plain numbers; cells, structs, objects, functions, sparse arrays are none.
MAT_NUMBERS = {"double", "single", "logical"} | {
    f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)
}
# Format of a .mat file, version 5: "MAT-File Format", MathWorks, chapter 1.
MAT_HEADER_BYTES = 128
MAT_COMPRESSED = 15


T = TypeVar("T")


class Stored(NamedTuple):
    """An array that has been found, and not yet read."""

    shape: tuple[int, ...]
    read: Callable[[], Any]


def arrays(path: Path) -> dict[str, Stored]:
    """The arrays of numbers in a file, by name ("" where it holds a single one without a name).

    Raises:
        ValueError: it has another suffix, is too large, or cannot be read.
    """
    kinds = {".mat": _mat, ".npz": _npz, ".npy": _npy, ".json": _json}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: expected a file named {', '.join(kinds)}")
    content = _content(path)
    return _understood(path, lambda: kind(content))


def read(path: Path, stored: Stored) -> NDArray[np.float64]:
    """An array that `arrays` found, of the shape that it said.

    Raises:
        ValueError: its content is not what its header said, or no real numbers.
    """

    def load() -> NDArray[np.float64]:
        array = np.asarray(stored.read())
        if array.shape != stored.shape or array.dtype.kind not in "biuf":
            raise ValueError(
                f"expected real numbers, {describe(stored.shape)}, "
                f"found {array.dtype}, {describe(array.shape)}"
            )
        return array.astype(np.float64)

    return _understood(path, load)


def read_names(path: Path, name: str, count: int) -> tuple[str, ...]:
    """The `count` texts in a cell, or character, array of a .mat file.

    Raises:
        ValueError: there is no such array.
    """
    content = _content(path)

    def load() -> tuple[str, ...]:
        mat = _bounded(content)
        found = {n: (shape, kind) for n, shape, kind in scipy.io.whosmat(_stream(mat))}
        shape, kind = found.get(name, ((), "nothing"))
        if kind not in ("cell", "char") or count not in shape:
            raise ValueError(f"expected {count} names in {name!r}, found {kind} {describe(shape)}")
        cells = scipy.io.loadmat(_stream(mat), variable_names=[name])[name]
        return tuple(str(np.squeeze(cell)).strip() for cell in np.ravel(cells))

    return _understood(path, load)


def read_struct(path: Path, name: str) -> Any:
    """A struct of a .mat file, nested as SciPy gives it: object arrays of rank 2 within each other.

    Raises:
        ValueError: the file is damaged or too large, or has no struct of that name.
    """
    content = _content(path)

    def load() -> Any:
        mat = _bounded(content, MAX_STRUCT_BYTES)
        found = {n: kind for n, _, kind in scipy.io.whosmat(_stream(mat))}
        if found.get(name) != "struct":
            raise ValueError(f"expected a struct {name!r}, found {', '.join(found) or 'nothing'}")
        return scipy.io.loadmat(_stream(mat), variable_names=[name])[name]

    return _understood(path, load)


def describe(shape: tuple[int, ...]) -> str:
    """A shape for people: 5 x 16 x 2."""
    return " x ".join(map(str, shape)) or "a single number"


def listing(found: dict[str, Stored]) -> str:
    """What a file holds, for a message: the first few names with their shapes."""
    named = [f"{repr(n)[1:-1]} {describe(s.shape)}".strip() for n, s in found.items()]
    more = len(named) - NAMED_ARRAYS
    tail = [f"and {more} more"] if more > 0 else []
    return ", ".join([*named[:NAMED_ARRAYS], *tail]) or "no array of numbers"


def _content(path: Path) -> bytes:
    return read_bytes(path, MAX_FILE_BYTES, f"a {path.suffix} file")


def _understood(path: Path, parse: Callable[[], T]) -> T:
    """What `parse` gives; whatever it stumbles over becomes one sentence with the file's name."""
    try:
        return parse()
    except Exception as error:  # parsers raise a dozen kinds for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from None


def _mat(content: bytes) -> dict[str, Stored]:
    mat = _bounded(content)

    def reader(name: str) -> Callable[[], Any]:
        return lambda: scipy.io.loadmat(_stream(mat), variable_names=[name])[name]

    listed = scipy.io.whosmat(_stream(mat))
    _refuse_twins([name for name, _, _ in listed])
    return {
        name: Stored(shape, reader(name)) for name, shape, kind in listed if kind in MAT_NUMBERS
    }


def _stream(content: bytes) -> Any:
    """A file that SciPy takes, though its annotations know of paths only."""
    return io.BytesIO(content)


def _bounded(content: bytes, limit: int | None = None) -> bytes:
    """A .mat file with its compressed elements inflated, up to a limit that SciPy doesn't have."""
    if 0 in content[:4] or len(content) < MAT_HEADER_BYTES:
        return content  # version 4, which has no compression (or nothing that SciPy takes)
    order: Any = "little" if content[126:128] == b"IM" else "big"
    limit = MAX_INFLATED_BYTES if limit is None else limit
    parts, at, room = [content[:MAT_HEADER_BYTES]], MAT_HEADER_BYTES, limit
    while at < len(content):
        kind, size = (int.from_bytes(content[i : i + 4], order) for i in (at, at + 4))
        element = content[at : at + 8 + size]
        if kind == MAT_COMPRESSED:
            inflater = zlib.decompressobj()
            element = inflater.decompress(element[8:], room + 1)
        room -= len(element)
        if room < 0:
            raise ValueError(f"expected at most {limit >> 20} MiB of numbers")
        parts.append(element)
        at += 8 + size
    return b"".join(parts)


def _refuse_twins(names: list[str]) -> None:
    twins = [name for name, count in Counter(names).items() if count > 1]
    if twins:
        raise ValueError(f"expected one array of a name, found {twins[0]!r} twice")


def _npz(content: bytes) -> dict[str, Stored]:
    archive = zipfile.ZipFile(io.BytesIO(content))

    def stored(member: str) -> Stored:
        with archive.open(member) as file:
            shape = _npy_shape(file)
        return Stored(shape, lambda: _read_npy(archive.open(member)))

    members = [name for name in archive.namelist() if name.endswith(".npy")]
    _refuse_twins(members)
    return {name.removesuffix(".npy"): stored(name) for name in members}


def _npy(content: bytes) -> dict[str, Stored]:
    shape = _npy_shape(io.BytesIO(content))
    return {"": Stored(shape, lambda: _read_npy(io.BytesIO(content)))}


def _npy_shape(file: IO[bytes]) -> tuple[int, ...]:
    """From the header alone.

    Raises:
        ValueError: the array holds something else than numbers.
    """
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in headers:
        raise ValueError(f"expected .npy of version 1 or 2, found {version}")
    shape, _, dtype = headers[version](file)
    if dtype.kind not in "biuf":
        raise ValueError(f"expected an array of numbers, found {dtype}")
    return tuple(shape)


def _read_npy(file: IO[bytes]) -> NDArray[Any]:
    with file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _json(content: bytes) -> dict[str, Stored]:
    """A nested list, or an object with one under "preds" or "joints"; null is NaN."""
    value = json.loads(content)
    lists = value if isinstance(value, dict) else {"": value}
    found = {key: np.array(lists[key], np.float64) for key in ("", *JSON_KEYS) if key in lists}
    return {key: Stored(array.shape, array.copy) for key, array in found.items()}
