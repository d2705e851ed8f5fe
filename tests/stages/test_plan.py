"""`fpd cache-heatmaps --plan` and `--budget`: size and time of a store before it is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.caching import plan as plans
from fpd.pipeline.caching.space import MissingParts
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.files import read_json
from fpd.pipeline.store import open_storage, stored_layout
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps
from fpd.stages import plan as plan_stage

CPU = torch.device("cpu")


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def without_store(work: WorkDir) -> WorkDir:
    shutil.rmtree(work.store)
    work.store.with_name(".heatmaps.zarr.lock").unlink(missing_ok=True)
    return work


def disk_with(free: int | None) -> Any:
    return lambda _: free


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), changes)


@pytest.mark.parametrize(("store", "budget"), [(True, ()), (False, ("--budget", "1GB"))])
def test_a_plan_changes_nothing(work: WorkDir, store: bool, budget: tuple[str, ...]) -> None:
    if not store:
        without_store(work)
    before = contents(work.root)
    result = fpd("cache-heatmaps", "-w", work.root, "--plan", *budget)
    assert result.exit_code == 0, result.output
    assert "pilot of 48 views" in result.output
    assert ("chosen" in result.output) == bool(budget)
    assert contents(work.root) == before


def test_a_plan_without_a_teacher_names_the_command_and_makes_no_folder(tmp_path: Path) -> None:
    result = fpd("cache-heatmaps", "-r", "demo", "-w", tmp_path / "new", "--plan")
    assert result.exit_code == 1
    assert "has no finished teacher: run `fpd run teacher" in result.output
    assert not (tmp_path / "new").exists()


def test_a_plan_for_a_store_of_another_run_is_refused_unless_overwritten(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    other = changed(toy_recipe, "store.seed=5")
    with pytest.raises(ValueError, match=r"does not fit this run: seed"):
        plan_stage.run(work, other, CPU)
    plan = plan_stage.run(work, other, CPU, overwrite=True)
    assert plan.status.missing(1).samples == 18
    assert plan.status.freed_bytes > 0


def test_a_plan_for_more_samples_counts_only_those_added(
    work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(heatmaps, "load", lambda *_: toy_samples.take(range(10)))
    heatmaps.run(work, toy_recipe, CPU)
    plan = plan_stage.run(work, toy_recipe, CPU)
    assert plan.status.layout.segments == (10, 8)
    assert plan.status.missing(2) == MissingParts(samples=2 * 8, shards=2)


def test_students_use_the_views_that_a_budget_chose(work: WorkDir, toy_recipe: Recipe) -> None:
    plan = plan_stage.run(without_store(work), toy_recipe, CPU)
    budget = (plan.row(1).bytes + plan.row(2).bytes) // 2
    result = fpd("cache-heatmaps", "-w", work.root, "--budget", str(budget))
    assert result.exit_code == 0, result.output
    assert "1 view in" in result.output
    assert "recipe.json now has store.views = 1" in result.output
    assert read_json(work.kept_recipe)["store"] == {
        **toy_recipe.store.model_dump(mode="json"),
        "views": 1,
    }
    assert stored_layout(open_storage(work.store)).views == 1
    trained = fpd("run", "student", "-w", work.root, "--set", "student.epochs=1")
    assert trained.exit_code == 0, trained.output
    assert work.student("student").record()["identity"]["inputs"]["store"]["views"] == 1


@pytest.mark.parametrize("budget", ["1 kB", "lots"])
def test_a_budget_that_is_refused_changes_nothing(work: WorkDir, budget: str) -> None:
    before = contents(without_store(work).root)
    result = fpd("cache-heatmaps", "-w", work.root, "--budget", budget)
    assert result.exit_code == 1
    assert result.output.count("Error: expected a ") == 1
    assert contents(work.root) == before


def test_a_budget_beyond_the_free_space_changes_nothing(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(without_store(work).root)
    monkeypatch.setattr(plans, "free_bytes", disk_with(5000))
    result = fpd("cache-heatmaps", "-w", work.root, "--budget", "1 GB")
    assert result.exit_code == 1
    assert "of free space" in result.output
    assert contents(work.root) == before
