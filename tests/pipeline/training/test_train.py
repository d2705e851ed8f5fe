"""What a trained network's folder holds, and which runs it refuses to continue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import device

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.runtime.launch import LAUNCHED
from fpd.pipeline.training import loop
from fpd.pipeline.workdir import WorkDir
from fpd.stages import teacher

CPU = device("cpu")


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def train(root: Path, recipe: Recipe) -> ModelDir:
    """Train the teacher of a work directory."""
    work = WorkDir(root)
    work.create()
    teacher.run(work, recipe, CPU)
    return work.teacher


def rows(folder: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


# The record


def test_the_record_describes_the_run(toy_work: Path, toy_samples: SampleSet) -> None:
    folder = WorkDir(toy_work).teacher
    record = folder.record()
    files = ["metrics.jsonl", "record.json", "state.pt", "weights.safetensors"]
    assert sorted(path.name for path in folder.path.iterdir()) == files
    result, metrics = record["result"], rows(folder)
    assert result["weights_sha256"] == sha256(folder.weights)
    assert result["epochs"] == 2
    assert result["validation_pck"] == max(row["validation_pck"] for row in metrics)
    assert metrics[result["best_epoch"] - 1]["validation_pck"] == result["validation_pck"]
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in metrics))
    assert record["identity"]["inputs"] == {"dataset": toy_samples.fingerprint()}
    assert record["identity"]["settings"]["training"]["epochs"] == 2
    assert (record["device"], record["processes"]) == ("cpu", 1)


def test_a_finished_run_is_left_as_it_is(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with other settings, as long as they do not affect the weights."""
    record = work.teacher.record()
    before = {path: path.stat().st_mtime_ns for path in work.teacher.path.iterdir()}

    def never(_: loop.Run) -> None:
        raise AssertionError("the run is finished")

    monkeypatch.setattr(loop.Run, "train", never)
    assert teacher.run(work, toy_recipe, CPU) == record
    others = changed(toy_recipe, "student.alpha=0.9", "store.views=7", "loader.workers=2")
    assert teacher.run(work, others, CPU) == record
    assert {path: path.stat().st_mtime_ns for path in work.teacher.path.iterdir()} == before


# Settings and weights


def test_the_same_settings_give_the_same_bytes(
    toy_work: Path, tmp_path: Path, toy_recipe: Recipe
) -> None:
    """With a loader process, and with the precision that "auto" chooses on a CPU."""
    recipe = changed(toy_recipe, "loader.workers=1", "teacher.precision=float32")
    again, before = train(tmp_path, recipe), WorkDir(toy_work).teacher
    assert again.weights.read_bytes() == before.weights.read_bytes()
    clocked = {"seconds", "images_per_s", "data_wait_fraction", "peak_memory_mb"}
    for row, expected in zip(rows(again), rows(before), strict=True):
        assert row.keys() == expected.keys()
        assert all(row[key] == expected[key] for key in row.keys() - clocked)


def test_another_seed_gives_another_network(
    toy_work: Path, tmp_path: Path, toy_recipe: Recipe
) -> None:
    other = train(tmp_path, changed(toy_recipe, "teacher.seed=1"))
    assert other.weights.read_bytes() != WorkDir(toy_work).teacher.weights.read_bytes()


def test_the_papers_settings_train(tmp_path: Path, tiny_recipe: Recipe) -> None:
    recipe = changed(
        tiny_recipe,
        "teacher.optimizer=rmsprop",
        "teacher.lr_schedule=constant",
        "teacher.batch_size=4",
        "teacher.learning_rate=2.5e-4",
        "targets.area_normalized=true",
    )
    folder = train(tmp_path, recipe)
    assert [row["learning_rate"] for row in rows(folder)] == [2.5e-4, 2.5e-4]


def test_a_loss_with_a_free_offset_records_the_mass_to_shift_to(
    tmp_path: Path, tiny_recipe: Recipe
) -> None:
    short = ("teacher.epochs=1", "teacher.loss=kl")
    free = train(tmp_path / "kl", changed(tiny_recipe, *short)).record()["log_mass"]
    assert free > 0
    assert train(tmp_path / "mse", changed(tiny_recipe, short[0])).record()["log_mass"] is None


def test_too_small_batches_are_refused_before_training(tmp_path: Path, toy_recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"teacher\.batch_size"):
        train(tmp_path, changed(toy_recipe, "teacher.batch_size=1"))
    assert not (tmp_path / "teacher").exists()


# Other runs in the same folder


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_with_other_settings_or_inputs_is_refused(
    work: WorkDir, toy_recipe: Recipe, finished: bool
) -> None:
    if not finished:
        work.teacher.record_path.unlink()
    before = work.teacher.weights.read_bytes()
    differences = {
        "teacher.learning_rate=0.5": "teacher.learning_rate: expected 0.5, found 0.003",
        "teacher.model.channels=16": "teacher.model.channels: expected 16, found 8",
        "augmentation.rotation_deg=5": " augmentation.rotation_deg: expected 5.0",
        "targets.sigma_px=2": " targets.sigma_px: expected 2.0, found 1.0",
        "data.synthetic.seed=4": "inputs.dataset.images: expected ",
        "data.validation=0.5": "inputs.dataset.samples: expected 11, found 18",
    }
    with pytest.raises(ValueError, match="other settings or inputs") as caught:
        teacher.run(work, changed(toy_recipe, *differences), CPU)
    for difference in differences.values():
        assert difference in str(caught.value)
    assert f"remove {work.teacher.path} to start over" in str(caught.value)
    assert work.teacher.weights.read_bytes() == before


def test_an_unfinished_run_is_finished(work: WorkDir, toy_recipe: Recipe) -> None:
    """Killed between the last checkpoint and the record: the record is written."""
    record = work.teacher.record()
    work.teacher.record_path.unlink()
    assert teacher.run(work, toy_recipe, CPU) == record


# Under torchrun


@pytest.mark.parametrize("command", [["evaluate"], ["cache-heatmaps"], ["run", "all"], ["demo"]])
def test_other_commands_refuse_to_run_under_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    for name in LAUNCHED:
        monkeypatch.setenv(name, "1")
    result = CliRunner().invoke(main, [*command, "-w", str(tmp_path / "work")])
    assert result.exit_code == 1
    assert "torchrun" in result.output
    assert not (tmp_path / "work").exists()
