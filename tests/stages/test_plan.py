"""`fpd cache-heatmaps --plan` and `--budget`: what a store will take, before it is written."""

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
from fpd.commands.summaries.plan import describe
from fpd.data.samples import SampleSet
from fpd.pipeline.caching import plan as plans
from fpd.pipeline.caching.pilot import TIMED_VIEWS, Pilot, Sizes, pilot_keys, run_pilot
from fpd.pipeline.caching.plan import Need, Plan, StoreStatus, break_even_epochs, free_bytes
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.runtime.files import read_json
from fpd.pipeline.store import Coverage, Layout, files_at, stored_layout
from fpd.pipeline.store.schema import receipt_name
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps
from fpd.stages import plan as planning

CPU = torch.device("cpu")

PILOT = Pilot(
    views=48,
    sizes=Sizes(view=1000.0, blank=20.0, receipt=500.0),
    spread_bytes=100.0,
    measured={"max_error": 0.1, "mean_displacement_px": 0.02},
    read_s=0.04,
    teacher_s=0.02,
    encode_s=0.005,
    compress_s=0.01,
    workers=2,
    on_cpu=False,
)

# 10 people in shards of 4: two whole ones, and one of 2 with 2 rows of padding.
LAYOUT = Layout(views=1, segments=(10,), joints=14, heatmap_px=16, shard_samples=4)
ONE_VIEW = 10 * 1000 + 2 * 20 + 3 * 500
NOTHING = StoreStatus(Coverage(LAYOUT, LAYOUT.tasks(), []), bytes=0)
PLAN = Plan(PILOT, NOTHING, recipe_views=3, epochs=6, free_bytes=4 * ONE_VIEW, metadata_bytes=7000)


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their bytes, folders with none."""
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
        (2, {}, 0.025),  # the teacher and the encoder; 0.02 of reading and 0.01 of writing beside
        (1, {}, 0.04),  # one process cannot read as fast as the teacher answers
        (0, {}, 0.065),  # the reading is done between the passes
        (2, {"compress_s": 0.07}, 0.07),
        (0, {"compress_s": 0.07}, 0.07),
        (2, {"on_cpu": True}, 0.035),
        (0, {"on_cpu": True}, 0.075),
    ],
)
def test_the_slowest_of_what_runs_side_by_side_is_the_time_of_a_view(
    workers: int, changes: dict[str, Any], seconds: float
) -> None:
    assert replace(PILOT, workers=workers, **changes).cache_s == pytest.approx(seconds)


def test_the_cache_pays_once_online_passes_have_taken_as_long() -> None:
    # Four views of 0.025 s are 0.1 s a person: five epochs of 0.02 s.
    assert break_even_epochs(4, cache_s=0.025, teacher_s=0.02) == pytest.approx(5)
    assert PLAN.row(4).paid_epochs == pytest.approx(5)
    assert PLAN.paid_at(PLAN.row(4)) == (1, 5)
    assert PLAN.paid_at(PLAN.row(5)) == (2, 1)  # 6.25 epochs: in the seventh, students have 6
    assert replace(PLAN, epochs=2).paid_at(PLAN.row(4)) == (3, 1)


def test_rounding_does_not_put_the_break_even_off_by_an_epoch() -> None:
    epochs = break_even_epochs(3, cache_s=0.1, teacher_s=0.3)
    assert epochs > 1  # as floats have it
    assert PLAN.paid_at(replace(PLAN.row(3), paid_epochs=epochs)) == (1, 1)


def test_a_row_counts_views_padding_receipts_and_metadata() -> None:
    row = PLAN.row(2)
    assert row.bytes == row.added_bytes == 7000 + 2 * ONE_VIEW
    assert row.seconds == pytest.approx(2 * 10 * 0.025)


def test_what_is_there_is_not_counted_again() -> None:
    layout = replace(LAYOUT, views=2)
    stock = StoreStatus(Coverage(layout, [(1, 2)], []), bytes=12_345)
    plan = replace(PLAN, stock=stock, metadata_bytes=0)
    assert plan.row(1).added_bytes == 0
    assert plan.row(2).added_bytes == 2 * 1000 + 2 * 20 + 500  # the last shard of two people
    assert plan.row(3).added_bytes == plan.row(2).added_bytes + ONE_VIEW
    assert plan.row(3).bytes == 12_345 + plan.row(3).added_bytes
    assert plan.row(3).seconds == pytest.approx(12 * 0.025)


def test_views_left_to_somebody_else_are_not_counted() -> None:
    stock = StoreStatus(Coverage(replace(LAYOUT, views=2), [(0, 0), (1, 2)], []), bytes=1)
    assert stock.need(4, only_views={1, 3}) == Need(samples=2 + 10, shards=1 + 3)


def test_a_budget_buys_as_many_views_as_fit() -> None:
    assert PLAN.choose(7000 + 3 * ONE_VIEW) == 3
    assert PLAN.choose(7000 + 3 * ONE_VIEW - 1) == 2


def test_no_more_views_are_chosen_than_a_student_has_epochs() -> None:
    assert PLAN.choose(10**12) == 6
    assert "a student of 6 epochs sees no more" in planning.explain_choice(PLAN, 10**12, 6)


def test_no_fewer_views_are_chosen_than_are_there() -> None:
    layout = replace(LAYOUT, views=3)
    there = replace(PLAN, stock=StoreStatus(Coverage(layout, [(2, 1)], []), bytes=50_000))
    assert there.choose(5) == 2
    assert "no more than are there already" in planning.explain_choice(there, 5, 2)


def test_a_budget_below_one_view_is_refused_with_what_it_takes() -> None:
    with pytest.raises(ValueError, match=r"all 10 people, 18\.5 kB; got 9\.0 kB: raise --budget"):
        PLAN.choose(9000)


def test_the_table_doubles_up_to_the_epochs_and_marks_its_rows() -> None:
    rows = {
        line.split()[0]: line
        for line in describe(PLAN, chosen=5).splitlines()
        if re.match(r"[0-9]+ +[0-9.]+ kB", line)
    }
    assert list(rows) == ["1", "2", "3", "4", "5", "6"]
    assert rows["3"].endswith("recipe")
    assert rows["4"].endswith("more than is free")  # the metadata takes some too
    assert rows["5"].endswith("chosen, more than is free")
    assert "epoch 5 of student 1" in rows["4"]
    assert "epoch 1 of student 2" in rows["5"]
    assert "18.5 kB" in rows["1"]


def test_the_plan_says_what_the_pilot_measured() -> None:
    text = describe(replace(PLAN, free_bytes=None))
    for fact in (
        *("pilot of 48 views: 1,000 bytes a view (standard deviation 100)", "10 % of a peak"),
        *("40 views/s", "40 ms to read in each of 2 processes", "20 ms of the teacher"),
        *("5 ms to encode", "10 ms to compress", "free space: unknown", "10 people"),
        "the recipe's 3 views: after 1 student",
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
    """A teacher that counts the views it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.views = 0

    def forward(self, inputs: Tensor) -> list[Tensor]:
        self.views += len(inputs)
        return [torch.rand(len(inputs), 14, 16, 16)]


