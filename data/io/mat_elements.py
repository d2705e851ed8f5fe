"""Checks the structure of a MATLAB file before SciPy, whose reader is C, gets it.

SciPy trusts the types of elements: one unknown type in a cell of texts ends the process with a
segmentation fault, and so may cells that are nested deeply. The format is "MAT-File Format",
MathWorks: an element is a tag (type and size in bytes) and its data; a matrix is an element of
elements.
"""

from __future__ import annotations

import math
import struct

HEADER_BYTES = 128
VERSION = 1
TAG_BYTES = 8
MAX_DEPTH = 32

MATRIX = 14
INT8, INT32, UINT32 = 1, 5, 6
NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
TEXTS = frozenset({1, 2, 3, 4, 16, 17, 18})

CELL, STRUCT, OBJECT, CHAR, SPARSE = 1, 2, 3, 4, 5
NUMERIC = range(6, 16)
COMPLEX_FLAG = 1 << 11
SKIPPED = (b"\x10", b"\x11")  # functions and objects of MATLAB's newer classes

DAMAGED = "damaged: "


def check_elements(mat: bytes) -> None:
    """Check every element of a file of version 5 without compressed ones.

    Raises:
        ValueError: an element has an unknown type, ends beyond its matrix, or is nested too deeply.
    """
    # As SciPy decides on version and byte order; it refuses other versions.
    if mat[125 if mat[126] == ord("I") else 124] != VERSION:
        return
    order = "<" if mat[126:128] == b"IM" else ">"
    _Elements(mat, order).check()


class _Elements:
    def __init__(self, mat: bytes, order: str) -> None:
        self.mat, self.order = mat, order

    def check(self) -> None:
        at = HEADER_BYTES
        while at + TAG_BYTES <= len(self.mat):
            at = self._matrix(at, len(self.mat), MAX_DEPTH)

    def _tag(self, at: int, end: int) -> tuple[int, int, int, int]:
        """Type of the element at a position, start and end of its data, and what comes after."""
        if at + TAG_BYTES > end:
            raise ValueError(DAMAGED + "an element begins beyond its matrix")
        kind, size = struct.unpack_from(f"{self.order}II", self.mat, at)
        if kind >> 16:  # a small element: size and type in four bytes, then the data
            size, kind = kind >> 16, kind & 0xFFFF
            if size > 4:
                raise ValueError(DAMAGED + f"a small element of {size} bytes")
            return kind, at + 4, at + 4 + size, at + TAG_BYTES
        start = at + TAG_BYTES
        if start + size > end:
            raise ValueError(DAMAGED + "an element ends beyond its matrix")
        padding = -size % TAG_BYTES if kind != MATRIX else 0
        return kind, start, start + size, min(start + size + padding, end)

    def _data(self, at: int, end: int, kinds: frozenset[int]) -> tuple[bytes, int]:
        kind, start, stop, after = self._tag(at, end)
        if kind not in kinds:
            raise ValueError(DAMAGED + f"an element of type {kind}, where that cannot be")
        return self.mat[start:stop], after

    def _matrix(self, at: int, end: int, depth: int) -> int:
        """Check the matrix at a position. Returns the position after it."""
        kind, at, end, after = self._tag(at, end)
        if kind != MATRIX or not depth:
            raise ValueError(DAMAGED + ("no matrix" if depth else "nested too deeply"))
        if at == end:
            return after  # an empty matrix
        flags, at = self._data(at, end, frozenset({UINT32}))
        if flags[:4][:: 1 if self.order == "<" else -1][:1] in SKIPPED and depth == MAX_DEPTH:
            return after  # a variable of its own, which nobody reads
        dims, at = self._data(at, end, frozenset({INT32}))
        _, at = self._data(at, end, frozenset({INT8}))
        if len(flags) != 8 or len(dims) % 4 or len(dims) < 8:
            raise ValueError(DAMAGED + "a matrix without flags or dimensions")
        sides = struct.unpack(f"{self.order}{len(dims) // 4}i", dims)
        (flag,) = struct.unpack_from(f"{self.order}I", flags)
        if min(sides) < 0:
            raise ValueError(DAMAGED + "a negative dimension")
        self._content(at, end, flag, math.prod(sides), depth)
        return after

    def _content(self, at: int, end: int, flag: int, count: int, depth: int) -> None:
        array_class = flag & 0xFF
        if array_class in (CELL, STRUCT, OBJECT):
            if array_class != CELL:
                fields, at = self._fields(at, end, array_class)
                count *= fields
            if count * TAG_BYTES > end - at:
                raise ValueError(DAMAGED + f"{count} cells or fields in {end - at} bytes")
            for _ in range(count):
                at = self._matrix(at, end, depth - 1)
        elif array_class == CHAR:
            self._data(at, end, TEXTS)
        elif array_class == SPARSE or array_class in NUMERIC:
            parts = (2 if array_class == SPARSE else 0) + (2 if flag & COMPLEX_FLAG else 1)
            for _ in range(parts):
                _, at = self._data(at, end, NUMBERS)
        else:
            raise ValueError(f"an array of class {array_class}, which is not read")

    def _fields(self, at: int, end: int, array_class: int) -> tuple[int, int]:
        """The number of a struct's fields, and the position after their names."""
        if array_class == OBJECT:
            _, at = self._data(at, end, frozenset({INT8}))
        length, at = self._data(at, end, frozenset({INT32}))
        names, at = self._data(at, end, frozenset({INT8}))
        size = struct.unpack(f"{self.order}i", length)[0] if len(length) == 4 else 0
        if size < 1 or len(names) % size:
            raise ValueError(DAMAGED + "names of a struct's fields")
        return len(names) // size, at
