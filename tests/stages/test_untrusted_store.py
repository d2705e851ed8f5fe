"""Portable stores that somebody else has made to do harm: one clear sentence each, nothing else.

Each case changes a portable store in a way that its checksums, which anybody can make again, do not
show, and runs commands on it in work directories that have nothing else.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.data.io.jpeg import encode_jpeg
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.store import open_storage, read_manifest, stored_layout
from fpd.pipeline.store.coverage import read_receipt
from fpd.pipeline.store.manifest import split_layout, write_manifest
from fpd.pipeline.store.schema import Layout
from fpd.pipeline.store.storage import Storage, StoragePart
from fpd.pipeline.store.writer import write_columns
from fpd.pipeline.workdir import WorkDir

EXHAUSTIVE = "FPD_DAMAGE_ALL_SHARDS" in os.environ
"""Try everything in every command; otherwise a part."""

CROP_PX = 64
QUICK = "--set student.epochs=1 --set loader.workers=0"


def fpd(command: str) -> Result:
    """Run a command, which does its work or ends with one sentence."""
    result = CliRunner().invoke(main, command.split())
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (0, 1), result.output
    assert result.output.count("Error: ") == result.exit_code, result.output
    assert "Traceback" not in result.output
    assert not any(ord(c) < 32 and c not in "\n\r\t" for c in result.output), repr(result.output)
    return result


@pytest.fixture
def store(portable_toy_work: Path, tmp_path: Path) -> Path:
    """A copy of the portable toy store, without anything beside it."""
    return Path(shutil.copytree(portable_toy_work / "heatmaps.zarr", tmp_path / "given.zarr"))


# Changes that the checksums do not show


def columns_of(storage: Storage, layout: Layout, view: int, shard: int) -> dict[str, Any]:
    """The values of a shard's arrays, which may be changed and written again."""
    import zarr

    group = zarr.open_group(storage.zarr(), mode="r")
    start = shard * layout.shard_samples
    rows = slice(start, start + len(layout.rows(shard)))
    return {name: np.asarray(group[name][view, rows]) for name in layout.arrays}  # type: ignore[index]


def rewrite(store: Path, split: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the first shard again with other values and a receipt that matches them.

    Args:
        split: the group of samples; "": the heatmaps.
    """
    whole = open_storage(store)
    storage: Storage = StoragePart(whole, split) if split else whole
    layout = split_layout(read_manifest(whole), split) if split else stored_layout(whole)
    receipt = read_receipt(storage, 0, 0, layout)
    assert receipt is not None
    columns = columns_of(storage, layout, 0, 0)
    change(columns)
    write_columns(
        storage,
        layout,
        0,
        0,
        columns,
        encoding_error=receipt["encoding_error"],
        canaries=receipt["canaries"],
    )


def edit_manifest(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = read_manifest(open_storage(store))
    change(manifest)
    write_manifest(open_storage(store), manifest)


def put(name: str, value: Any, *rows: int) -> Callable[[dict[str, Any]], None]:
    """Set an array's values in some rows; without rows, in all."""

    def change(columns: dict[str, Any]) -> None:
        columns[name][list(rows) if rows else slice(None)] = value

    return change


def put_crop(jpeg: bytes) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        columns["crops"][:, : len(jpeg)] = np.frombuffer(jpeg, np.uint8)
        columns["crop_sizes"][:] = len(jpeg)

    return change


def other_size() -> bytes:
    return encode_jpeg(np.zeros((32, 32, 3), np.uint8), 90)


def huge_header() -> bytes:
    jpeg = encode_jpeg(np.zeros((CROP_PX, CROP_PX, 3), np.uint8), 90)
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + b"\xff\xdc\xff\xdc" + jpeg[start + 4 :]


def gray() -> bytes:
    return bytes(cv2.imencode(".jpg", np.zeros((CROP_PX, CROP_PX), np.uint8))[1].tobytes())


ARRAYS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "negative crop size": ("", put("crop_sizes", -5)),
    "crop size 0": ("", put("crop_sizes", 0)),
    "crop size of gigabytes": ("", put("crop_sizes", 2**31 - 1)),
    "crop of another size": ("", put_crop(other_size())),
    "crop with a huge header": ("", put_crop(huge_header())),
    "gray crop": ("", put_crop(gray())),
    "crop of zeros": ("", put("crops", 0)),
    "infinite labels": ("", put("joints", np.inf)),
    "huge labels": ("", put("joints", 3e38)),
    "NaN parameters": ("", put("parameters", np.nan)),
    "validation crop size": ("validation", put("crop_sizes", -5)),
    "validation crop of another size": ("validation", put_crop(other_size())),
    "validation crop with a huge header": ("validation", put_crop(huge_header())),
    "ids not UTF-8": ("train", put("ids", 0xFF)),
    "no ids": ("train", put("ids", 0)),
    "equal ids": ("validation", put("ids", 0x41)),
    "ids that control the terminal": ("train", put("ids", 0x1B, 0)),
    "NaN boxes": ("train", put("boxes", np.nan, 1)),
    "infinite boxes": ("validation", put("boxes", np.inf, 1)),
    "boxes of size 0": ("train", put("boxes", 0.0)),
    "negative boxes": ("validation", put("boxes", -4.0)),
    "tiny boxes": ("validation", put("boxes", 5e-324)),
    "huge boxes": ("validation", put("boxes", 1e300)),
    "infinite joints": ("validation", put("joints", np.inf)),
    "huge joints": ("validation", put("joints", 1e300)),
    "training joints that are infinite": ("train", put("joints", -np.inf)),
    "normalizers of 0": ("validation", put("normalizers", 0.0)),
    "negative normalizers": ("validation", put("normalizers", -1.0)),
    "infinite normalizers": ("validation", put("normalizers", np.inf)),
}


