"""Files are read up to a size limit; errors name the file in one line."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from fpd.data.io.files import parse_json, read_bytes


def test_files_are_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"12345678")
    assert read_bytes(path, 8, "boxes") == b"12345678"
    with pytest.raises(ValueError, match=r"a\.csv cannot be read as boxes: .* at most 7 bytes, "):
        read_bytes(path, 7, "boxes")
    with path.open("wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(ValueError, match="expected at most 1 MiB, found more"):
        read_bytes(path, 1 << 20, "boxes")
    path.write_bytes(b"")
    assert read_bytes(path, 8, "boxes") == b""


def test_a_high_limit_allocates_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345678")
    tracemalloc.start()
    try:
        read_bytes(tmp_path / "a", 1 << 30, "boxes")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """As in a shell's process substitution: `--boxes <(detector)`."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"12345678"])
    writer.start()
    assert read_bytes(tmp_path / "pipe", 100, "boxes") == b"12345678"
    writer.join()


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none cannot be read as boxes \(No such file"):
        read_bytes(tmp_path / "none", 8, "boxes")
    with pytest.raises(ValueError, match=r"cannot be read as a recipe \(Is a directory\)"):
        read_bytes(tmp_path, 8, "a recipe")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xfd", b"[" * 100_000])
def test_invalid_json_is_named(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a\.json cannot be read as labels: "):
        parse_json(Path("a.json"), content, "labels")


def test_json() -> None:
    assert parse_json(Path("a.json"), b'\xef\xbb\xbf{"\xc3\xa4": [1.5]}', "x") == {"ä": [1.5]}


def test_an_empty_file_takes_no_memory_whatever_the_limit(tmp_path: Path) -> None:
    """Reading `limit` bytes at once would allocate as many."""
    path = tmp_path / "empty.pt2"
    path.write_bytes(b"")
    assert read_bytes(path, 1 << 50, "a program") == b""
