"""Numeric arrays in files of other tools: `.mat`, `.npz`, `.npy` and `.json`.

Nothing is unpickled, and no array is read before its size is known: `list_arrays` reads the
headers, and the caller then reads (`read_array`) the arrays that have the expected shape.
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

from .files import parse_json, read_bytes
from .mat_elements import check_elements

MAX_FILE_BYTES = 1 << 26
MAX_INFLATED_BYTES = 1 << 28
# Nested structs are mostly headers: MPII's 12 MB of labels inflate to several hundred MB.
MAX_STRUCT_BYTES = 1 << 29
MAX_LISTED_ARRAYS = 10
JSON_KEYS = ("preds", "joints")

# MATLAB's numeric classes: no cells, structs, objects, functions or sparse arrays.
MAT_NUMBERS = {"double", "single", "logical"} | {
    f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)
}
# Format of a .mat file, version 5: "MAT-File Format", MathWorks, chapter 1.
MAT_HEADER_BYTES = 128
MAT_MATRIX, MAT_COMPRESSED = 14, 15

T = TypeVar("T")


class StoredArray(NamedTuple):
    """An array in a file: its shape by the header, and a function that reads its content."""

    shape: tuple[int, ...]
    read: Callable[[], Any]


def list_arrays(path: Path) -> dict[str, StoredArray]:
    """The numeric arrays in a file, by name ("" for a single array without a name).

    Raises:
        ValueError: the file has another suffix, is too large, or cannot be read.
    """
    parsers = {".mat": _mat, ".npz": _npz, ".npy": _npy, ".json": _json}
    parser = parsers.get(path.suffix.lower())
    if parser is None:
        raise ValueError(f"{path}: expected a file named {', '.join(parsers)}")
    content = _content(path)
    return _parse(path, lambda: parser(content))


def read_array(path: Path, stored: StoredArray) -> NDArray[np.float64]:
    """Read an array that `list_arrays` found in the file `path`, as float64.

    Raises:
        ValueError: its content does not match its header, or is not real numbers.
    """

    def load() -> NDArray[np.float64]:
        array = np.asarray(stored.read())
        if array.shape != stored.shape or array.dtype.kind not in "biuf":
            raise ValueError(
                f"expected real numbers, {describe_shape(stored.shape)}, "
                f"found {array.dtype}, {describe_shape(array.shape)}"
            )
        return array.astype(np.float64)

    return _parse(path, load)


def read_names(path: Path, name: str, count: int) -> tuple[str, ...]:
    """The `count` strings in a cell array, or character array, of a .mat file.

    Raises:
        ValueError: there is no such array.
    """
    content = _content(path)

    def load() -> tuple[str, ...]:
        mat = _checked_mat(content)
        listed = scipy.io.whosmat(_stream(mat))
        _refuse_duplicates([n for n, _, _ in listed])  # SciPy reads the first one
        variables = {n: (shape, kind) for n, shape, kind in listed}
        shape, kind = variables.get(name, ((), "nothing"))
        if kind not in ("cell", "char") or count not in shape:
            raise ValueError(
                f"expected {count} names in {name!r}, found {kind} {describe_shape(shape)}"
            )
        cells = scipy.io.loadmat(_stream(mat), variable_names=[name])[name]
        return tuple(str(np.squeeze(cell)).strip() for cell in np.ravel(cells))

    return _parse(path, load)


def read_json_names(path: Path, key: str) -> tuple[str, ...] | None:
    """The list of strings under a key of a .json file's object; None if there is none.

    Raises:
        ValueError: the file cannot be read, or has something else under the key.
    """
    value = parse_json(path, _content(path), "names")
    names = value.get(key) if isinstance(value, dict) else None
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"{path}: {key}: expected a list of names, found something else")
    return None if names is None else tuple(names)


def read_struct(path: Path, name: str) -> Any:
    """A struct of a .mat file as SciPy returns it: nested object arrays of rank 2.

    Raises:
        ValueError: the file is damaged or too large, or has no struct of that name.
    """
    content = _content(path)

    def load() -> Any:
        mat = _checked_mat(content, MAX_STRUCT_BYTES)
        listed = scipy.io.whosmat(_stream(mat))
        _refuse_duplicates([n for n, _, _ in listed])
        kinds = {n: kind for n, _, kind in listed}
        if kinds.get(name) != "struct":
            raise ValueError(f"expected a struct {name!r}, found {', '.join(kinds) or 'nothing'}")
        return scipy.io.loadmat(_stream(mat), variable_names=[name])[name]

    return _parse(path, load)


def describe_shape(shape: tuple[int, ...]) -> str:
    """A shape as text for messages, such as "5 x 16 x 2"."""
    return " x ".join(map(str, shape)) or "a single number"


def describe_arrays(arrays: dict[str, StoredArray]) -> str:
    """A file's arrays as text for messages: the first few names with their shapes."""
    named = [f"{repr(n)[1:-1]} {describe_shape(s.shape)}".strip() for n, s in arrays.items()]
    more = len(named) - MAX_LISTED_ARRAYS
    tail = [f"and {more} more"] if more > 0 else []
    return ", ".join([*named[:MAX_LISTED_ARRAYS], *tail]) or "no array of numbers"