def setting(*keys: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set an entry of the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        entry: Any = manifest
        for key in keys[:-1]:
            entry = entry[key]
        entry[keys[-1]] = value

    return change


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.pop(key)


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no crops": without("crops"),
    "crops null": setting("crops", value=None),
    "crops a list": setting("crops", value=[1]),
    "crops of text": setting("crops", value="jpeg"),
    "crops of no splits": setting("crops", value={}),
    "crops of splits in a number": setting("crops", "splits", value=3),
    "crops of splits in a text": setting("crops", "splits", value="validation"),
    "crops of a split outside": setting("crops", "splits", value=["../../outside", "test"]),
    "quality of text": setting("crops", "quality", value="x"),
    "quality beyond": setting("crops", "quality", value=10**30),
    "format": setting("crops", "format", value="png"),
    "no splits": without("splits"),
    "splits null": setting("splits", value=None),
    "splits a list": setting("splits", value=["validation", "test"]),
    "splits a number": setting("splits", value=7),
    "split outside": setting("splits", value={"../../outside": {"samples": 3}}),
    "split null": setting("splits", "validation", value=None),
    "split a list": setting("splits", "test", value=[]),
    "samples of text": setting("splits", "validation", "samples", value="6"),
    "samples 0": setting("splits", "validation", "samples", value=0),
    "samples negative": setting("splits", "validation", "samples", value=-6),
    "samples huge": setting("splits", "validation", "samples", value=10**30),
    "samples of many shards": setting("splits", "test", "samples", value=10**4),
    "samples more": setting("splits", "validation", "samples", value=9),
    "training samples huge": setting("datasets", 0, "samples", value=10**18),
    "views of text": setting("recipe", "store", "views", value="x"),
    "no skeleton": without("skeleton"),
    "skeleton null": setting("skeleton", value=None),
    "skeleton of joints": setting("skeleton", "joints", value=["a", "b"]),
    "flip beyond": setting("skeleton", "flip_indices", value=[99] * 14),
    "limbs beyond": setting("skeleton", "limbs", value=[[0, 99]]),
    "limbs negative": setting("skeleton", "limbs", value=[[0, -1]]),
    "groups beyond": setting("skeleton", "groups", value=[["Head", [10**30]]]),
    "normalizer beyond": setting("skeleton", "normalizer", value=[0, 14]),
    "threshold NaN": setting("skeleton", "threshold", value=float("nan")),
    "threshold negative": setting("skeleton", "threshold", value=-1.0),
    "curve of a billion steps": setting("skeleton", "curve_steps", value=10**9),
    "sigmas short": setting("skeleton", "sigmas", value=[1.0]),
    "sigmas of 0": setting("skeleton", "sigmas", value=[0.0] * 14),
    "skeleton's name": setting("skeleton", "name", value="\x1b[2J"),
    "joints of numbers": setting("joints", value=[1] * 14),
    "crop of a million pixels": setting("geometry", "crop_px", value=10**6),
    "crop of text": setting("geometry", "crop_px", value="64"),
    "crop smaller": setting("geometry", "crop_px", value=32),
    "heatmaps huge": setting("geometry", "heatmap_px", value=10**9),
    "a million samples a shard": setting("shard_samples", value=10**6),
    "recipe null": setting("recipe", value=None),
    "recipe a list": setting("recipe", value=[]),
    "recipe of text": setting("recipe", value="demo"),
    "recipe unknown": setting("recipe", "unknown", value={}),
    "recipe without store": setting("recipe", "store", value=None),
    "recipe of other views": setting("recipe", "store", "views", value=1000),
    "recipe of other seed": setting("recipe", "store", "seed", value=1),
    "batches huge": setting("recipe", "student", "batch_size", value=10**12),
    "students outside": setting("recipe", "students", value={"../x": {}}),
    "teacher null": setting("teacher", value=None),
}


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A work directory that does not exist yet."""
    return tmp_path / "new"


def options(new: Path, store: Path) -> str:
    return f"-w {new} --store {store}"


def train(new: Path, store: Path, more: str = "") -> Result:
    return fpd(f"run student {options(new, store)} {QUICK} {more}")


def verify(new: Path, store: Path, more: str = "--deep") -> Result:
    return fpd(f"verify-cache {options(new, store)} {more} --set loader.workers=0")


HARMLESS = {
    "infinite labels",
    "huge labels",
    "ids that control the terminal",
    "normalizers of 0",
}
"""Wrong values that make a student worse at most: some are refused, all end well."""


FAST = {
    "negative crop size",
    "crop with a huge header",
    "validation crop of another size",
    "ids not UTF-8",
    "infinite boxes",
    "splits a list",
    "split outside",
    "samples huge",
    "flip beyond",
    "recipe unknown",
}


def cases(names: dict[str, Any]) -> list[Any]:
    """All names; most of them for the slow suite."""
    return [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", cases(ARRAYS))
def test_wrong_values_with_matching_receipts(store: Path, new: Path, name: str) -> None:
    """Students do not train on them, or finish; `--deep` does not call pixels intact that are not.

    Afterwards, the store is as it was: commands that only read have changed nothing.
    """
    split, change = ARRAYS[name]
    rewrite(store, split, change)
    before = content(store)
    student, deep = train(new, store), verify(new, store)
    if name not in HARMLESS:
        assert student.exit_code == deep.exit_code == 1, (student.output, deep.output)
    repaired = verify(new, store, "--deep --repair")
    assert repaired.exit_code == deep.exit_code
    if repaired.exit_code:
        assert "copy the store again" in repaired.output
    assert content(store) == before


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARRAYS)[:: 1 if EXHAUSTIVE else 3])
def test_wrong_values_in_every_other_command(store: Path, new: Path, name: str) -> None:
    """With a student of the store as it was."""
    assert train(new, store).exit_code == 0
    split, change = ARRAYS[name]
    rewrite(store, "test" if split == "validation" else split, change)
    fpd(f"inspect-cache {options(new, store)}")
    fpd(f"inspect-cache {options(new, store)} --view 0 0 -o {new}.png")
    fpd(f"evaluate -w {new}")
    train(new, store, "--name labels --set student.alpha=0")
    fpd(f"sweep s -w {new} {QUICK} --grid student.alpha=0.5 --seeds 1")
    fpd(f"merge-caches {store} -w {new}-merged")


@pytest.mark.parametrize("name", cases(MANIFESTS))
def test_wrong_entries_of_a_manifest_with_a_matching_checksum(
    store: Path, new: Path, name: str
) -> None:
    edit_manifest(store, MANIFESTS[name])
    before = content(store)
    train(new, store)
    verify(new, store)
    verify(new, store, "--repair")
    fpd(f"inspect-cache {options(new, store)}")
    assert content(store) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MANIFESTS)[:: 1 if EXHAUSTIVE else 4])
def test_wrong_entries_in_every_other_command(store: Path, new: Path, name: str) -> None:
    assert train(new, store).exit_code == 0
    edit_manifest(store, MANIFESTS[name])
    fpd(f"inspect-cache -w {new} --view 0 0 -o {new}.png")
    fpd(f"evaluate -w {new}")
    train(new, store, "--name labels --set student.alpha=0")
    fpd(f"sweep s -w {new} {QUICK} --grid student.alpha=0.5 --seeds 1")
    fpd(f"merge-caches {store} -w {new}-merged")
    fpd(f"cache-heatmaps -w {new} --set data.reader=synthetic")
    assert sorted(path.name for path in new.parent.iterdir() if "outside" in path.name) == []


def test_code_and_paths_in_a_recipe_are_left_out(store: Path, new: Path, tmp_path: Path) -> None:
    """A teacher that is Python code, caches and weights on the reader's disk, a cluster."""
    (tmp_path / "weights.safetensors").write_bytes(b"")

    def name_them(manifest: dict[str, Any]) -> None:
        recipe = manifest["recipe"]
        recipe["store"]["teachers"] = ["os:system", str(tmp_path)]
        recipe["store"]["location"] = str(tmp_path / "elsewhere.zarr")
        recipe["loader"] = {"cache_dir": str(tmp_path / "cache"), "workers": 200}
        recipe["cluster"] = {"resources": {"GPU": 8}}
        recipe["data"] = {"reader": "folder", "root": "/etc", "folder": {"skeleton": "lsp"}}
        recipe["student"]["init_from"] = str(tmp_path / "weights.safetensors")
        recipe["students"] = {"b": {"init_from": "/etc/passwd"}}
        recipe["sweeps"] = {"s": {"grid": {"student.init_from": ["/etc/passwd"]}}}

    edit_manifest(store, name_them)
    result = train(new, store)
    assert result.exit_code == 0, result.output
    kept = WorkDir(new).recipe(None, ())
    assert (kept.store.teachers, kept.store.location) == ((), str(store))
    assert (kept.data.reader, kept.data.root, kept.loader.cache_dir) == ("store", None, None)
    assert (kept.student.init_from, kept.student_named("b").init_from) == (None, None)
    assert kept.sweeps == {}
    assert kept.cluster == Recipe().cluster
    text = (new / "recipe.json").read_text()
    assert "/etc" not in text and "os:system" not in text
    assert {path.name for path in tmp_path.iterdir()} <= {
        "given.zarr",
        "new",
        "weights.safetensors",
    }


