"""Zip archives of unknown origin: read once, and written again before another library parses them.

A zip file can be made such that two libraries see different members in it: Python's `zipfile` and
PyTorch's reader find the central directory differently, and either may ignore what the other reads.
What was checked in the one is then not what the other loads. `repack` therefore returns an archive
that has exactly the members that `read_members` returned, stored without compression.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping

MAX_MEMBERS = 1 << 16
"""An 8 x 256 hourglass has about 3,000 tensors, each of which is one member."""


def is_zip(content: bytes) -> bool:
    """Whether a file starts as a zip archive does."""
    return content.startswith(b"PK\x03\x04")


def read_members(content: bytes, limit: int) -> dict[str, bytes]:
    """The members of a zip archive by name, with their checksums verified.

    Args:
        limit: largest number of bytes of all members together.

    Raises:
        ValueError: it is no zip archive, is damaged or encrypted, has two members of one name, or
            is larger than the limits.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_MEMBERS:
                raise ValueError(f"has more than {MAX_MEMBERS} members")
            members: dict[str, bytes] = {}
            remaining = limit
            for entry in entries:
                if entry.filename in members:
                    raise ValueError("contains two files with the same name")
                with archive.open(entry) as file:  # reads what is there, not what is declared
                    member = file.read(remaining + 1 if entry.file_size > remaining else -1)
                remaining -= len(member)
                if remaining < 0:
                    raise ValueError(f"has more than {limit} bytes")
                members[entry.filename] = member
            return members
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"cannot be read as a zip archive ({error})") from None


def repack(members: Mapping[str, bytes]) -> io.BytesIO:
    """A new zip archive with these members in this order, uncompressed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)
    packed.seek(0)
    return packed
