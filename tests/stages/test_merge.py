"""Stores made apart merge into the store that one run makes; and stores grow."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.interrupt import Interrupted, Stop
from fpd.pipeline.store import Shard, StoreWriter, open_storage, read_manifest, stored_layout
from fpd.pipeline.store.local_storage import LocalStorage
from fpd.pipeline.store.manifest import write_manifest
from fpd.pipeline.store.match import open_store
from fpd.pipeline.store.merge import Copy, copy_shard
from fpd.pipeline.teachers import expected_entry
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student
from fpd.stages import merge as merge_stage

CPU = torch.device("cpu")
SHARDS_A_VIEW = 3  # of the toy store: 8, 8 and 2 samples


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(f.relative_to(store)): f.read_bytes() for f in store.rglob("*") if f.is_file()}


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of a shard, which change when it is written again."""
    shards = [f for f in store.rglob("*") if f.is_file() and f.name != "zarr.json"]
    return {str(f): (f.stat().st_ino, f.stat().st_mtime_ns) for f in shards}


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


@pytest.fixture(scope="module")
def halves(
    toy_work: Path, toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Stores with view 0 and view 1, as two clusters make them. Read-only."""
    stores = []
    for view in range(2):
        work = WorkDir(tmp_path_factory.mktemp(f"half{view}"))
        shutil.copytree(toy_work / "teacher", work.teacher.path)
        heatmaps.run(work, toy_recipe, CPU, only_views=range(view, view + 1))
        stores.append(work.store)
    return stores[0], stores[1]


@pytest.fixture(scope="module")
def portable_halves(
    portable_toy_work: Path, portable_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same of a portable store; each half has the samples of all splits. Read-only."""
    stores = []
    for view in range(2):
        work = WorkDir(tmp_path_factory.mktemp(f"portable-half{view}"))
        shutil.copytree(portable_toy_work / "teacher", work.teacher.path)
        heatmaps.run(work, portable_recipe, CPU, only_views=range(view, view + 1))
        stores.append(work.store)
    return stores[0], stores[1]


def copied(store: Path, to: Path) -> Path:
    return Path(shutil.copytree(store, to))


def merge(work: Path, *sources: Path | str) -> dict[str, Any]:
    recipe = WorkDir(work).recipe(None, (), required=False)
    return merge_stage.run(WorkDir(work), recipe, [str(source) for source in sources])


# Merging


def test_two_halves_make_the_store_that_one_run_makes(
    toy_work: Path, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    before = [content(half) for half in halves]
    merged = merge(tmp_path / "merged", *halves)
    assert (merged["copied"], merged["present"], merged["shards"]) == (6, 6, 6)
    assert content(tmp_path / "merged" / "heatmaps.zarr") == content(WorkDir(toy_work).store)
    assert [content(half) for half in halves] == before


@pytest.mark.parametrize("order", [1, -1])
def test_two_halves_make_the_portable_store_that_one_run_makes(
    portable_toy_work: Path, portable_halves: tuple[Path, Path], tmp_path: Path, order: int
) -> None:
    before = [content(half) for half in portable_halves]
    merged = merge(tmp_path / "merged", *portable_halves[::order])
    assert (merged["present"], merged["shards"]) == (6, 6)
    assert content(tmp_path / "merged" / "heatmaps.zarr") == content(
        WorkDir(portable_toy_work).store
    )
    assert [content(half) for half in portable_halves] == before


def test_splits_that_only_one_half_has_complete_are_merged(
    portable_toy_work: Path, portable_halves: tuple[Path, Path], tmp_path: Path
) -> None:
    """As of a run that was stopped before it had written them."""
    first = copied(portable_halves[0], tmp_path / "first.zarr")
    shutil.rmtree(first / "test")
    change_manifest(first, lambda manifest: manifest["splits"].pop("test"))
    (first / "train/ids/receipts/0/1.json").unlink()
    merge(tmp_path / "merged", first, portable_halves[1])
    assert content(tmp_path / "merged" / "heatmaps.zarr") == content(
        WorkDir(portable_toy_work).store
    )


def test_splits_of_different_samples_are_refused(
    portable_halves: tuple[Path, Path], tmp_path: Path
) -> None:
    other = copied(portable_halves[1], tmp_path / "other.zarr")
    change_manifest(other, lambda manifest: manifest["splits"]["test"].update(samples=7))
    with pytest.raises(ValueError, match="their test samples differ"):
        merge(tmp_path / "merged", portable_halves[0], other)
    assert not (tmp_path / "merged" / "heatmaps.zarr").exists()


def test_a_portable_store_and_a_plain_one_are_refused(
    portable_halves: tuple[Path, Path], halves: tuple[Path, Path], tmp_path: Path
) -> None:
    for sources in ((portable_halves[0], halves[1]), (halves[0], portable_halves[1])):
        with pytest.raises(ValueError, match="cannot be joined"):
            merge(tmp_path / "merged", *sources)


def test_a_damaged_file_of_a_split_is_not_copied(
    portable_halves: tuple[Path, Path], tmp_path: Path
) -> None:
    other = copied(portable_halves[0], tmp_path / "other.zarr")
    file = other / "test/crops/c/0/0/0"
    flipped = bytearray(file.read_bytes())
    flipped[7] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"test: crops/c/0/0/0 .* is damaged"):
        merge(tmp_path, other)
    assert not (tmp_path / "heatmaps.zarr/test/ids/receipts/0/0.json").exists()


def test_shards_of_the_target_are_not_copied_again(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    merge(tmp_path, halves[0])
    before = stamps(tmp_path / "heatmaps.zarr")
    assert merge(tmp_path, *halves)["copied"] == SHARDS_A_VIEW
    assert before.items() <= stamps(tmp_path / "heatmaps.zarr").items()
    assert merge(tmp_path, *halves)["copied"] == 0


def test_the_merged_store_has_the_largest_number_of_views(
    toy_work: Path, toy_recipe: Recipe, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    """A store of one view, and one of two that has only the second."""
    narrow = WorkDir(tmp_path / "narrow")
    shutil.copytree(toy_work / "teacher", narrow.teacher.path)
    heatmaps.run(narrow, changed(toy_recipe, "store.views=1"), CPU)
    merged = merge(tmp_path / "merged", narrow.store, halves[1])
    assert (merged["views"], merged["present"]) == (2, 6)
    assert content(tmp_path / "merged" / "heatmaps.zarr") == content(WorkDir(toy_work).store)


def test_sources_and_target_may_be_remote(
    toy_work: Path, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(halves[0]), "/merge/half.zarr", recursive=True)
    recipe = changed(Recipe(), 'store.location="memory://merge/merged.zarr"')
    try:
        sources = ["memory://merge/half.zarr", str(halves[1])]
        merged = merge_stage.run(WorkDir(tmp_path), recipe, sources)
        target = open_storage("memory://merge/merged.zarr")
        content_of_target = {name: target.read(name) for name in target.sizes("")}
    finally:
        memory.rm("/merge", recursive=True)
    assert merged["present"] == 6
    assert content_of_target == content(WorkDir(toy_work).store)


def test_a_student_trains_on_a_merged_store_without_the_teacher(
    toy_recipe: Recipe, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    merge(tmp_path, *halves)
    recipe = changed(toy_recipe, "student.epochs=1")
    assert student.run(WorkDir(tmp_path), recipe, CPU)["result"]


@pytest.mark.parametrize("complete_shards", [0, 4])
def test_a_merge_resumes_after_a_full_disk(
    toy_work: Path,
    halves: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    complete_shards: int,
) -> None:
    """The disk is full in the middle of a shard, after some complete ones."""
    write, receipts = LocalStorage.write, []

    def failing(files: LocalStorage, name: str, data: bytes) -> None:
        if "receipts" in name:
            receipts.append(name)
        elif len(receipts) >= complete_shards and name.startswith("peaks/c/"):
            raise OSError(28, "No space left on device")
        write(files, name, data)

    monkeypatch.setattr(merge_stage, "CONCURRENT_COPIES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", failing)
        with pytest.raises(OSError, match="No space"):
            merge(tmp_path, *halves)
    assert len(receipts) == complete_shards
    assert merge(tmp_path, *halves)["copied"] == 6 - complete_shards
    assert content(tmp_path / "heatmaps.zarr") == content(WorkDir(toy_work).store)


def test_a_merge_resumes_after_a_signal(
    toy_work: Path, halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the copy of the second shard, which is still finished."""
    stop, copies = Stop(), []

    def stopping(copy: Copy, target: LocalStorage) -> None:
        copies.append(copy)
        if len(copies) == 2:
            stop.set()
        copy_shard(copy, target)

    monkeypatch.setattr(merge_stage, "CONCURRENT_COPIES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(merge_stage, "stop_requested", lambda: nullcontext(stop))
        patch.setattr(merge_stage, "copy_shard", stopping)
        with pytest.raises(Interrupted, match="the same command copies the rest"):
            merge(tmp_path, *halves)
    assert merge(tmp_path, *halves)["copied"] == 4
    assert content(tmp_path / "heatmaps.zarr") == content(WorkDir(toy_work).store)


# Refusals


def test_a_target_that_is_being_written_is_refused(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    with (
        open_storage(tmp_path / "heatmaps.zarr").locked(),
        pytest.raises(ValueError, match="is being written by process"),
    ):
        merge(tmp_path, *halves)


def change_manifest(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = read_manifest(open_storage(store))
    change(manifest)
    write_manifest(open_storage(store), manifest)


def test_stores_of_different_runs_are_refused_naming_each_difference(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    other = copied(halves[1], tmp_path / "other.zarr")

    def differ(manifest: dict[str, Any]) -> None:
        manifest["teacher"]["sha256"] = "f" * 64
        manifest["seed"] = 7
        manifest["datasets"].append(manifest["datasets"][0])

    change_manifest(other, differ)
    with pytest.raises(ValueError, match=r"teacher\.sha256: expected .*, found ffff") as refused:
        merge(tmp_path / "merged", halves[0], other)
    assert "seed: expected 0, found 7" in str(refused.value)
    assert "datasets: expected" in str(refused.value)
    assert not (tmp_path / "merged" / "heatmaps.zarr").exists()


def test_a_target_of_another_run_is_not_changed(halves: tuple[Path, Path], tmp_path: Path) -> None:
    target = copied(halves[0], tmp_path / "heatmaps.zarr")
    change_manifest(target, lambda manifest: manifest.update(max_error=0.05))
    before = content(target)
    with pytest.raises(ValueError, match=r"max_error: expected 0\.05, found 0\.1"):
        merge(tmp_path, halves[1])
    assert content(target) == before


def test_versions_and_measurements_may_differ(halves: tuple[Path, Path], tmp_path: Path) -> None:
    other = copied(halves[1], tmp_path / "other.zarr")
    change_manifest(other, lambda manifest: manifest.update(versions={}, encoding_error={}))
    assert merge(tmp_path, halves[0], other)["present"] == 6


@pytest.mark.parametrize("present", [False, True], ids=["two sources", "source and target"])
def test_shards_that_differ_are_refused_before_anything_is_copied(
    toy_work: Path,
    toy_recipe: Recipe,
    halves: tuple[Path, Path],
    tmp_path: Path,
    *,
    present: bool,
) -> None:
    """Two stores have receipts of different bytes for view 1, shard 2."""
    other = WorkDir(tmp_path / "other")
    shutil.copytree(toy_work / "teacher", other.teacher.path)
    write = StoreWriter.write

    def differing(writer: StoreWriter, shard: Shard) -> None:
        if shard.shard == 2:
            shard.peaks_SK[0, 0] *= 2
        write(writer, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreWriter, "write", differing)
        heatmaps.run(other, toy_recipe, CPU, only_views=[1])
    sources = [halves[0], halves[1], other.store]
    merged = tmp_path / "merged"
    if present:
        merge(merged, sources.pop())
    before = content(merged / "heatmaps.zarr")
    with pytest.raises(ValueError, match="differ in view 1, shard 2"):
        merge(merged, *sources)
    assert content(merged / "heatmaps.zarr") == before


def test_a_damaged_file_is_not_copied(halves: tuple[Path, Path], tmp_path: Path) -> None:
    other = copied(halves[1], tmp_path / "other.zarr")
    file = other / "peaks/c/1/1/0"
    flipped = bytearray(file.read_bytes())
    flipped[7] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"peaks/c/1/1/0 \(view 1, shard 1\) is damaged"):
        merge(tmp_path, halves[0], other)
    target = tmp_path / "heatmaps.zarr"
    assert not (target / "peaks/c/1/1/0").exists()
    assert not (target / "heatmaps/receipts/1/1.json").exists()
    assert merge(tmp_path, *halves)["present"] == 6


def test_the_receipt_is_copied_last(halves: tuple[Path, Path], tmp_path: Path) -> None:
    written: list[str] = []

    class Recording(LocalStorage):
        def write(self, name: str, content: bytes) -> None:
            written.append(name)

        def delete(self, name: str) -> None:
            written.append(f"delete {name}")

    source = open_storage(halves[0])
    copy_shard(Copy(source, 0, 2, stored_layout(source)), Recording(tmp_path))
    receipt = "heatmaps/receipts/0/2.json"
    assert (written[0], written[-1]) == (f"delete {receipt}", receipt)
    assert len(written) == 6


# The commands


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_merge_caches_prints_what_is_present(halves: tuple[Path, Path], tmp_path: Path) -> None:
    first = fpd("merge-caches", halves[0], "-w", tmp_path)
    assert first.exit_code == 0, first.output
    assert "3 shards copied, 3 of 6 are present" in first.output
    assert f"`fpd inspect-cache -w {tmp_path}`" in first.output
    second = fpd("merge-caches", halves[1], "-w", tmp_path)
    assert "3 shards copied, 6 of 6 are present" in second.output
    assert not (tmp_path / "recipe.json").exists()  # which the first stage writes


def test_merge_caches_of_a_work_directory_names_its_store(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    refused = fpd("merge-caches", halves[0].parent, "-w", tmp_path)
    assert refused.exit_code == 1
    assert f"name the store itself, {halves[0]}" in refused.output


def test_merge_caches_of_nothing_is_refused(tmp_path: Path) -> None:
    refused = fpd("merge-caches", "-w", tmp_path)
    assert refused.exit_code == 1
    assert "expected at least one store to merge from" in refused.output


def test_only_views_makes_these_views_alone(toy_work: Path, tmp_path: Path) -> None:
    work = WorkDir(copied(toy_work, tmp_path / "work"))
    shutil.rmtree(work.store)
    made = fpd("cache-heatmaps", "-w", work.root, "--set", "store.views=4", "--only-views", "0,2-3")
    assert made.exit_code == 0, made.output
    shards = {path.name for path in (work.store / "heatmaps/c").iterdir()}
    assert shards == {"0", "2", "3"}
    assert json.loads((work.store / "heatmaps/zarr.json").read_text())["shape"][0] == 4


def test_only_views_beyond_the_store_are_refused(toy_work: Path) -> None:
    refused = fpd("cache-heatmaps", "-w", toy_work, "--only-views", "1-2")
    assert refused.exit_code == 1
    assert "Error: expected" in refused.output


# Growing


def test_a_student_trains_on_complete_views_while_another_is_written(
    work: WorkDir, toy_recipe: Recipe, toy_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer waits in the middle of view 1, holding its lock, until the student is done."""
    shutil.rmtree(work.store)
    recipe = changed(toy_recipe, "store.views=1", "student.epochs=1")
    heatmaps.run(work, recipe, CPU)
    first = stamps(work.store)
    write, begun, trained = StoreWriter.write, threading.Event(), threading.Event()

    def write_and_wait(writer: StoreWriter, shard: Shard) -> None:
        write(writer, shard)
        begun.set()
        assert trained.wait(60)

    monkeypatch.setattr(StoreWriter, "write", write_and_wait)
    writing = threading.Thread(target=heatmaps.run, args=(work, toy_recipe, CPU))
    writing.start()
    try:
        assert begun.wait(60)
        with pytest.raises(ValueError, match="is being written by process"):
            heatmaps.run(work, toy_recipe, CPU)
        with pytest.raises(ValueError, match="the first 1 of 2 views are complete"):
            student.run(work, toy_recipe, CPU)
        record = student.run(work, recipe, CPU)
    finally:
        trained.set()
        writing.join()
    assert record["identity"]["inputs"]["store"]["views"] == 1
    assert first.items() <= stamps(work.store).items()
    assert content(work.store) == content(WorkDir(toy_work).store)


def test_samples_added_at_the_end_extend_a_store(work: WorkDir, toy_recipe: Recipe) -> None:
    """12 samples, then 20; none is held out, so that the first 12 stay the first."""
    shutil.rmtree(work.store)
    fewer, more = (
        changed(toy_recipe, "data.validation=0", f"data.synthetic.train={count}")
        for count in (12, 20)
    )
    assert load(more.data, "train").ids[:12] == load(fewer.data, "train").ids
    heatmaps.run(work, fewer, CPU)
    before = stamps(work.store)
    heatmaps.run(work, more, CPU)
    after = stamps(work.store)
    assert before.items() <= after.items()
    added = {os.path.relpath(path, work.store) for path in after.keys() - before.keys()}
    # Shards of 8 and 4 samples before; the 8 new ones are a shard of their own.
    assert {name for name in added if name.startswith("peaks")} == {
        "peaks/c/0/2/0",
        "peaks/c/1/2/0",
    }
    assert len(added) == 2 * 5
    for recipe in (fewer, more):  # students of both data sets can use the store
        samples, manifest = load(recipe.data, "train"), read_manifest(open_storage(work.store))
        open_store(work, recipe, samples, expected_entry(work.teacher, recipe, manifest))
