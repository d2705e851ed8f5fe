"""`fpd verify-cache`: what is damaged is found and named, and the command named mends just that."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import Layout, Shard, StoreReader, StoreWriter, files_at, read_manifest
from fpd.pipeline.store.coverage import read_receipt, sealed
from fpd.pipeline.store.manifest import stored_layout
from fpd.pipeline.store.schema import ARRAYS, receipt_name, shard_name
from fpd.pipeline.store.verify import examine, spread
from fpd.pipeline.store.writer import digest
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, teacher
from fpd.stages import verify as verification

CPU = torch.device("cpu")

VIEW, SHARD = 1, 2  # the last, of 2 people and 6 rows of padding
FILES = {name: shard_name(name, VIEW, SHARD) for name in ARRAYS} | {
    "receipt": receipt_name(VIEW, SHARD)
}


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def times(path: Path) -> dict[str, int]:
    return {str(f.relative_to(path)): f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def flip(path: Path, bit: int) -> None:
    damaged = bytearray(path.read_bytes())
    bit %= 8 * len(damaged)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)


def command_in(message: str) -> list[str]:
    """The arguments of the (first) command that a message names."""
    return message.split("`fpd ")[1].split("`")[0].split()


def run_student(work: WorkDir) -> Result:
    return fpd("run", "student", "-w", work.root, "--name", "other")


# A store that is whole


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_a_whole_store_is_well(toy_work: Path, deep: list[str]) -> None:
    before = times(toy_work)
    found = fpd("verify-cache", "-w", toy_work, *deep)
    assert found.exit_code == 0, found.output
    assert "2 views of 18 people in 6 shards" in found.output
    assert "as the receipts say" in found.output
    assert "worst" not in found.output
    assert times(toy_work) == before


def test_cells_are_within_the_bound_and_the_worst_come_first(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    found = verification.run(WorkDir(toy_work), toy_recipe, CPU, cells=1000)
    assert found.trouble is None
    assert found.cells is not None
    errors = [cell.error for cell in found.cells]
    assert {(cell.view, cell.sample) for cell in found.cells} == {
        (view, sample) for view in range(2) for sample in toy_samples.ids
    }
    assert errors == sorted(errors, reverse=True)
    # What was measured when the store was written, but for a batch's rounding.
    largest = read_manifest(files_at(toy_work / "heatmaps.zarr"))["encoding_error"]["max_error"]
    assert max(errors) == pytest.approx(largest, abs=1e-3)
    assert 0 < largest < toy_recipe.store.max_error < found.bound


def test_a_mirror_averaged_store_is_compared_with_averaged_answers(
    toy_work: Path, toy_recipe: Recipe, tmp_path: Path
) -> None:
    work = WorkDir(tmp_path)
    shutil.copytree(toy_work / "teacher", work.teacher.path)
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["store.flip_averaged=true", "store.views=1", "store.max_error=0.004"],
    )
    heatmaps.run(work, recipe, CPU)
    assert verification.run(work, recipe, CPU).trouble is None


def test_without_a_teacher_the_rest_is_checked(work: WorkDir) -> None:
    shutil.rmtree(work.teacher.path)
    found = fpd("verify-cache", "-w", work.root, "--deep")
    assert found.exit_code == 0, found.output
    assert "no cell was compared" in found.output
    flip(work.store / FILES["peaks"], 99)
    assert fpd("verify-cache", "-w", work.root, "--deep").exit_code == 1
    mending = fpd("verify-cache", "-w", work.root, "--deep", "--repair")
    assert mending.exit_code == 1
    assert "no finished teacher to make 1 shard of" in mending.output


def test_cells_are_spread_over_shards_and_rows() -> None:
    layout = Layout(views=2, segments=(50,), joints=3, heatmap_px=8, shard_samples=10)
    cells = spread(layout, layout.tasks(), 20)
    assert cells == spread(layout, layout.tasks(), 20)
    assert len(set(cells)) == 20
    assert {(view, layout.locate(index)[0]) for view, index in cells} == set(layout.tasks())
    assert len({index % 10 for _, index in cells}) > 5
    assert len(spread(layout, layout.tasks(), 3)) == 3
    assert sorted(spread(layout, layout.tasks(), 10_000)) == [
        (view, index) for view in range(2) for index in range(50)
    ]
    assert spread(layout, [], 5) == spread(layout, layout.tasks(), 0) == []


# A store of something else


def test_a_store_of_another_run_is_refused(toy_work: Path, tmp_path: Path) -> None:
    found = fpd("verify-cache", "-w", toy_work, "--set", "store.seed=3")
    assert found.exit_code == 1
    assert "seed: expected 3, found 0" in found.output
    none = fpd("verify-cache", "-w", tmp_path)
    assert none.exit_code == 1
    assert f"is missing: run `fpd cache-heatmaps -w {tmp_path}`" in none.output


def test_a_teacher_who_says_something_else_is_found_out(work: WorkDir, toy_recipe: Recipe) -> None:
    """Its weights' digest put right: only its answers tell."""
    other = apply_overrides(toy_recipe.model_dump(mode="json"), ["teacher.seed=1"])
    shutil.rmtree(work.teacher.path)
    teacher.run(work, other, CPU)
    group = work.store / "zarr.json"
    metadata = json.loads(group.read_text())
    record = work.teacher.record()["result"]
    metadata["attributes"]["fpd"]["teacher"]["sha256"] = record["weights_sha256"]
    group.write_text(json.dumps(metadata))
    assert run_student(work).exit_code == 0
    found = fpd("verify-cache", "-w", work.root, "--samples", "10")
    assert found.exit_code == 1
    assert "cells are not what the teacher says" in found.output
    assert fpd(*command_in(found.output)).exit_code == 0
    assert fpd("verify-cache", "-w", work.root).exit_code == 0


