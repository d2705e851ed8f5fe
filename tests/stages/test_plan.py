"""`fpd cache-heatmaps --plan` and `--budget`: size and time of a store before it is written."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from fpd.cli import main
from fpd.commands.summaries.plan import describe, explain_choice
from fpd.data.samples import SampleSet
from fpd.pipeline.caching import plan as plans
from fpd.pipeline.caching import space
from fpd.pipeline.caching.pilot import TIMED_VIEWS, Pilot, Sizes, pilot_keys, run_pilot
from fpd.pipeline.caching.plan import Plan, break_even_epochs
from fpd.pipeline.caching.space import MissingParts, StoreStatus, free_bytes
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.runtime.files import read_json
from fpd.pipeline.store import Coverage, Layout, open_storage, stored_layout
from fpd.pipeline.store.schema import receipt_name
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps
from fpd.stages import plan as plan_stage

CPU = torch.device("cpu")

PILOT = Pilot(
    views=48,
    sizes=Sizes(view=1000.0, padding=20.0, receipt=500.0),
    spread_bytes=100.0,
    encoding_error={"max_error": 0.1, "mean_displacement_px": 0.02},
    read_s=0.04,
    teacher_s=0.02,
    encode_s=0.005,
    compress_s=0.01,
    workers=2,
    on_cpu=False,
)

# 10 samples in shards of 4: two full ones, and one of 2 with 2 rows of padding.
LAYOUT = Layout(views=1, segments=(10,), joints=14, heatmap_px=16, shard_samples=4)
ONE_VIEW = 10 * 1000 + 2 * 20 + 3 * 500
NOTHING = StoreStatus(Coverage(LAYOUT, LAYOUT.tasks(), []), bytes=0)
PLAN = Plan(PILOT, NOTHING, recipe_views=3, epochs=6, free_bytes=4 * ONE_VIEW, metadata_bytes=7000)


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


@pytest.mark.parametrize(
    ("workers", "changes", "seconds"),
    [
        (2, {}, 0.025),  # teacher and encoder; reading (0.02) and writing (0.01) overlap with them
        (1, {}, 0.04),  # one process reads more slowly than the teacher runs
        (0, {}, 0.065),  # reading alternates with the teacher's passes
        (0, {"compress_s": 0.07}, 0.07),
        (0, {"on_cpu": True}, 0.075),
    ],
)
def test_the_slowest_of_the_overlapping_steps_is_the_time_of_a_view(
    workers: int, changes: dict[str, Any], seconds: float
) -> None:
    assert replace(PILOT, workers=workers, **changes).cache_s == pytest.approx(seconds)


def test_the_cache_pays_once_online_passes_have_taken_as_long() -> None:
    # Four views of 0.025 s are 0.1 s a sample: five epochs of 0.02 s.
    assert break_even_epochs(4, cache_s=0.025, teacher_s=0.02) == pytest.approx(5)
    assert PLAN.row(4).break_even_epochs == pytest.approx(5)
    assert PLAN.break_even(PLAN.row(4)) == (1, 5)
    assert PLAN.break_even(PLAN.row(5)) == (2, 1)  # after 6.25 epochs, 6 of them student 1's
    assert replace(PLAN, epochs=2).break_even(PLAN.row(4)) == (3, 1)


def test_rounding_does_not_put_the_break_even_off_by_an_epoch() -> None:
    epochs = break_even_epochs(3, cache_s=0.1, teacher_s=0.3)
    assert epochs > 1  # as floats have it
    assert PLAN.break_even(replace(PLAN.row(3), break_even_epochs=epochs)) == (1, 1)


def test_a_row_counts_views_padding_receipts_and_metadata() -> None:
    row = PLAN.row(2)
    assert row.bytes == row.added_bytes == 7000 + 2 * ONE_VIEW
    assert row.seconds == pytest.approx(2 * 10 * 0.025)


def test_existing_shards_are_not_counted_again() -> None:
    layout = replace(LAYOUT, views=2)
    status = StoreStatus(Coverage(layout, [(1, 2)], []), bytes=12_345)
    plan = replace(PLAN, status=status, metadata_bytes=0)
    assert plan.row(1).added_bytes == 0
    assert plan.row(2).added_bytes == 2 * 1000 + 2 * 20 + 500  # the last shard, of two samples
    assert plan.row(3).added_bytes == plan.row(2).added_bytes + ONE_VIEW
    assert plan.row(3).bytes == 12_345 + plan.row(3).added_bytes
    assert plan.row(3).seconds == pytest.approx(12 * 0.025)


def test_views_of_other_runs_are_not_counted() -> None:
    status = StoreStatus(Coverage(replace(LAYOUT, views=2), [(0, 0), (1, 2)], []), bytes=1)
    assert status.missing(4, only_views={1, 3}) == MissingParts(samples=2 + 10, shards=1 + 3)


def test_a_budget_allows_as_many_views_as_fit() -> None:
    assert PLAN.choose(7000 + 3 * ONE_VIEW) == 3
    assert PLAN.choose(7000 + 3 * ONE_VIEW - 1) == 2


def test_no_more_views_are_chosen_than_a_student_has_epochs() -> None:
    assert PLAN.choose(10**12) == 6
    assert "a student of 6 epochs sees no more" in explain_choice(PLAN, 10**12, 6)


def test_no_fewer_views_are_chosen_than_exist() -> None:
    layout = replace(LAYOUT, views=3)
    plan = replace(PLAN, status=StoreStatus(Coverage(layout, [(2, 1)], []), bytes=50_000))
    assert plan.choose(5) == 2
    assert "the store has these already" in explain_choice(plan, 5, 2)


def test_a_budget_below_one_view_is_refused_with_the_size_of_one() -> None:
    with pytest.raises(ValueError, match=r"all 10 samples, 18\.5 kB; got 9\.0 kB: raise --budget"):
        PLAN.choose(9000)


def test_the_table_doubles_up_to_the_epochs_and_marks_its_rows() -> None:
    rows = {
        line.split()[0]: line
        for line in describe(PLAN, 5).splitlines()
        if re.match(r"[0-9]+ +[0-9.]+ kB", line)
    }
    assert list(rows) == ["1", "2", "3", "4", "5", "6"]
    assert rows["3"].endswith("recipe")
    assert rows["4"].endswith("more than is free")  # the metadata takes some too
    assert rows["5"].endswith("chosen, more than is free")
    assert "epoch 5 of student 1" in rows["4"]
    assert "epoch 1 of student 2" in rows["5"]
    assert "18.5 kB" in rows["1"]


def test_the_plan_has_what_the_pilot_measured() -> None:
    text = describe(replace(PLAN, free_bytes=None))
    for fact in (
        *("pilot of 48 views: 1,000 bytes a view (standard deviation 100)", "10 % of a peak"),
        *("40 views/s", "40 to read in each of 2 loader processes", "20 in the teacher"),
        *("5 to encode", "10 to compress", "free space: unknown", "10 samples"),
        "the recipe's 3 views: with student 1",
    ):
        assert fact in text


@pytest.mark.parametrize(("samples", "batch"), [(5, 8), (1000, 32), (1000, 1), (100, 512)])
def test_the_pilot_is_spread_over_the_samples(samples: int, batch: int) -> None:
    batches = pilot_keys(samples, batch)
    assert {len(keys) for keys in batches} == {batch}
    assert TIMED_VIEWS <= (len(batches) - 1) * batch < TIMED_VIEWS + batch
    keys = [key for keys in batches for key in keys]
    assert len(set(keys)) == len(keys)
    for keys in batches:
        indices = [index for index, _ in keys]
        assert all(0 <= index < samples for index in indices)
        if 8 <= batch <= samples:
            assert max(indices) - min(indices) > 0.9 * samples


class Counting(nn.Module):
    """A teacher that counts the views it is run on."""

    def __init__(self) -> None:
        super().__init__()
        self.views = 0

    def forward(self, inputs: Tensor) -> list[Tensor]:
        self.views += len(inputs)
        return [torch.rand(len(inputs), 14, 16, 16)]


@pytest.mark.parametrize(("averaged", "passes"), [("false", 1), ("true", 2)])
def test_the_pilot_runs_the_teacher_as_the_cache_will(
    toy_recipe: Recipe, toy_samples: SampleSet, averaged: str, passes: int
) -> None:
    recipe = changed(toy_recipe, f"store.flip_averaged={averaged}")
    teacher = Counting()
    mirror = toy_samples.skeleton.flip_indices if recipe.flip_averaged else None
    predictor, layout = make_predictor(teacher, CPU, mirror), replace(LAYOUT, shard_samples=8)
    pilot = run_pilot(predictor, recipe, toy_samples, layout, CPU)
    assert pilot.views == 48
    assert teacher.views == passes * (48 + 8)  # and a batch of 8 to warm up
    assert pilot.sizes.view > 1000  # noise is hard to compress
    assert min(pilot.read_s, pilot.teacher_s, pilot.encode_s, pilot.compress_s) > 0


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), changes)


def test_the_estimate_is_near_the_finished_store(
    toy_work: Path, work: WorkDir, toy_recipe: Recipe
) -> None:
    plan = plan_stage.run(without_store(work), toy_recipe, CPU)
    store = WorkDir(toy_work).store
    real = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert plan.row(2).bytes == pytest.approx(real, rel=0.05)


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


@pytest.mark.parametrize("overwrite", [False, True])
def test_too_little_free_space_is_refused_before_anything_is_written(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    recipe = toy_recipe if overwrite else changed(toy_recipe, "store.views=50")
    before = contents(work.store)
    size = sum(len(content or b"") for content in before.values())
    monkeypatch.setattr(space, "free_bytes", disk_with(-size if overwrite else 10_000))
    with pytest.raises(
        ValueError, match=r"expected [0-9.]+ kB of free space for .*, found"
    ) as error:
        heatmaps.run(work, recipe, CPU, overwrite=overwrite)
    for remedy in ("--plan", "--budget", "store.max_error", "--store"):
        assert remedy in str(error.value)
    assert contents(work.store) == before


def test_a_new_store_that_does_not_fit_is_refused_after_one_batch(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(10_000))
    with pytest.raises(ValueError, match="of free space"):
        heatmaps.run(work, toy_recipe, CPU)
    assert not work.store.exists()


@pytest.mark.parametrize("exists", [True, False])
def test_what_fits_by_its_measured_size_is_written(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """Though the bound that is computed without running the teacher is larger than the disk."""
    if exists:
        open_storage(work.store).delete(receipt_name(1, 1))
    else:
        without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(6000 if exists else 30_000))
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == (1 if exists else 6)


def test_with_ample_space_the_teacher_is_not_run_first(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(10**9))
    monkeypatch.setattr(space, "encode_all", None)
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == 6


def test_free_space_is_that_of_the_nearest_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []

    def usage(path: Path) -> SimpleNamespace:
        paths.append(path)
        return SimpleNamespace(free=123)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert free_bytes(open_storage(tmp_path / "not" / "yet" / "heatmaps.zarr")) == 123
    assert paths == [tmp_path]


def test_free_space_of_remote_storage_is_unknown() -> None:
    assert free_bytes(open_storage("memory://somewhere/heatmaps.zarr")) is None
