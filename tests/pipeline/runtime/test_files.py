"""Atomic writes, JSON, digests, and messages for files that cannot be written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime import files
from fpd.pipeline.runtime.files import (
    atomic,
    atomic_group,
    check_output,
    read_json,
    read_sealed_json,
    sha256,
    versions,
    write_json,
    write_sealed_json,
)


def test_atomic_replaces_the_file_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path  # on the same file system, or renaming would copy
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_leaves_the_old_file_when_the_block_raises(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[[NaN]]"])
def test_numbers_of_our_own_json_are_finite(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(f'{{"loss": {text}}}')
    with pytest.raises(
        ValueError, match=r"record\.json is damaged \(expected finite numbers, found"
    ):
        read_json(path)


@pytest.mark.parametrize("fails_at", ["write", "sync"])
def test_a_group_of_files_stays_as_it_was_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    paths = (tmp_path / "a", tmp_path / "b")
    for path in paths:
        path.write_text("old")
    full = OSError(errno.ENOSPC, "No space left on device")
    synced: list[Path] = []

    def sync(path: Path) -> None:
        synced.append(path)
        if len(synced) == 2:
            raise full

    def write() -> None:
        with atomic_group(*paths) as (first, second):
            first.write_text("new")
            second.write_text("new")
            if fails_at == "write":
                raise full

    monkeypatch.setattr(files, "sync", sync)
    with pytest.raises(OSError, match="No space") as raised:
        write()
    assert raised.value.filename == str(paths[0])
    assert {path: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(paths, "old")


def test_an_error_names_the_final_path(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(FileNotFoundError) as raised:
        write_json(path, {})
    assert raised.value.filename == str(path)
    elsewhere = tmp_path / "another"
    with pytest.raises(FileNotFoundError) as raised, atomic(tmp_path / "file"):
        elsewhere.read_text()
    assert Path(raised.value.filename) == elsewhere


def test_atomic_leaves_no_file_behind_if_there_was_none(tmp_path: Path) -> None:
    def write() -> None:
        with atomic(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_json_is_the_same_bytes_for_the_same_value(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": {"b": [1, 2], "a": None}})
    write_json(tmp_path / "b", {"y": {"a": None, "b": [1, 2]}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1, "y": {"b": [1, 2], "a": None}}
    assert read_json(tmp_path / "a") == {"x": 1, "y": {"b": [1, 2], "a": None}}


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"record\.json is damaged .*remove it"):
        read_json(path)


def test_a_sealed_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    value = {"b": {"y": (1, 2.5), "x": None}, "a": "ü", "n": 0.1}
    for sort_keys in (True, False):
        write_sealed_json(path, value, sort_keys=sort_keys)
        read = read_sealed_json(path, "remove it")
        assert read == {"b": {"y": [1, 2.5], "x": None}, "a": "ü", "n": 0.1}
        assert list(read) == (sorted(value) if sort_keys else list(value))
        assert list(read_json(path))[-1] == "checksum"
        before = path.read_bytes()
        write_sealed_json(path, read_json(path), sort_keys=sort_keys)  # the old checksum goes
        assert path.read_bytes() == before
    path.write_text(json.dumps(read_json(path)))  # other spaces are no other content
    assert read_sealed_json(path, "remove it") == read


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda text: text.replace("0.5", "0.25"), "does not match its checksum"),
        (lambda text: text.replace('"alpha"', '"beta"'), "does not match its checksum"),
        (lambda text: text.replace('"checksum": "', '"checksum": "0'), "does not match its check"),
        (lambda text: text.replace('"checksum"', '"other"'), "has no checksum"),
        (lambda text: "{}", "has no checksum"),
        (lambda text: text[:-3], "is damaged"),
    ],
)
def test_a_sealed_json_that_was_changed_is_refused(
    tmp_path: Path, change: Callable[[str], str], state: str
) -> None:
    path = tmp_path / "recipe.json"
    write_sealed_json(path, {"student": {"alpha": 0.5}})
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=rf"recipe\.json {state}.*: restore it, or choose another"):
        read_sealed_json(path, "choose another")


def test_a_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"record\.json"):
        ModelDir(tmp_path).record()


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_versions_have_the_packages_that_heatmaps_depend_on() -> None:
    found = versions()
    assert {"python", "fpd", "torch", "numpy", "cv2", "zarr"} <= set(found)
    assert all(text[0].isdigit() for text in found.values())


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    """Root's rename would replace /dev/null for everybody."""
    pipe, link, plain = (tmp_path / name for name in ("pipe", "link", "plain.json"))
    os.mkfifo(pipe)
    plain.write_text("{}")
    link.symlink_to(plain)
    for path in (pipe, link):
        with pytest.raises(ValueError, match="a new file or a plain one"):
            check_output(path, ())
    check_output(plain, ())
    check_output(tmp_path / "new.json", ())


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="no /proc, where root cannot write")
def test_temporary_files_follow_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if somebody guesses their names."""
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    (tmp_path / "precious").write_bytes(b"precious")
    for name in (f".x.{'0' * 16}.tmp", f".write-test-{'0' * 16}"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError), atomic(tmp_path / "x") as temporary:
        temporary.write_bytes(b"new")
    with pytest.raises(ValueError, match="cannot be written to"):
        files.make_writable(tmp_path, "the folder", "name another")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the folder /proc cannot be written to \(.+\): .*--json"):
        check_output(Path("/proc/scores.json"), ())


def test_the_first_error_is_raised_if_cleaning_up_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(ValueError, match="the reason"), atomic(tmp_path / "x"):
        raise ValueError("the reason")