@pytest.mark.parametrize(("averaged", "passes"), [("false", 1), ("true", 2)])
def test_the_pilot_asks_as_the_cache_will(
    toy_recipe: Recipe, toy_samples: SampleSet, averaged: str, passes: int
) -> None:
    recipe = changed(toy_recipe, f"store.flip_averaged={averaged}")
    teacher = Counting()
    mirror = toy_samples.skeleton.flip_indices if recipe.flip_averaged else None
    predictor, layout = make_predictor(teacher, CPU, mirror), replace(LAYOUT, shard_samples=8)
    pilot = run_pilot(predictor, recipe, toy_samples, layout, CPU)
    assert pilot.views == 48
    assert teacher.views == passes * (48 + 8)  # a batch of 8 to warm up
    assert pilot.sizes.view > 1000  # noise is hard to compress
    assert min(pilot.read_s, pilot.teacher_s, pilot.encode_s, pilot.compress_s) > 0


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), changes)


def test_the_estimate_is_near_the_finished_store(
    toy_work: Path, work: WorkDir, toy_recipe: Recipe
) -> None:
    plan = planning.run(without_store(work), toy_recipe, CPU)
    store = WorkDir(toy_work).store
    real = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert plan.row(2).bytes == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("budget", [(), ("--budget", "1GB")])
