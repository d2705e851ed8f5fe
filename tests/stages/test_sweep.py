"""`fpd sweep`: students trained, scored and compared; failures set apart; the same on a cluster."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.data.datasets import load
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import Sweep
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime.dask_cluster import choose_workers
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.training import loop
from fpd.pipeline.training.step import train_step
from fpd.pipeline.training.sweep import variants as sweep_variants
from fpd.pipeline.training.sweep.cluster import make_student_job, with_absolute_paths
from fpd.pipeline.training.sweep.variants import train_and_score, variants
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student, sweep

CPU = torch.device("cpu")
MISSING_DATA = ("--set", "data.reader=lsp", "--set", "data.root=nowhere")
GRID = Sweep(grid={"student.alpha": [0, 1]}, seeds=2)


@pytest.fixture(scope="module")
def short_recipe(toy_recipe: Recipe) -> Recipe:
    """Students of one epoch, for the toy store."""
    return apply_overrides(toy_recipe.model_dump(mode="json"), ["student.epochs=1"])


@pytest.fixture
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave `sweep.png` empty: matplotlib takes longer than the training."""
    monkeypatch.setattr(sweep, "draw", lambda report, path: path.touch())


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def bytes_below(folder: Path) -> dict[Path, bytes]:
    """The content of all files but pictures."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    return {path: path.read_bytes() for path in files}


def test_a_grid_is_trained_scored_and_compared(work: WorkDir, short_recipe: Recipe) -> None:
    report = sweep.run(work, short_recipe, CPU, "alpha", GRID)
    runs = [("alpha=0", 0), ("alpha=0", 1), ("alpha=1", 0), ("alpha=1", 1)]
    assert [(run["point"], run["seed"]) for run in report["runs"]] == runs
    assert [point["runs"] for point in report["points"]] == [2, 2]
    folder = work.sweep("alpha")
    assert json.loads((folder / "sweep.json").read_text("utf-8")) == report
    assert (folder / "table.md").is_file() and (folder / "sweep.png").is_file()
    # A variant is the same student that stage 3 trains with these settings.
    settings = short_recipe.student.model_dump() | {"alpha": 1, "seed": 1}
    recipe = Recipe.parse(short_recipe.model_dump() | {"student": settings})
    alone = student.run(work, recipe, CPU, name="alone")
    variant = ModelDir(folder / "alpha=1" / "seed-1").record()
    assert alone["result"]["weights_sha256"] == variant["result"]["weights_sha256"]
    # `fpd evaluate` shows the work directory's own models only.
    assert set(work.models()) == {"teacher", "alone"}


@pytest.mark.usefixtures("no_plot")
def test_the_same_command_trains_and_scores_nothing_again(
    work: WorkDir, short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Sweep(grid={"student.alpha": [0]}, seeds=1)
    report = sweep.run(work, short_recipe, CPU, "again", grid)
    before = bytes_below(work.sweep("again"))

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("everything is there")

    monkeypatch.setattr(loop.Run, "train", never)
    monkeypatch.setattr(sweep_variants, "predict", never)
    assert sweep.run(work, short_recipe, CPU, "again", grid) == report
    assert bytes_below(work.sweep("again")) == before


@pytest.mark.usefixtures("no_plot")
def test_a_failed_student_is_recorded_and_tried_again(work: WorkDir, short_recipe: Recipe) -> None:
    diverging = {"student.learning_rate": 1e30, "student.alpha": 0, "student.epochs": 2}
    points: dict[str, dict[str, Any]] = {"fails": diverging, "works": {}}
    report = sweep.run(work, short_recipe, CPU, "f", Sweep(points=points, seeds=1))
    fails, works = report["runs"]
    assert "learning_rate=" in fails["error"]
    assert "error" not in works
    path = work.sweep("f") / "fails" / "seed-0"
    assert json.loads((path / "failed.json").read_text("utf-8")) == {"error": fails["error"]}
    shutil.rmtree(path)
    points["fails"] = {"student.alpha": 0}
    again = sweep.run(work, short_recipe, CPU, "f", Sweep(points=points, seeds=1))
    assert "error" not in again["runs"][0]
    assert not (path / "failed.json").exists()


@pytest.mark.usefixtures("no_plot")
def test_a_student_that_runs_out_of_memory_is_a_failure_too(
    work: WorkDir, short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(**arguments: Any) -> torch.Tensor:
        if arguments["training"].batch_size == 9:
            torch.empty(1 << 48)
        return train_step(**arguments)

    monkeypatch.setattr(loop, "train_step", hungry)
    grid = Sweep(grid={"student.batch_size": [9, 8]}, seeds=1)
    large, small = sweep.run(work, short_recipe, CPU, "batch", grid)["runs"]
    assert "--set student.grad_accum_steps=2" in large["error"]
    assert large["error"].startswith(
        "a step of batch_size=9, seed-0 on cpu, of 9 views in 1 part, did not fit"
    )
    assert "error" not in small


@pytest.mark.usefixtures("no_plot")
def test_scores_that_are_no_numbers_are_made_again(work: WorkDir, short_recipe: Recipe) -> None:
    grid = Sweep(grid={"student.alpha": [0]}, seeds=1)
    report = sweep.run(work, short_recipe, CPU, "s", grid)
    (path,) = work.sweep("s").rglob("score.json")
    before = path.read_bytes()
    for change in ({"seconds": {}}, {"mean": "0.5"}, {"auc": [1]}, {"epochs": True}):
        row = json.loads(before) | change
        write_sealed_json(path, row)
        assert sweep.run(work, short_recipe, CPU, "s", grid)["points"] == report["points"]
        assert path.read_bytes() == before


def test_ctrl_c_while_scoring_keeps_that_student_and_stops(
    work: WorkDir, short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Sweep(grid={"student.alpha": [0, 1]}, seeds=1)
    load_model = sweep_variants.load_model

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return load_model(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(sweep_variants, "load_model", interrupted)
        with pytest.raises(Interrupted, match="the same command"):
            sweep.run(work, short_recipe, CPU, "s", grid)
    assert len(list(work.sweep("s").rglob("record.json"))) == 1
    assert not list(work.sweep("s").rglob("score.json"))
    assert not (work.sweep("s") / "sweep.json").exists()
    assert len(sweep.run(work, short_recipe, CPU, "s", grid)["runs"]) == 2


@pytest.mark.usefixtures("no_plot")
def test_cross_validation_scores_the_part_that_was_left_out(
    work: WorkDir, short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the test samples are not scored")

    monkeypatch.setattr(sweep_variants, "predict", never)
    grid = Sweep(grid={"student.alpha": [1]}, folds=2, seeds=1)
    runs = sweep.run(work, short_recipe, CPU, "cv", grid)["runs"]
    assert [run["fold"] for run in runs] == [0, 1]
    assert all(run["mean"] == run["validation_pck"] for run in runs)
    assert all("auc" not in run for run in runs)
    recipes = [variant.recipe(short_recipe, 2) for variant in variants(grid)]
    samples = load(short_recipe.data, "train")
    parts = [samples.part(*recipe.student.fold) for recipe in recipes]
    assert (parts[0] != parts[1]).all()


@pytest.mark.slow
def test_a_cluster_finds_the_same(work: WorkDir, short_recipe: Recipe) -> None:
    grid = Sweep(grid={"student.alpha": [0, 1]}, seeds=1)
    workers = choose_workers(2, None, None, "cpu")
    in_process = sweep.run(work, short_recipe, CPU, "in-process", grid)
    on_cluster = sweep.run(work, short_recipe, CPU, "on-cluster", grid, workers, callbacks=("csv",))
    for one, other in zip(in_process["runs"], on_cluster["runs"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    assert len(list(work.sweep("on-cluster").rglob("metrics.csv"))) == 2


def test_callbacks_watch_every_student_and_a_misspelled_one_is_refused_first(
    work: WorkDir, short_recipe: Recipe
) -> None:
    grid = Sweep(grid={"student.alpha": [0, 1]}, seeds=1)
    with pytest.raises(ValueError, match="--callback cvs: expected csv, wandb or package"):
        sweep.run(work, short_recipe, CPU, "watched", grid, callbacks=("cvs",))
    assert not work.sweep("watched").exists()
    runs = sweep.run(work, short_recipe, CPU, "watched", grid, callbacks=("csv",))["runs"]
    tables = sorted(work.sweep("watched").rglob("metrics.csv"))
    assert [path.parent.parent.name for path in tables] == ["alpha=0", "alpha=1"]
    for path, run in zip(tables, runs, strict=True):
        assert len(path.read_text().splitlines()) == 1 + run["epochs"]


def test_initial_weights_are_found_from_another_working_directory(
    work: WorkDir, short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.root)
    work = WorkDir(Path())
    start = Sweep(points={"on": {"student.init_from": "./teacher", "student.alpha": 0}}, seeds=1)
    workers = choose_workers(2, None, None, "cpu")
    job = make_student_job(work, short_recipe, "some", start, workers, None, ())
    (variant,) = [with_absolute_paths(work, variant) for variant in variants(start)]
    tree = short_recipe.model_dump(mode="json")
    from_teacher = apply_overrides(tree, ("student.init_from=./teacher",))
    by_recipe = json.loads(
        make_student_job(work, from_teacher, "some", start, workers, None, ()).recipe
    )
    monkeypatch.chdir("/")
    recipe = Recipe.model_validate_json(job.recipe)
    row = train_and_score(WorkDir(Path(job.work)), recipe, "some", start, variant, CPU, None)
    assert "error" not in row
    assert by_recipe["student"]["init_from"] == str(Path(job.work) / "teacher")


def test_the_command_shows_the_table_and_the_failures(work: WorkDir) -> None:
    grid = ("--grid", "student.alpha=0", "--grid", "student.learning_rate=4e-3,1e30")
    result = fpd("sweep", "mine", "-w", work.root, *grid, "--seeds", "1")
    assert result.exit_code == 1
    assert "alpha=0" in result.output
    assert "1 of 2 students failed" in result.output
    assert str(work.sweep("mine")) in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "/work --grid student.alpha=0.5,1`"),
        (("--grid", "student.alpha=1"), "found no name: for example, `fpd sweep alpha -w "),
        (("unknown",), "found unknown"),
        (("x", "--grid", "teacher.epochs=1"), "expected settings of student"),
        (("../x", "--grid", "student.alpha=1"), "expected a student's name"),
        (("x", "--grid", "student.alpha=0,7"), "Error: alpha=7: student.alpha: "),
        (("x", "--grid", "student.alhpa=0,7"), "Error: alhpa=0: student.alhpa: "),
        (("x", "--grid", "student.alpha=0,1", "--store", "nowhere.zarr"), "cache-heatmaps"),
        (("x", "--grid", "student.alpha=0", *MISSING_DATA), "joints.mat"),
    ],
)
def test_mistakes_are_refused_before_training(
    work: WorkDir, arguments: tuple[str, ...], message: str
) -> None:
    result = fpd("sweep", *arguments, "-w", work.root)
    assert result.exit_code == 1
    assert message in result.output
    assert isinstance(result.exception, SystemExit)
    assert not work.sweep("x").exists()
