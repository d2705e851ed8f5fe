"""Files that other tools or people wrote: read whole, up to a limit, or refused in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """A file's content.

    Args:
        limit: the most bytes that are read into memory.
        what: that it is taken for, as a message has it: "boxes", "a recipe".

    Raises:
        ValueError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            # Reading sets aside what is asked for: the limit only where a pipe tells no size.
            size = os.fstat(file.fileno()).st_size or limit
            content = file.read(min(size, limit) + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as {what} ({error.strerror})") from None
    if len(content) > limit:
        most = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit} bytes"
        raise ValueError(f"{path} cannot be read as {what}: expected at most {most}, found more")
    return content


def parse_json(path: Path, content: bytes, what: str) -> Any:
    """What the JSON that was read from a file says.

    Raises:
        ValueError: it is none, or cut short.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {what}: {error}") from None
