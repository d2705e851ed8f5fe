"""Objects on a local disk, each written whole or not at all; locations of stores."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import Storage, open_storage
from fpd.pipeline.workdir import WorkDir


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "store.zarr")


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_what_is_written_is_read(storage: Storage, tmp_path: Path) -> None:
    storage.write("a/b/c", b"some bytes")
    assert storage.read("a/b/c") == b"some bytes"
    assert storage.read_array("a/b/c").tobytes() == b"some bytes"
    assert (tmp_path / "store.zarr/a/b/c").read_bytes() == b"some bytes"
    storage.write("a/b/c", b"others")
    assert storage.read("a/b/c") == b"others"
    assert files_below(tmp_path) == ["store.zarr/a/b/c"]


def test_a_missing_object_is_not_found(storage: Storage) -> None:
    for read in (storage.read, storage.read_array):
        with pytest.raises(FileNotFoundError):
            read("nothing")
    storage.delete("nothing")
    assert storage.sizes("nowhere") == storage.sizes("") == {}
    assert not storage.exists()


def test_an_object_larger_than_the_limit_is_refused(storage: Storage) -> None:
    storage.write("a", b"12345")
    assert storage.read("a", limit=5) == b"12345"
    with pytest.raises(ValueError, match="a has 5 bytes, more than 4"):
        storage.read("a", limit=4)


def test_a_mapped_array_is_unchanged_when_its_file_is_replaced(storage: Storage) -> None:
    storage.write("a", b"before")
    content = storage.read_array("a")
    storage.write("a", b"behind")
    assert content.tobytes() == b"before"


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_previous_content(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    storage.write("a", b"before")

    def fail(path: Path, content: object) -> None:
        if isinstance(content, bytes):
            with path.open("wb") as file:
                file.write(content[:2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, fail)
        for name in ("a", "b"):
            with pytest.raises(OSError, match="No space left on device") as caught:
                storage.write(name, b"after")
            assert caught.value.filename == str(tmp_path / "store.zarr" / name)
    assert storage.read("a") == b"before"
    assert files_below(tmp_path) == ["store.zarr/a"]


def test_a_write_is_synced_before_it_is_visible(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    storage.write("a", b"bytes")
    assert steps == ["file", "rename", "folder"]


def test_sizes_are_by_name_relative_to_the_folder(storage: Storage) -> None:
    for name, size in {"x/1/a": 3, "x/1/b/c": 0, "x/2/a": 7, "xy/1/a": 1}.items():
        storage.write(name, bytes(size))
    assert storage.sizes("x/1") == {"a": 3, "b/c": 0}
    assert storage.sizes("x") == {"1/a": 3, "1/b/c": 0, "2/a": 7}
    assert set(storage.sizes("")) == {"x/1/a", "x/1/b/c", "x/2/a", "xy/1/a"}


def test_deleting_is_idempotent(storage: Storage) -> None:
    storage.write("x/a", b"1")
    storage.write("x/b", b"1")
    storage.delete("x/a")
    storage.delete("x/a")
    assert storage.sizes("x") == {"b": 1}


def test_removing_a_store_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    storage.write("zarr.json", b"{}")
    storage.write("x/a", b"1")
    assert storage.exists()
    storage.remove()
    assert not storage.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_removes_what_a_killed_one_left(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"1")
    (tmp_path / "store.zarr/.b.0123.tmp").write_bytes(b"half")
    (tmp_path / ".store.zarr.removed/c").mkdir(parents=True)
    with storage.locked():
        assert files_below(tmp_path) == [".store.zarr.lock", "store.zarr/a"]
        assert not (tmp_path / ".store.zarr.removed").exists()
        (tmp_path / "store.zarr/.d.4567.tmp").write_bytes(b"of a killed worker")
    assert files_below(tmp_path / "store.zarr") == ["a"]


def test_storage_is_pickled_by_location(storage: Storage) -> None:
    unpickled = pickle.loads(pickle.dumps(storage))
    storage.write("a", b"bytes")
    assert unpickled.read("a") == b"bytes"
    assert str(unpickled) == str(storage)


# Locations


@pytest.mark.parametrize("location", ["x/y.zarr", Path("x/y.zarr")])
def test_paths_are_local(location: str | Path) -> None:
    storage = open_storage(location)
    assert storage.is_local
    assert str(storage) == str(location)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match=r"nosuch://bucket/run\.zarr cannot be opened"):
        open_storage("nosuch://bucket/run.zarr")


def test_a_store_is_in_the_work_directory_unless_its_recipe_names_a_location(
    toy_recipe: Recipe, tmp_path: Path
) -> None:
    assert WorkDir(tmp_path).store_location(toy_recipe) == tmp_path / "heatmaps.zarr"
    changes = ["store.location='/scratch/run.zarr'"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), changes)
    assert WorkDir(tmp_path).store_location(recipe) == "/scratch/run.zarr"
