"""Read files of unknown origin: whole, up to a size limit, with one-line errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


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
            # `read(n)` allocates n bytes, so n is the file's size; a pipe has none: the limit.
            size = os.fstat(file.fileno()).st_size or limit
            content = file.read(min(size, limit) + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as {what} ({error.strerror})") from None
    if len(content) > limit:
        most = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
        raise ValueError(f"{path} cannot be read as {what}: expected at most {most}, found more")
    return content


def parse_json(path: Path, content: bytes, what: str) -> Any:
    """Parse JSON that was read from `path`.

    Raises:
        ValueError: the content is not JSON, or is cut short; the message names `path` and `what`.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}") from None