def rewrite(work: WorkDir, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a shard again with other content, and a receipt that vouches for it."""
    files = files_at(work.store)
    reader, receipt = StoreReader(files, stored_layout(files)), read_receipt(files, VIEW, SHARD)
    assert receipt is not None
    cells = [reader.read(VIEW, index) for index in reader.layout.rows(SHARD)]
    columns = {name: np.stack([c[i] for c in cells]) for i, name in enumerate(ARRAYS)}
    change(columns)
    writer = StoreWriter(files, read_manifest(files), 2, work.root)
    writer.write(
        Shard(VIEW, SHARD, *columns.values(), receipt["encoding_error"], receipt["canaries"])
    )


WRONG: dict[str, Callable[[Any], Any]] = {
    "heatmaps": lambda values: values + 50,
    "steps": lambda values: 100 * values,
    "peaks": lambda values: values + 1,
    "parameters": lambda values: values[::-1],
}


@pytest.mark.parametrize("name", WRONG)
def test_content_that_is_wrong_but_vouched_for_is_found_by_the_teacher(
    work: WorkDir, toy_samples: SampleSet, name: str
) -> None:
    rewrite(work, lambda columns: columns.update({name: WRONG[name](columns[name])}))
    found = fpd("verify-cache", "-w", work.root, "--deep")
    assert found.exit_code == 1
    assert "2 of 36 cells are not what the teacher says" in found.output
    for index in (16, 17):
        assert f"view 1 of {toy_samples.ids[index]}: " in found.output


# Damage


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_named_and_mended(
    work: WorkDir, toy_samples: SampleSet, name: str
) -> None:
    whole, before = content(work.store), times(work.store)
    flip(work.store / FILES[name], random.Random(name).getrandbits(32))
    found = fpd("verify-cache", "-w", work.root, "--deep")
    assert found.exit_code == 1
    assert f"{name}, view 1, shard 2 ({toy_samples.ids[16]} to {toy_samples.ids[17]})" in (
        found.output
    )
    assert "1 of 6 shards missing or damaged" in found.output
    mended = fpd(*command_in(found.output))
    assert mended.exit_code == 0, mended.output
    assert "mended" in mended.output
    assert content(work.store) == whole
    touched = {n for n, time in times(work.store).items() if time != before[n]}
    assert touched == {*FILES.values(), "zarr.json"}
    assert fpd("verify-cache", "-w", work.root, "--deep").exit_code == 0


@pytest.mark.parametrize("name", FILES)
def test_every_bit_of_every_file_counts(work: WorkDir, name: str) -> None:
    files, path = files_at(work.store), work.store / FILES[name]
    layout, whole = stored_layout(files), path.read_bytes()
    assert examine(files, layout, VIEW, SHARD) == []
    for bit in random.Random(0).sample(range(8 * len(whole)), 200):
        flip(path, bit)
        assert [damage.array for damage in examine(files, layout, VIEW, SHARD)] == [name]
        path.write_bytes(whole)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [None, 0, -1])
def test_a_file_cut_short_or_gone_is_mended_by_what_the_student_says(
    work: WorkDir, name: str, kept: int | None
) -> None:
    whole, file = content(work.store), work.store / FILES[name]
    encoded = file.read_bytes()
    file.unlink()
    if kept is not None:
        file.write_bytes(encoded[:kept])
    refused = run_student(work)
    assert refused.exit_code == 1
    assert "5 of 6 shards are there" in refused.output
    mended = fpd(*command_in(refused.output))
    assert mended.exit_code == 0, mended.output
    assert content(work.store) == whole


def test_damage_that_a_student_meets_is_mended_by_the_command_it_names(work: WorkDir) -> None:
    """Sizes are right, so it is only met when the view is read."""
    whole = content(work.store)
    flip(work.store / FILES["heatmaps"], -3)  # in the index
    refused = run_student(work)
    assert refused.exit_code == 1
    assert "view 1 of sample 1" in refused.output
    assert "(shard 2) cannot be read" in refused.output
    mended = fpd(*command_in(refused.output))
    assert mended.exit_code == 0, mended.output
    assert content(work.store) == whole
    assert run_student(work).exit_code == 0


def test_what_a_cell_meets_is_found_without_reading_everything(work: WorkDir) -> None:
    flip(work.store / FILES["heatmaps"], -3)
    assert fpd("verify-cache", "-w", work.root, "--samples", "0").exit_code == 0
    found = fpd("verify-cache", "-w", work.root)
    assert found.exit_code == 1
    assert "heatmaps, view 1, shard 2" in found.output


def test_a_receipt_that_vouches_for_nonsense_is_found_out(work: WorkDir) -> None:
    """Digests agree: only decoding tells."""
    file, path = work.store / FILES["heatmaps"], work.store / FILES["receipt"]
    flip(file, -3)
    receipt = json.loads(path.read_text())
    receipt["arrays"]["heatmaps"]["blake2b"] = digest(file.read_bytes())
    path.write_bytes(sealed(receipt))
    found = fpd("verify-cache", "-w", work.root, "--deep")
    assert found.exit_code == 1
    assert "cannot be decoded" in found.output


def test_an_unfinished_store_is_finished(work: WorkDir) -> None:
    whole = content(work.store)
    for name in ("0/1", "1/0", "1/1"):
        (work.store / f"heatmaps/receipts/{name}.json").unlink()
    found = fpd("verify-cache", "-w", work.root)
    assert found.exit_code == 1
    assert "3 of 6 shards missing or damaged" in found.output
    assert fpd(*command_in(found.output)).exit_code == 0
    assert content(work.store) == whole


# Damaged metadata


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
@pytest.mark.parametrize("name", ["heatmaps/zarr.json", "peaks/zarr.json", "basis/c/0/0/0"])
def test_a_damaged_description_of_an_array_costs_no_shard(
    work: WorkDir, name: str, damage: str
) -> None:
    whole, before, file = content(work.store), times(work.store), work.store / name
    damaged = {
        "cut": file.read_bytes()[:-30],
        "changed": file.read_bytes().replace(b'"view"', b'"vieu"').replace(b"\x00", b"\x01", 1),
    }
    file.unlink()
    if damage != "gone":
        file.write_bytes(damaged[damage])
    found = fpd("verify-cache", "-w", work.root)
    assert found.exit_code == 1
    assert f"{name}: is damaged" in found.output
    assert fpd(*command_in(found.output)).exit_code == 0
    assert content(work.store) == whole
    touched = {n for n, time in times(work.store).items() if time != before.get(n)}
    assert touched == {name, "zarr.json"}


@pytest.mark.parametrize("command", [["cache-heatmaps"], ["run", "student", "--name", "other"]])
@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_description_is_met_with_the_command_that_mends_it(
    work: WorkDir, command: list[str], text: str
) -> None:
    (work.store / "peaks/zarr.json").write_text(text)
    refused = fpd(*command, "-w", work.root)
    assert refused.exit_code == 1
    assert refused.output.count("Error: ") == 1, refused.output
    assert fpd(*command_in(refused.output)).exit_code == 0
    assert fpd(*command, "-w", work.root).exit_code == 0


def test_a_damaged_manifest_names_overwrite(work: WorkDir) -> None:
    whole = content(work.store)
    (work.store / "zarr.json").write_text("{")
    found = fpd("verify-cache", "-w", work.root, "--deep", "--repair")
    assert found.exit_code == 1
    assert "--overwrite" in found.output
    assert fpd(*command_in(found.output)).exit_code == 0
    assert content(work.store) == whole


def test_a_damaged_store_is_not_mended_into_another_pictures(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries come before repairs."""
    flip(work.store / FILES["peaks"], 99)
    before = content(work.store)
    monkeypatch.setattr("fpd.data.views.cut", lambda *_: np.full((64, 64, 3), 7, np.uint8))
    with pytest.raises(ValueError, match="another picture than the teacher saw"):
        verification.run(work, toy_recipe, CPU, deep=True, repair=True)
    assert content(work.store) == before