# Symbolic links, which lead outside


@pytest.fixture
def outside(tmp_path: Path, portable_toy_work: Path) -> Path:
    """Somebody's files, with names as in a store."""
    folder = Path(
        shutil.copytree(portable_toy_work / "heatmaps.zarr/validation", tmp_path / "outside")
    )
    (folder / "notes.txt").write_text("mine")
    return folder


def link(path: Path, to: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(to)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("change", ["", "--set data.synthetic.test=5 --set data.validation=0.1"])
def test_nothing_is_written_through_a_linked_group(
    portable_work: WorkDir, outside: Path, split: str, change: str
) -> None:
    """Neither if its samples are those that the link leads to, nor if they are to be replaced."""
    before = content(outside)
    link(portable_work.store / split, outside)
    for command in ("cache-heatmaps", "verify-cache --deep --repair", "cache-heatmaps --overwrite"):
        fpd(f"{command} -w {portable_work.root} {change}")
        assert content(outside) == before, command


@pytest.mark.parametrize("name", ["crops", "crop_sizes", "joints", "test/ids", "validation/crops"])
def test_nothing_is_written_through_a_linked_array(
    portable_work: WorkDir, outside: Path, name: str
) -> None:
    before = content(outside)
    link(portable_work.store / name, outside)
    for command in ("cache-heatmaps", "verify-cache --deep --repair"):
        result = fpd(f"{command} -w {portable_work.root}")
        assert result.exit_code == 1, result.output
        assert content(outside) == before, command


def test_files_of_others_in_a_group_are_not_removed(portable_work: WorkDir) -> None:
    note = portable_work.store / "test" / "notes.txt"
    note.write_text("mine")
    result = fpd(f"cache-heatmaps -w {portable_work.root} --set data.synthetic.test=5")
    assert result.exit_code == 1
    assert "also holds notes.txt, which is not part of a heatmap store" in result.output
    assert note.read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "link", "absent"])
def test_the_data_card_is_no_way_outside(
    portable_work: WorkDir, new: Path, tmp_path: Path, kind: str
) -> None:
    """A card that is a link is not followed to write, and no command needs one."""
    card, other = portable_work.store / "README.md", tmp_path / "somebody's.md"
    other.write_text("mine")
    card.unlink(missing_ok=True)
    if kind == "link":
        card.symlink_to(other)
    elif kind == "file":
        card.write_text("a card")
    assert train(new, portable_work.store).exit_code == 0
    assert verify(new, portable_work.store).exit_code == 0
    assert fpd(f"cache-heatmaps -w {portable_work.root}").exit_code == 0
    assert fpd(f"cache-heatmaps -w {portable_work.root} --overwrite").exit_code == 0
    assert other.read_text() == "mine"