def _content(path: Path) -> bytes:
    return read_bytes(path, MAX_FILE_BYTES, f"a {path.suffix} file")


def _parse(path: Path, parse: Callable[[], T]) -> T:
    """The result of `parse`; any error becomes a one-line ValueError with the file's name."""
    try:
        return parse()
    except Exception as error:  # parsers raise many types for a damaged file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from None


def _mat(content: bytes) -> dict[str, StoredArray]:
    mat = _checked_mat(content)

    def reader(name: str) -> Callable[[], Any]:
        return lambda: scipy.io.loadmat(_stream(mat), variable_names=[name])[name]

    listed = scipy.io.whosmat(_stream(mat))
    _refuse_duplicates([name for name, _, _ in listed])
    return {
        name: StoredArray(shape, reader(name))
        for name, shape, kind in listed
        if kind in MAT_NUMBERS
    }


def _stream(content: bytes) -> Any:
    """A file object, typed Any because SciPy's type hints only allow paths."""
    return io.BytesIO(content)


def _checked_mat(content: bytes, limit: int | None = None) -> bytes:
    """A .mat file inflated (see `_inflate`), with a structure that SciPy can be given."""
    mat = _inflate(content, limit)
    if not _is_other_version(content):
        check_elements(mat)
    return mat


def _is_other_version(content: bytes) -> bool:
    """Version 4, which has no compression and no cells; or not a .mat file: SciPy refuses it."""
    return 0 in content[:4] or len(content) < MAT_HEADER_BYTES


def _inflate(content: bytes, limit: int | None = None) -> bytes:
    """A .mat file with its compressed elements inflated, at most to `limit` bytes.

    SciPy itself would inflate them without a limit.
    """
    if _is_other_version(content):
        return content
    order: Any = "little" if content[126:128] == b"IM" else "big"
    limit = MAX_INFLATED_BYTES if limit is None else limit
    parts, offset, remaining = [content[:MAT_HEADER_BYTES]], MAT_HEADER_BYTES, limit
    while offset < len(content):
        kind, size = (int.from_bytes(content[i : i + 4], order) for i in (offset, offset + 4))
        element = content[offset : offset + 8 + size]
        if kind == MAT_COMPRESSED:
            inflater = zlib.decompressobj()
            element = _only_matrix(inflater.decompress(element[8:], remaining + 1), order)
        remaining -= len(element)
        if remaining < 0:
            raise ValueError(f"expected at most {limit >> 20} MiB of numbers")
        parts.append(element)
        offset += 8 + size
    return b"".join(parts)


def _only_matrix(inflated: bytes, order: Any) -> bytes:
    """What a compressed element holds: one matrix, not a further compressed element.

    SciPy, which is given the inflated file, would inflate that one without a limit.
    """
    kind, size = (int.from_bytes(inflated[i : i + 4], order) for i in (0, 4))
    if kind != MAT_MATRIX:
        raise ValueError(f"expected a matrix in each compressed element, found type {kind}")
    return inflated[: 8 + size]


def _refuse_duplicates(names: list[str]) -> None:
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise ValueError(f"expected unique array names, found {duplicates[0]!r} twice")


def _npz(content: bytes) -> dict[str, StoredArray]:
    archive = zipfile.ZipFile(io.BytesIO(content))

    def stored(member: str) -> StoredArray:
        with archive.open(member) as file:
            shape = _npy_shape(file)
        return StoredArray(shape, lambda: _read_npy(archive.open(member)))

    members = [name for name in archive.namelist() if name.endswith(".npy")]
    _refuse_duplicates(members)
    return {name.removesuffix(".npy"): stored(name) for name in members}


def _npy(content: bytes) -> dict[str, StoredArray]:
    shape = _npy_shape(io.BytesIO(content))
    return {"": StoredArray(shape, lambda: _read_npy(io.BytesIO(content)))}


def _npy_shape(file: IO[bytes]) -> tuple[int, ...]:
    """An array's shape, from its .npy header.

    Raises:
        ValueError: the array does not contain numbers.
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


def _json(content: bytes) -> dict[str, StoredArray]:
    """The nested list, or those under "preds" and "joints" of an object; null becomes NaN."""
    value = json.loads(content)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value[:1]):
        raise ValueError(
            "expected a nested list of numbers, found one of objects, as in COCO's results format: "
            "that goes with a file in COCO's format (.json)"
        )
    lists = value if isinstance(value, dict) else {"": value}
    arrays = {key: np.array(lists[key], np.float64) for key in ("", *JSON_KEYS) if key in lists}
    return {key: StoredArray(array.shape, array.copy) for key, array in arrays.items()}
