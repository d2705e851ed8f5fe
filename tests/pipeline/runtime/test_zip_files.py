"""Zip archives: every member is read within the limit, and written again as it was."""

from __future__ import annotations

import io
import zipfile

import pytest

from fpd.pipeline.runtime.zip_files import is_zip, read_members, repack


def archive(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        for name, content in members:
            out.writestr(name, content)
    return file.getvalue()


def test_members_are_read_and_packed_again() -> None:
    members = {"a/b": b"x" * 1000, "a/c": b"", "d": bytes(range(256))}
    content = archive(list(members.items()), zipfile.ZIP_DEFLATED)
    assert is_zip(content)
    assert read_members(content, 2000) == members
    packed = repack(members).getvalue()
    assert read_members(packed, 2000) == members
    assert packed == repack(members).getvalue()


@pytest.mark.parametrize("declared", [True, False])
def test_no_more_than_the_limit_is_read(declared: bool) -> None:
    """Also where the archive declares less than it holds."""
    content = archive([("a", bytes(1000)), ("b", bytes(1000))], zipfile.ZIP_DEFLATED)
    if not declared:
        content = content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
        with pytest.raises(ValueError, match="cannot be read as a zip archive"):
            read_members(content, 5000)
        return
    assert len(read_members(content, 2000)) == 2
    with pytest.raises(ValueError, match="has more than 1999 bytes"):
        read_members(content, 1999)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_no_plain_archive_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="two files with the same name"):
        read_members(archive([("a", b"1"), ("a", b"2")]), 100)
    content = archive([("a", b"abc")])
    for damaged in (b"", b"PK\3\4", content[:-5], content.replace(b"abc", b"abd")):
        with pytest.raises(ValueError, match="cannot be read as a zip archive"):
            read_members(damaged, 100)
    monkeypatch.setattr("fpd.pipeline.runtime.zip_files.MAX_MEMBERS", 1)
    with pytest.raises(ValueError, match="more than 1 members"):
        read_members(archive([("a", b""), ("b", b"")]), 100)
