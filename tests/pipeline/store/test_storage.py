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


OURS = b'{"attributes": {"fpd": {"schema": 2}}}'


def test_removing_a_store_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    storage.write("zarr.json", OURS)
    storage.write("peaks/c/0/0/0", b"1")
    assert storage.exists()
    storage.remove()
    assert not storage.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("group", "other", "message"),
    [
        (b"{}", "x.jpg", "has no manifest"),
        (b'{"attributes": {"spam": {}}}', "spam/c/0", "has no manifest"),
        (b'{"attributes": {"fpd": [1]}}', "peaks/c/0", "has no manifest"),
        (OURS, "photos/x.jpg", "also holds photos/x.jpg"),
        (OURS, "peaks/c/notes.txt", "also holds peaks/c/notes.txt"),
        (OURS, "photos/.x.jpg.0123456789abcdef.tmp", "also holds photos/"),
        (OURS, "big.partial", "also holds big.partial"),
    ],
)
def test_nothing_of_others_is_removed(
    storage: Storage, tmp_path: Path, group: bytes, other: str, message: str
) -> None:
    for name, content in {"zarr.json": group, other: b"precious"}.items():
        path = tmp_path / "store.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    before = files_below(tmp_path)
    with pytest.raises(ValueError, match=message), storage.locked():
        storage.remove()
    assert [name for name in files_below(tmp_path) if not name.endswith(".lock")] == before


TEMPORARY = ".0.0123456789abcdef.tmp"


def test_the_next_writer_removes_what_a_killed_one_left(storage: Storage, tmp_path: Path) -> None:
    storage.write("peaks/c/0/0/0", b"1")
    (tmp_path / "store.zarr/peaks/c/0/0" / TEMPORARY).write_bytes(b"half")
    (tmp_path / f"store.zarr/zarr.{'0' * 32}.partial").write_bytes(b"half")
    (tmp_path / ".store.zarr.removed/c").mkdir(parents=True)
    with storage.locked():
        assert files_below(tmp_path) == [".store.zarr.lock", "store.zarr/peaks/c/0/0/0"]
        assert not (tmp_path / ".store.zarr.removed").exists()
        (tmp_path / "store.zarr/peaks/c/0/0" / TEMPORARY).write_bytes(b"of a killed worker")
    assert files_below(tmp_path / "store.zarr") == ["peaks/c/0/0/0"]


def test_unfinished_files_of_others_are_not_removed(storage: Storage, tmp_path: Path) -> None:
    """Where a location was given by mistake, such as the folder of downloads."""
    names = ["film.mkv.partial", ".notes.tmp", ".x.0123456789abcdef.tmp", f"sub/{TEMPORARY}"]
    for name in names:
        (tmp_path / "store.zarr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store.zarr" / name).write_bytes(b"precious")
    with storage.locked():
        pass
    assert files_below(tmp_path / "store.zarr") == sorted(names)


def test_a_folder_of_others_named_like_a_removed_store_is_kept(
    storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / ".store.zarr.removed").mkdir()
    (tmp_path / ".store.zarr.removed/x.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"found x\.jpg in it"), storage.locked():
        pass
    assert (tmp_path / ".store.zarr.removed/x.jpg").read_bytes() == b"precious"


# Links, and folders in the places of files


def test_a_linked_store_is_written_locked_and_removed_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "disk/store.zarr")
    storage, target = (
        open_storage(tmp_path / "link.zarr"),
        open_storage(tmp_path / "disk/store.zarr"),
    )
    with storage.locked():
        storage.write("zarr.json", OURS)
        with pytest.raises(ValueError, match="is being written"), target.locked():
            pass
        assert files_below(tmp_path / "disk") == [".store.zarr.lock", "store.zarr/zarr.json"]
        storage.remove()
        assert not (tmp_path / "disk/store.zarr").exists()
        storage.write("zarr.json", OURS)
    assert (tmp_path / "link.zarr").is_symlink()
    assert target.exists() and storage.exists()


def test_nothing_is_written_through_links_inside_a_store(storage: Storage, tmp_path: Path) -> None:
    storage.write("zarr.json", b"{}")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/0").write_bytes(b"precious")
    (tmp_path / "store.zarr/peaks").symlink_to(tmp_path / "others")
    with pytest.raises(ValueError, match="found a symbolic link"):
        storage.write("peaks/0", b"1")
    (tmp_path / "store.zarr/zarr.json").unlink()
    (tmp_path / "store.zarr/zarr.json").symlink_to(tmp_path / "others/0")
    storage.write("zarr.json", b"new")
    assert (tmp_path / "others/0").read_bytes() == b"precious"
    assert storage.read("zarr.json") == b"new"


def test_an_empty_folder_in_a_files_place_is_replaced(storage: Storage, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "store.zarr" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match="a: expected a file, found a folder"):
        storage.read("a")
    storage.write("a", b"1")
    assert storage.read("a") == b"1"
    storage.delete("b")
    assert list((tmp_path / "store.zarr").iterdir()) == [tmp_path / "store.zarr/a"]


def test_a_folder_with_content_in_a_files_place_is_kept(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "store.zarr/a").mkdir(parents=True)
    (tmp_path / "store.zarr/a/x.jpg").write_bytes(b"precious")
    for change in (lambda: storage.write("a", b"1"), lambda: storage.delete("a")):
        with pytest.raises(ValueError, match="found a folder that is not empty: move it away"):
            change()
    assert files_below(tmp_path) == ["store.zarr/a/x.jpg"]


def test_a_file_in_a_folders_place_is_kept(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"precious")
    with pytest.raises(ValueError, match=r"expected a folder at .*move it away"):
        storage.write("a/b", b"1")
    with pytest.raises(ValueError, match="found one in its folder's place"):
        storage.read("a/b")
    storage.delete("a/b")
    assert storage.read("a") == b"precious"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(storage: Storage, tmp_path: Path) -> None:
    storage.write("b", b"1")
    os.mkfifo(tmp_path / "store.zarr/a")
    for read in (storage.read, storage.read_array):
        with pytest.raises(ValueError, match="expected a file, found something else"):
            read("a")


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


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:hunter2@bucket/run.zarr",
        "sftp://hunter2@host/run.zarr",
        "simplecache::ftp://me:hunter2@host/run.zarr",
        "https://host/run.zarr?X-Amz-Signature=hunter2",
        "abfs://box/run.zarr?sv=2&sig=hunter2",
    ],
)
def test_a_url_with_secrets_is_refused_without_printing_them(url: str, toy_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"without user, password and keys.*environment") as direct:
        open_storage(url)
    with pytest.raises(ValueError, match=r"store\.location: expected .*environment") as in_recipe:
        apply_overrides(toy_recipe.model_dump(mode="json"), [f"store.location='{url}'"])
    for caught in (direct, in_recipe):
        assert "hunter2" not in str(caught.value) and "AKIAKEY" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["dask://host:8786/x.zarr", "simplecache::dask://h:1/x.zarr", "reference://x.zarr"]
)
def test_a_protocol_that_could_run_code_is_refused(url: str) -> None:
    with pytest.raises(
        ValueError, match=r"got the protocol (dask|reference)://, .* could run code"
    ):
        open_storage(url)


def test_a_url_without_secrets_is_accepted(toy_recipe: Recipe) -> None:
    for url in ("s3://bucket/a@b.zarr", "memory://key/token.zarr", "s3://b/x.zarr"):
        recipe = apply_overrides(toy_recipe.model_dump(mode="json"), [f"store.location='{url}'"])
        assert recipe.store.location == url


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
