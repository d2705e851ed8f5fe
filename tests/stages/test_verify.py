"""`fpd verify-cache`: damage is found and named, and the command in the message repairs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.files import sha256, write_sealed_json
from fpd.pipeline.store import Shard, StoreReader, StoreWriter, open_storage, read_manifest
from fpd.pipeline.store.coverage import read_receipt, sealed
from fpd.pipeline.store.manifest import stored_layout, write_manifest
from fpd.pipeline.store.schema import ARRAYS, receipt_name, shard_name
from fpd.pipeline.store.writer import digest
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, verify

CPU = torch.device("cpu")

VIEW, SHARD = 1, 2  # the last shard of the toy store: 2 samples and 6 rows of padding
FILES = {name: shard_name(name, VIEW, SHARD) for name in ARRAYS} | {
    "receipt": receipt_name(VIEW, SHARD)
}


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def times(path: Path) -> dict[str, int]:
    return {str(f.relative_to(path)): f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def flip_bit(path: Path, byte: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[byte] ^= 1
    path.write_bytes(damaged)


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.count("Error: ") == 1, result.output
    for part in parts:
        assert part in result.output


def run_command_in(result: Result) -> Result:
    """Run the first command that a message names."""
    command = result.output.split("`fpd ")[1].split("`")[0]
    repaired = fpd(*command.split())
    assert repaired.exit_code == 0, repaired.output
    return repaired


def run_student(work: WorkDir) -> Result:
    return fpd("run", "student", "-w", work.root, "--name", "other", "--set", "student.epochs=1")


# An intact store


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_an_intact_store_is_not_changed(toy_work: Path, deep: list[str]) -> None:
    before = times(toy_work)
    result = fpd("verify-cache", "-w", toy_work, *deep)
    assert result.exit_code == 0, result.output
    assert "2 views of 18 samples in 6 shards" in result.output
    assert "match the receipts" in result.output
    last = result.output.splitlines()[-1]
    assert last == "OK: complete and intact, and every compared view is within the bound"
    assert times(toy_work) == before


def test_views_are_within_the_bound_and_listed_by_error(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    verification = verify.run(WorkDir(toy_work), toy_recipe, CPU, sample_count=1000)
    assert verification.problem is None
    assert verification.compared_views is not None
    errors = [compared.error for compared in verification.compared_views]
    assert {(compared.view, compared.sample) for compared in verification.compared_views} == {
        (view, sample) for view in range(2) for sample in toy_samples.ids
    }
    assert errors == sorted(errors, reverse=True)
    # As measured when the store was written, except for rounding in batches of another size.
    manifest = read_manifest(open_storage(toy_work / "heatmaps.zarr"))
    largest = manifest["encoding_error"]["max_error"]
    assert max(errors) == pytest.approx(largest, abs=1e-3)
    assert 0 < largest < toy_recipe.store.max_error < verification.bound


def test_a_flip_averaged_store_is_compared_with_averaged_heatmaps(
    toy_work: Path, toy_recipe: Recipe, tmp_path: Path
) -> None:
    work = WorkDir(tmp_path)
    shutil.copytree(toy_work / "teacher", work.teacher.path)
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["store.flip_averaged=true", "store.views=1", "store.max_error=0.004"],
    )
    heatmaps.run(work, recipe, CPU)
    assert verify.run(work, recipe, CPU).problem is None


def test_without_a_teacher_the_files_are_checked(work: WorkDir) -> None:
    shutil.rmtree(work.teacher.path)
    result = fpd("verify-cache", "-w", work.root, "--deep")
    assert result.exit_code == 0, result.output
    assert "no view was compared" in result.output
    flip_bit(work.store / FILES["peaks"], 10)
    assert_refused(fpd("verify-cache", "-w", work.root, "--deep"), "--repair")
    repair = fpd("verify-cache", "-w", work.root, "--deep", "--repair")
    assert_refused(repair, "no finished teacher", "1 shard of")


# A store of another run or another teacher


def test_a_store_of_another_run_is_refused(toy_work: Path, tmp_path: Path) -> None:
    result = fpd("verify-cache", "-w", toy_work, "--set", "store.seed=3")
    assert_refused(result, "seed: expected 3, found 0")
    missing = fpd("verify-cache", "-w", tmp_path, "-r", "demo")
    assert_refused(missing, f"is missing: run `fpd cache-heatmaps -w {tmp_path}`")


def test_another_teacher_is_found_by_its_output(work: WorkDir) -> None:
    """With other weights, of which teacher and store state the same digest."""
    weights = load_file(work.teacher.weights)
    save_file({name: 1.5 * values for name, values in weights.items()}, work.teacher.weights)
    weights_sha256 = sha256(work.teacher.weights)
    record = work.teacher.record()
    record["result"]["weights_sha256"] = weights_sha256
    write_sealed_json(work.teacher.record_path, record)
    storage = open_storage(work.store)
    manifest = read_manifest(storage)
    manifest["teacher"]["sha256"] = weights_sha256
    write_manifest(storage, manifest)
    result = fpd("verify-cache", "-w", work.root, "--samples", "10")
    assert_refused(result, "views do not match", "--overwrite")
    run_command_in(result)
    assert fpd("verify-cache", "-w", work.root).exit_code == 0


def rewrite_shard(work: WorkDir, change: Callable[[dict[str, Any]], object]) -> None:
    """Write a shard again with other content, and a receipt that matches it."""
    storage = open_storage(work.store)
    reader = StoreReader(storage, stored_layout(storage))
    receipt = read_receipt(storage, VIEW, SHARD)
    assert receipt is not None
    views = [reader.read(VIEW, index) for index in reader.layout.rows(SHARD)]
    columns = {name: np.stack([view[i] for view in views]) for i, name in enumerate(ARRAYS)}
    change(columns)
    writer = StoreWriter(storage, read_manifest(storage), 2, work.root)
    errors, canaries = receipt["encoding_error"], receipt["canaries"]
    writer.write(Shard(VIEW, SHARD, *columns.values(), errors, canaries))


WRONG: dict[str, Callable[[Any], Any]] = {
    "heatmaps": lambda values: values + 50,
    "steps": lambda values: 100 * values,
    "peaks": lambda values: values + 1,
    "parameters": lambda values: values[::-1],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_content_with_a_matching_receipt_is_found_by_the_teacher(
    work: WorkDir, toy_samples: SampleSet, name: str
) -> None:
    rewrite_shard(work, lambda columns: columns.update({name: WRONG[name](columns[name])}))
    result = fpd("verify-cache", "-w", work.root)
    assert_refused(result, "2 of 36 views do not match")
    for index in (16, 17):
        assert f"view 1 of {toy_samples.ids[index]}: " in result.output


# Damage


@pytest.mark.parametrize("name", ["heatmaps", "receipt"])
def test_a_flipped_bit_is_found_named_and_repaired(
    work: WorkDir, toy_samples: SampleSet, name: str
) -> None:
    undamaged, before = content(work.store), times(work.store)
    flip_bit(work.store / FILES[name], 60)
    result = fpd("verify-cache", "-w", work.root, "--deep")
    assert_refused(
        result,
        f"{name}, view 1, shard 2 ({toy_samples.ids[16]} to {toy_samples.ids[17]})",
        "1 of 6 shards missing or damaged",
    )
    assert "repaired" in run_command_in(result).output
    assert content(work.store) == undamaged
    touched = {name for name, time in times(work.store).items() if time != before[name]}
    assert touched == {*FILES.values(), "zarr.json"}
    assert fpd("verify-cache", "-w", work.root, "--deep").exit_code == 0


@pytest.mark.parametrize(
    ("name", "kept_bytes"), [("peaks", None), ("heatmaps", -1), ("receipt", 0)]
)
def test_a_missing_or_truncated_file_is_repaired_by_the_command_that_a_student_names(
    work: WorkDir, name: str, kept_bytes: int | None
) -> None:
    undamaged, file = content(work.store), work.store / FILES[name]
    encoded = file.read_bytes()
    file.unlink()
    if kept_bytes is not None:
        file.write_bytes(encoded[:kept_bytes])
    result = run_student(work)
    assert_refused(result, "5 of 6 shards")
    run_command_in(result)
    assert content(work.store) == undamaged


def test_damage_that_a_student_meets_is_repaired_by_the_command_it_names(work: WorkDir) -> None:
    """Sizes are right, so the damage is found when the view is read."""
    undamaged = content(work.store)
    flip_bit(work.store / FILES["heatmaps"], -3)  # in the index
    result = run_student(work)
    assert_refused(result, "view 1 of sample 1", "(shard 2) cannot be read")
    run_command_in(result)
    assert content(work.store) == undamaged
    assert run_student(work).exit_code == 0


def test_damage_in_a_compared_view_is_found_without_deep(work: WorkDir) -> None:
    flip_bit(work.store / FILES["heatmaps"], -3)
    assert fpd("verify-cache", "-w", work.root, "--samples", "0").exit_code == 0
    assert_refused(fpd("verify-cache", "-w", work.root), "heatmaps, view 1, shard 2")


def test_a_receipt_that_matches_damaged_content_is_found_by_decoding(work: WorkDir) -> None:
    file, path = work.store / FILES["heatmaps"], work.store / FILES["receipt"]
    flip_bit(file, -3)
    receipt = json.loads(path.read_text())
    receipt["arrays"]["heatmaps"]["blake2b"] = digest(file.read_bytes())
    path.write_bytes(sealed(receipt))
    assert_refused(fpd("verify-cache", "-w", work.root, "--deep"), "cannot be decoded")


def test_an_unfinished_store_is_finished(work: WorkDir) -> None:
    undamaged = content(work.store)
    for name in ("0/1", "1/0", "1/1"):
        (work.store / f"heatmaps/receipts/{name}.json").unlink()
    result = fpd("verify-cache", "-w", work.root)
    assert_refused(result, "3 of 6 shards missing or damaged")
    run_command_in(result)
    assert content(work.store) == undamaged


# Damaged metadata


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("heatmaps/zarr.json", None),
        ("peaks/zarr.json", lambda whole: whole.replace(b'"view"', b'"vieu"')),
        ("basis/c/0/0/0", lambda whole: whole[:-30]),
    ],
)
def test_a_damaged_description_of_an_array_is_repaired_without_making_shards(
    work: WorkDir, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    undamaged, before, file = content(work.store), times(work.store), work.store / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    result = fpd("verify-cache", "-w", work.root)
    assert_refused(result, f"{name}: is damaged")
    run_command_in(result)
    assert content(work.store) == undamaged
    touched = {name for name, time in times(work.store).items() if time != before.get(name)}
    assert touched == {name, "zarr.json"}


@pytest.mark.parametrize(
    ("command", "text"),
    [(["cache-heatmaps"], "{"), (["run", "student", "--name", "other"], "{}")],
)
def test_other_commands_name_the_command_that_repairs_a_description(
    work: WorkDir, command: list[str], text: str
) -> None:
    (work.store / "peaks/zarr.json").write_text(text)
    result = fpd(*command, "-w", work.root)
    assert_refused(result, "fpd verify-cache")
    run_command_in(result)
    assert fpd(*command, "-w", work.root).exit_code == 0


@pytest.mark.parametrize("others", [(), ("heatmaps", "steps", "peaks", "parameters", "basis")])
def test_a_lost_manifest_is_restored_with_the_teacher(
    work: WorkDir, others: tuple[str, ...]
) -> None:
    """Also if the metadata of all arrays is lost with it."""
    undamaged = content(work.store)
    for name in ("zarr.json", *(f"{other}/zarr.json" for other in others)):
        (work.store / name).unlink()
    for command in (["cache-heatmaps"], ["cache-heatmaps", "--overwrite"], ["inspect-cache"]):
        assert_refused(fpd(*command, "-w", work.root), f"verify-cache -w {work.root} --repair`")
    assert "repaired" in run_command_in(run_student(work)).output
    assert content(work.store) == undamaged


def test_a_manifest_is_restored_after_samples_were_added(work: WorkDir, toy_recipe: Recipe) -> None:
    more = ["data.synthetic.train=40", "store.views=3"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), more)
    heatmaps.run(work, recipe, CPU)
    undamaged = content(work.store)
    manifest = read_manifest(open_storage(work.store))
    assert len(manifest["datasets"]) == 2
    (work.store / "zarr.json").unlink()
    options = [option for change in more for option in ("--set", change)]
    result = fpd("verify-cache", "-w", work.root, "--repair", *options)
    assert result.exit_code == 0, result.output
    assert content(work.store) == undamaged


def test_no_manifest_is_made_for_shards_of_another_teacher(work: WorkDir) -> None:
    undamaged = content(work.store)
    weights = load_file(work.teacher.weights)
    save_file({name: 1.5 * values for name, values in weights.items()}, work.teacher.weights)
    record = work.teacher.record()
    record["result"]["weights_sha256"] = sha256(work.teacher.weights)
    write_sealed_json(work.teacher.record_path, record)
    (work.store / "zarr.json").unlink()
    result = fpd("verify-cache", "-w", work.root, "--repair", "--samples", "0")
    assert_refused(result, "views do not match the teacher's output", "move it away")
    del undamaged["zarr.json"]
    assert content(work.store) == undamaged


def test_no_manifest_is_made_without_a_teacher_or_for_other_settings(work: WorkDir) -> None:
    (work.store / "zarr.json").unlink()
    repair = ["verify-cache", "-w", work.root, "--repair"]
    assert_refused(fpd(*repair, "--set", "store.max_error=0.01"), "is of other settings")
    assert_refused(fpd(*repair, "--set", "store.shard_samples=9"), "none of its views can be read")
    assert_refused(fpd(*repair, "--set", "store.seed=3"), "move it away")
    shutil.rmtree(work.teacher.path)
    assert_refused(fpd(*repair), "no finished teacher to compare its shards")
    assert not (work.store / "zarr.json").exists()


def test_parameters_of_another_augmentation_are_repaired_by_the_command_that_a_student_names(
    work: WorkDir,
) -> None:
    """With a receipt that matches them."""
    undamaged = content(work.store)
    values = WRONG["parameters"]
    rewrite_shard(work, lambda columns: columns.update(parameters=values(columns["parameters"])))
    result = run_student(work)
    assert_refused(result, "was cached with parameters", f"verify-cache -w {work.root} --deep")
    assert "has other parameters for sample 16" in run_command_in(result).output
    assert content(work.store) == undamaged


def test_canaries_are_checked_before_a_repair(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of other pixels is not repaired with heatmaps of these."""
    flip_bit(work.store / FILES["peaks"], 10)
    before = content(work.store)
    monkeypatch.setattr("fpd.data.views.crop_image", lambda *_: np.full((64, 64, 3), 7, np.uint8))
    with pytest.raises(ValueError, match="another picture than"):
        verify.run(work, toy_recipe, CPU, deep=True, repair=True)
    assert content(work.store) == before