@pytest.mark.parametrize("store", [True, False])
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
    result = fpd("cache-heatmaps", "-w", tmp_path / "new", "--plan")
    assert result.exit_code == 1
    assert "has no finished teacher: run `fpd run teacher" in result.output
    assert not (tmp_path / "new").exists()


def test_a_plan_for_a_store_of_something_else_is_refused_unless_it_is_made_anew(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    other = changed(toy_recipe, "store.seed=5")
    with pytest.raises(ValueError, match=r"does not fit this run: seed"):
        planning.run(work, other, CPU)
    plan = planning.run(work, other, CPU, overwrite=True)
    assert plan.stock.need(1).samples == 18
    assert plan.stock.freed_bytes > 0


def test_a_plan_for_more_people_counts_only_those_added(
    work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(heatmaps, "load", lambda *_: toy_samples.take(range(10)))
    heatmaps.run(work, toy_recipe, CPU)
    plan = planning.run(work, toy_recipe, CPU)
    assert plan.stock.layout.segments == (10, 8)
    assert plan.stock.need(2) == Need(samples=2 * 8, shards=2)


def test_students_take_the_views_that_a_budget_chose(work: WorkDir, toy_recipe: Recipe) -> None:
    plan = planning.run(without_store(work), toy_recipe, CPU)
    budget = (plan.row(1).bytes + plan.row(2).bytes) // 2
    result = fpd("cache-heatmaps", "-w", work.root, "--budget", str(budget))
    assert result.exit_code == 0, result.output
    assert "1 view in" in result.output
    assert "recipe.json now has store.views = 1" in result.output
    assert read_json(work.kept_recipe)["store"] == {
        **toy_recipe.store.model_dump(mode="json"),
        "views": 1,
    }
    assert stored_layout(files_at(work.store)).views == 1
    trained = fpd("run", "student", "-w", work.root)
    assert trained.exit_code == 0, trained.output
    assert work.student("student").record()["identity"]["inputs"]["store"]["views"] == 1


@pytest.mark.parametrize("budget", ["1 kB", "lots"])
def test_a_budget_that_cannot_be_kept_changes_nothing(work: WorkDir, budget: str) -> None:
    before = contents(without_store(work).root)
    result = fpd("cache-heatmaps", "-w", work.root, "--budget", budget)
    assert result.exit_code == 1
    assert result.output.count("Error: expected a ") == 1
    assert contents(work.root) == before


def test_a_budget_beyond_the_free_space_is_refused_and_not_kept(
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
    monkeypatch.setattr(plans, "free_bytes", disk_with(-size if overwrite else 10_000))
    with pytest.raises(
        ValueError, match=r"expected [0-9.]+ kB of free space for .*, found"
    ) as error:
        heatmaps.run(work, recipe, CPU, overwrite=overwrite)
    for way in ("--plan", "--budget", "store.max_error", "--store"):
        assert way in str(error.value)
    assert contents(work.store) == before


def test_a_new_store_that_does_not_fit_is_refused_after_one_batch(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(plans, "free_bytes", disk_with(10_000))
    with pytest.raises(ValueError, match="of free space"):
        heatmaps.run(work, toy_recipe, CPU)
    assert not work.store.exists()


@pytest.mark.parametrize("there", [True, False])
def test_what_fits_by_its_measured_size_is_written(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Though the bound that asks nobody would not let it pass."""
    if there:
        files_at(work.store).delete(receipt_name(1, 1))
    else:
        without_store(work)
    monkeypatch.setattr(plans, "free_bytes", disk_with(6000 if there else 30_000))
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == (1 if there else 6)


def test_ample_space_is_not_worth_asking_the_teacher(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(plans, "free_bytes", disk_with(10**9))
    monkeypatch.setattr(plans, "encode_all", None)
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == 6


def test_free_space_is_that_of_the_nearest_folder_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=123)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert free_bytes(files_at(tmp_path / "not" / "yet" / "heatmaps.zarr")) == 123
    assert asked == [tmp_path]


def test_free_space_of_a_remote_place_is_unknown() -> None:
    assert free_bytes(files_at("memory://somewhere/heatmaps.zarr")) is None
