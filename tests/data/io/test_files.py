"""Files are read up to a limit, and what cannot be read is said in one sentence."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from fpd.data.io.files import parse_json, read_bytes


def test_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
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


def test_a_high_limit_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345678")
    tracemalloc.start()
    try:
        read_bytes(tmp_path / "a", 1 << 30, "boxes")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """As shells have it: `--boxes <(detector)`."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[b"12345678"])
    writer.start()
    assert read_bytes(tmp_path / "pipe", 100, "boxes") == b"12345678"
    writer.join()


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none cannot be read as boxes \(No such file"):
        read_bytes(tmp_path / "none", 8, "boxes")
    with pytest.raises(ValueError, match=r"cannot be read as a recipe \(Is a directory\)"):
        read_bytes(tmp_path, 8, "a recipe")


@pytest.mark.parametrize("content", [b"", b"{", b"\0", b"\xff\xfe\xfd", b"[" * 100_000])
def test_what_is_no_json(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a\.json cannot be read as labels: "):
        parse_json(Path("a.json"), content, "labels")


def test_json() -> None:
    assert parse_json(Path("a.json"), b'\xef\xbb\xbf{"\xc3\xa4": [1.5]}', "x") == {"ä": [1.5]}
