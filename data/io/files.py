"""Read files of unknown origin: whole, up to a size limit, with one-line errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

PIECE_BYTES = 1 << 20


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The content of a file.

    Args:
        limit: the largest number of bytes to read.
        what: what the file is read as, for messages: "boxes", "a recipe".

    Raises:
        ValueError: the file cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            # `read(n)` allocates n bytes: the file's size. A pipe's is 0, as an empty file's.
            size = os.fstat(file.fileno()).st_size
            content = file.read(min(size, limit) + 1) if size else _read_pieces(file, limit)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as {what} ({error.strerror})") from None
    if len(content) > limit:
        most = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
        raise ValueError(f"{path} cannot be read as {what}: expected at most {most}, found more")
    return content


def _read_pieces(file: BinaryIO, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a file of unknown size."""
    content = bytearray()
    while len(content) <= limit and (piece := file.read(min(PIECE_BYTES, limit + 1))):
        content += piece
    return bytes(content)


def parse_json(path: Path, content: bytes, what: str) -> Any:
    """Parse JSON that was read from `path`.

    Raises:
        ValueError: the content is not JSON, or is cut short; the message names `path` and `what`.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}") from None
