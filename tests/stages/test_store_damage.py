"""Every file of a store, damaged in every way: found or harmless, mended, and never a traceback.

Each case damages one file of a finished toy store; runs the student, `fpd evaluate`, `fpd
verify-cache` and `fpd verify-cache --deep`; and then each command that their messages name. The
fast suite has some cases of each kind, the slow one every damage to every kind of file: metadata,
and the files of one shard. The files of all shards take ten minutes:

    FPD_DAMAGE_ALL_SHARDS=1 pytest tests/stages/test_store_damage.py -m "slow or not slow"
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numcodecs.checksum32 import CRC32C
from zstandard import ZstdCompressor, ZstdDecompressor

from fpd.cli import main
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.store.schema import ARRAYS, SPLIT_RECEIPTS, receipt_name, shard_name
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, student

CPU = torch.device("cpu")
VIEWS, SHARDS, SHARD_SAMPLES = 2, 3, 8  # of the toy store

METADATA = ("zarr.json", *(f"{name}/zarr.json" for name in (*ARRAYS, "basis")))
BASIS = "basis/c/0/0/0"


def shard_files(view: int, shard: int) -> list[str]:
    return [*(shard_name(name, view, shard) for name in ARRAYS), receipt_name(view, shard)]


FILES = [*METADATA, BASIS]
FILES += [name for v in range(VIEWS) for s in range(SHARDS) for name in shard_files(v, s)]

# What a portable store has besides: arrays of views, and each split's samples in one view.
VIEW_ARRAYS = ("crops", "crop_sizes", "joints")
SPLIT_ARRAYS = ("joints", "boxes", "normalizers", "ids")
SPLIT_SHARDS = {"train": SHARDS, "validation": 1, "test": 1}
SPLITS = {
    split: SPLIT_ARRAYS if split == "train" else (*VIEW_ARRAYS[:2], *SPLIT_ARRAYS)
    for split in SPLIT_SHARDS
}
PORTABLE_METADATA = [f"{name}/zarr.json" for name in VIEW_ARRAYS]
for split, arrays in SPLITS.items():
    PORTABLE_METADATA += [f"{split}/zarr.json", *(f"{split}/{name}/zarr.json" for name in arrays)]


def portable_files(shard: int) -> list[str]:
    """The files of a shard that a plain store does not have."""
    names = [shard_name(name, view, shard) for view in range(VIEWS) for name in VIEW_ARRAYS]
    for split, arrays in SPLITS.items():
        if shard < SPLIT_SHARDS[split]:
            names += [f"{split}/{shard_name(name, 0, shard)}" for name in arrays]
            names.append(f"{split}/{receipt_name(0, shard, SPLIT_RECEIPTS)}")
    return names


PORTABLE_FILES = PORTABLE_METADATA + [name for s in range(SHARDS) for name in portable_files(s)]


# Damages


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(path: Path) -> None:
    """Swap a file with the same one of the other view or split, or with the next of metadata."""
    store = next(parent for parent in path.parents if parent.suffix == ".zarr")
    name = path.relative_to(store).as_posix()
    metadata = PORTABLE_METADATA if name in PORTABLE_METADATA else METADATA
    if name in metadata:
        other = metadata[metadata.index(name) - 1]
    elif name.startswith("train/"):
        other = re.sub(r"(/(c|receipts)/0/)(\d)", lambda m: f"{m[1]}{(int(m[3]) + 1) % 3}", name)
    elif name.startswith(("validation/", "test/")):
        other = "test".join(name.split("validation"))
        other = other if other != name else "validation".join(name.split("test"))
    elif name == BASIS:
        other = "basis/zarr.json"
    else:
        other = re.sub(r"/(c|receipts)/(\d)/", lambda m: f"/{m[1]}/{1 - int(m[2])}/", name)
    contents = [(store / n).read_bytes() for n in (name, other)]
    (store / name).write_bytes(contents[1])
    (store / other).write_bytes(contents[0])


def alter(path: Path) -> None:
    """Other valid content of the same size, with correct checksums inside."""
    before = path.read_bytes()
    if path.suffix == ".json":
        after = altered_json(before)
    elif "/heatmaps/" in path.as_posix() or "/crops/" in path.as_posix():
        after = altered_shard(before)
    else:
        after = altered_array(before, path)
    assert len(after) == len(before) and after != before
    path.write_bytes(after)


def altered_json(content: bytes) -> bytes:
    for old in (b'"seed": 0', b'"fill_value": 0', b'"row": 0', b'"shard": 0', b'"zarr_format": 3'):
        if old in content:
            return content.replace(old, old[:-1] + b"1")
    return content.replace(b'"shard": 1', b'"shard": 0')


def altered_shard(content: bytes) -> bytes:
    """The shard with the chunks of its first two samples swapped."""
    index_bytes = 16 * SHARD_SAMPLES
    index = np.frombuffer(content[-4 - index_bytes : -4], "<u8").reshape(-1, 2).copy()
    index[:2] = index[1::-1]
    return content[: -4 - index_bytes] + bytes(CRC32C(location="end").encode(index.tobytes()))


def altered_array(content: bytes, path: Path) -> bytes:
    """The array with some values replaced by others, such that zstd gives as many bytes."""
    below = path.parts[[part.endswith(".zarr") for part in path.parts].index(True) + 1 :]
    array = below[below.index("c") - 1]
    types = dict.fromkeys(("parameters", "boxes", "normalizers"), "<f8") | {"ids": "u1"}
    types |= {"basis": "<f4", "crop_sizes": "<i4", "joints": "<f8" if below[0] in SPLITS else "<f4"}
    dtype = types.get(array, "<f2")
    values = np.frombuffer(ZstdDecompressor().decompress(content), dtype)
    rng = np.random.default_rng(0)
    used = len(values) if array == "basis" else len(values) // SHARD_SAMPLES * 2
    used = 17 if array == "ids" else used  # "#" and 16 digits
    for trial in range(500):
        changed = values.copy()
        first, second = rng.integers(0, used, 2)
        changed[[first, second]] = values[[second, first]]
        changed *= 2 if trial % 2 and array != "ids" else 1
        encoded = ZstdCompressor(level=15, write_checksum=True).compress(changed.tobytes())
        if len(encoded) == len(content) and changed.tobytes() != values.tobytes():
            return encoded
    raise AssertionError(f"found no other content of {len(content)} bytes for {path}")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped": flip,
    "truncated": truncate,
    "emptied": empty,
    "removed": Path.unlink,
    "folder": replace_by_folder,
    "swapped": swap,
    "altered": alter,
}


# Commands


@pytest.fixture(scope="module")
def reference(
    toy_work: Path, toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What the undamaged store gives."""
    yield from made_from(toy_work, toy_recipe, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def portable_reference(
    portable_toy_work: Path, portable_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """What the undamaged portable store gives."""
    folder = tmp_path_factory.mktemp("portable-reference")
    yield from made_from(portable_toy_work, portable_recipe, folder)


def made_from(toy: Path, recipe: Recipe, folder: Path) -> Iterator[dict[str, Any]]:
    """A student's weights, and the summary of the evaluation.

    While it lives, models are not evaluated, which has nothing to do with the store.
    """
    work = WorkDir(Path(shutil.copytree(toy, folder / "work")))
    student.run(work, recipe, CPU, name="reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "_evaluate_model", lambda *_, **__: ({}, None))
        patch.setattr(evaluate, "_write", lambda *_, **__: None)
        patch.setattr("fpd.commands.summaries.evaluate.describe", lambda report: str(report))
        yield {
            "store": content_of(work.store),
            "weights": work.student("reader").weights.read_bytes(),
            "summary": evaluate.run(work, recipe, CPU)["store"],
        }


def content_of(store: Path) -> dict[str, bytes]:
    return {str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file()}


def fpd(command: str, *options: str) -> Result:
    """Run a command, which ends well or with one sentence."""
    result = CliRunner().invoke(main, [*command.split(), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (0, 1), result.output
    assert result.output.count("Error: ") == result.exit_code, result.output
    return result


def named_command(result: Result, work: WorkDir) -> str:
    """The command that a message names, which names the work directory."""
    match = re.search(r"`fpd ([^`]*)`", result.output.split("Error: ")[1])
    assert match is not None, result.output
    assert f"-w {work.root}" in match[1], result.output
    return match[1]


def check_case(
    work: WorkDir, recipe: Recipe, reference: dict[str, Any], name: str, how: str
) -> None:
    damage = DAMAGES[how]
    damage(work.store / name)
    damaged = content_of(work.store)
    results = {
        "student": fpd(f"run student -w {work.root} --name reader"),
        "evaluate": fpd(f"evaluate -w {work.root}"),
        "verify": fpd(f"verify-cache -w {work.root}"),
        "deep": fpd(f"verify-cache -w {work.root} --deep"),
    }
    assert content_of(work.store) == damaged, "a command that only reads has changed the store"

    # Found, or harmless.
    if results["student"].exit_code == 0:
        assert work.student("reader").weights.read_bytes() == reference["weights"]
    if results["evaluate"].exit_code == 0:
        summary = evaluate.run(work, recipe, CPU)["store"]
        of_students = {"distilled_students": 0, "teacher_passes_online": 0}
        assert summary | of_students == reference["summary"] | of_students
    if results["deep"].exit_code == 0:
        failed = [key for key, result in results.items() if result.exit_code]
        assert not failed, f"--deep finds nothing, but {failed} fail"

    # Mended by each command that is named.
    commands = {named_command(result, work) for result in results.values() if result.exit_code}
    for number, command in enumerate(sorted(commands)):
        if number:
            shutil.rmtree(work.store)
            write(work.store, reference["store"])
            damage(work.store / name)
        result = fpd(command)
        assert result.exit_code == 0, result.output
        assert content_of(work.store) == reference["store"], command


def write(store: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(data)


FAST = [
    ("zarr.json", "removed"),
    ("zarr.json", "altered"),
    ("heatmaps/zarr.json", "folder"),
    ("steps/zarr.json", "swapped"),
    (BASIS, "altered"),
    (shard_name("heatmaps", 1, 1), "folder"),
    (shard_name("heatmaps", 0, 0), "altered"),
    (shard_name("steps", 1, 2), "altered"),
    (shard_name("peaks", 0, 1), "swapped"),
    (shard_name("parameters", 1, 0), "altered"),
    (receipt_name(0, 2), "flipped"),
]
EACH_KIND = (
    FILES if "FPD_DAMAGE_ALL_SHARDS" in os.environ else [*METADATA, BASIS, *shard_files(1, 1)]
)
CASES = [pytest.param(name, how) for name, how in FAST] + [
    pytest.param(name, how, marks=pytest.mark.slow)
    for name in EACH_KIND
    for how in DAMAGES
    if (name, how) not in FAST
]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_damage_is_found_or_harmless_and_mended(
    work: WorkDir, toy_recipe: Recipe, reference: dict[str, Any], name: str, how: str
) -> None:
    check_case(work, toy_recipe, reference, name, how)


def test_the_table_has_every_file(reference: dict[str, Any]) -> None:
    assert sorted(FILES) == sorted(reference["store"])


# A portable store: beside its data set, and alone

PORTABLE_FAST = [
    ("crops/zarr.json", "removed"),
    ("train/zarr.json", "altered"),
    ("validation/ids/zarr.json", "swapped"),
    (shard_name("crops", 1, 1), "altered"),
    (shard_name("crop_sizes", 0, 0), "altered"),
    (shard_name("joints", 0, 1), "swapped"),
    ("train/" + shard_name("ids", 0, 1), "altered"),
    ("train/" + shard_name("boxes", 0, 0), "folder"),
    ("validation/" + shard_name("crops", 0, 0), "flipped"),
    ("test/" + receipt_name(0, 0, SPLIT_RECEIPTS), "removed"),
]
PORTABLE_EACH_KIND = (
    PORTABLE_FILES
    if "FPD_DAMAGE_ALL_SHARDS" in os.environ
    else PORTABLE_METADATA + portable_files(0)
)
# One in five, coprime to the number of damages: each damage is done to several kinds of files.
PORTABLE_SLOW = [(n, h) for n in PORTABLE_EACH_KIND for h in DAMAGES if (n, h) not in PORTABLE_FAST]
PORTABLE_CASES = [pytest.param(name, how) for name, how in PORTABLE_FAST] + [
    pytest.param(name, how, marks=pytest.mark.slow)
    for name, how in (
        PORTABLE_SLOW if "FPD_DAMAGE_ALL_SHARDS" in os.environ else PORTABLE_SLOW[::5]
    )
]


@pytest.mark.parametrize(("name", "how"), PORTABLE_CASES)
def test_damage_of_a_portable_store_is_found_or_harmless_and_mended(
    portable_work: WorkDir,
    portable_recipe: Recipe,
    portable_reference: dict[str, Any],
    name: str,
    how: str,
) -> None:
    check_case(portable_work, portable_recipe, portable_reference, name, how)


@pytest.mark.parametrize(("name", "how"), PORTABLE_CASES[::3])
def test_damage_of_a_store_alone_is_found_and_its_metadata_mended(
    portable_toy_work: Path,
    portable_reference: dict[str, Any],
    tmp_path: Path,
    name: str,
    how: str,
) -> None:
    """Without a data set, shards cannot be made again: the message says what to do instead."""
    store = Path(shutil.copytree(portable_toy_work / "heatmaps.zarr", tmp_path / "given.zarr"))
    DAMAGES[how](store / name)
    damaged = content_of(store)
    at = f"-w {tmp_path / 'new'} --store {store} --set loader.workers=0"
    trained = fpd(f"run student {at} --name reader --set student.epochs=2")
    deep = fpd(f"verify-cache {at} --deep")
    assert content_of(store) == damaged, "a command that only reads has changed the store"
    if deep.exit_code == 0:
        assert trained.exit_code == 0, trained.output
    if trained.exit_code == 0 and not name.startswith("test/"):
        weights = WorkDir(tmp_path / "new").student("reader").weights.read_bytes()
        assert weights == portable_reference["weights"]
    repaired = fpd(f"verify-cache {at} --deep --repair")
    if name.endswith("zarr.json") and repaired.exit_code == 0:
        assert content_of(store) == portable_reference["store"]
    elif deep.exit_code:
        assert repaired.exit_code == 1
        assert "copy the store again from where it was made" in repaired.output, repaired.output


def test_the_table_has_every_file_of_a_portable_store(portable_reference: dict[str, Any]) -> None:
    files = set(portable_reference["store"]) - {"README.md"}
    assert sorted([*FILES, *PORTABLE_FILES]) == sorted(files)


@pytest.mark.parametrize("others", [[], PORTABLE_METADATA], ids=["manifest", "all metadata"])
def test_a_lost_manifest_of_a_portable_store_is_restored(
    portable_work: WorkDir, portable_reference: dict[str, Any], others: list[str]
) -> None:
    for name in ("zarr.json", *others):
        (portable_work.store / name).unlink()
    refused = fpd(f"run student -w {portable_work.root} --name reader")
    result = fpd(named_command(refused, portable_work))
    assert result.exit_code == 0, result.output
    assert content_of(portable_work.store) == portable_reference["store"]


def test_a_lost_manifest_of_a_store_alone_is_refused(
    portable_work: WorkDir, tmp_path: Path
) -> None:
    """In a work directory that has used the store before, and in a new one."""
    used = f"-w {tmp_path / 'used'}"
    at = f"--store {portable_work.store} --set loader.workers=0"
    assert fpd(f"run student {used} {at} --set student.epochs=1").exit_code == 0
    (portable_work.store / "zarr.json").unlink()
    result = fpd(f"verify-cache {used} --deep --repair")
    assert result.exit_code == 1
    assert "copy the store again from where it was made" in result.output, result.output
    for command in ("run student", "evaluate", "verify-cache --deep --repair"):
        assert fpd(f"{command} -w {tmp_path / 'new'} {at}").exit_code == 1
