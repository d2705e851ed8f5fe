"""`fpd sweep`: a grid trained, resumed, compared; failures apart; the same on a cluster."""

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
from fpd.pipeline.models.checkpoint import ModelDir
from fpd.pipeline.runtime.dask_cluster import choose_workers
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.training import loop
from fpd.pipeline.training.step import train_step
from fpd.pipeline.training.sweep.cluster import from_anywhere, make_student_job
from fpd.pipeline.training.sweep.variants import train_and_score, variants
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student, sweep

CPU = torch.device("cpu")
LEEDS = ("--set", "data.reader=lsp", "--set", "data.root=nowhere")
GRID = Sweep(grid={"student.alpha": [0, 1]}, seeds=2)


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def bytes_below(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_grid_is_trained_scored_and_compared(work: WorkDir, toy_recipe: Recipe) -> None:
    found = sweep.run(work, toy_recipe, CPU, "alpha", GRID)
    assert [(r["point"], r["seed"]) for r in found["runs"]] == [
        *(("alpha=0", 0), ("alpha=0", 1), ("alpha=1", 0), ("alpha=1", 1)),
    ]
    assert [point["runs"] for point in found["points"]] == [2, 2]
    folder = work.sweep("alpha")
    assert json.loads((folder / "sweep.json").read_text("utf-8")) == found
    assert (folder / "table.md").is_file() and (folder / "sweep.png").is_file()
    # A variant is the very student that stage 3 trains by the same settings.
    one = student.run(
        work,
        Recipe.parse(
            toy_recipe.model_dump()
            | {"student": toy_recipe.student.model_dump() | {"alpha": 1, "seed": 1}}
        ),
        CPU,
        name="alone",
    )
    of_sweep = ModelDir(folder / "alpha=1" / "seed-1").record()
    assert one["result"]["weights_sha256"] == of_sweep["result"]["weights_sha256"]
    # The same command trains and scores nothing again, and ends with the same bytes.
    before = bytes_below(folder)
    assert sweep.run(work, toy_recipe, CPU, "alpha", GRID) == found
    after = bytes_below(folder)
    assert {p: b for p, b in after.items() if p.suffix != ".png"} == {
        p: b for p, b in before.items() if p.suffix != ".png"
    }
    # `fpd evaluate` shows the directory's own models, not a sweep's dozens.
    assert set(work.models()) == {"teacher", "alone"}


def test_a_failure_is_apart_and_tried_again(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: dict[str, dict[str, Any]] = {
        "fails": {"student.learning_rate": 1e30, "student.alpha": 0},
        "works": {},
    }
    grid = Sweep(points=points, seeds=1)
    found = sweep.run(work, toy_recipe, CPU, "f", grid)
    fails, works = found["runs"]
    assert "the loss became" in fails["error"]
    assert "error" not in works
    path = work.sweep("f") / "fails" / "seed-0"
    assert json.loads((path / "failed.json").read_text("utf-8")) == {"error": fails["error"]}
    shutil.rmtree(path)
    points["fails"] = {"student.alpha": 0}
    again = sweep.run(work, toy_recipe, CPU, "f", Sweep(points=points, seeds=1))
    assert "error" not in again["runs"][0]
    assert not (path / "failed.json").exists()


def test_a_student_that_does_not_fit_into_memory_is_a_failure_too(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(state: Any, network: Any, objective: Any, training: Any, *rest: Any) -> torch.Tensor:
        if training.batch_size == 9:
            torch.empty(1 << 48)
        return train_step(state, network, objective, training, *rest)

    monkeypatch.setattr(loop, "train_step", hungry)
    grid = Sweep(grid={"student.batch_size": [9, 8]}, seeds=1)
    large, small = sweep.run(work, toy_recipe, CPU, "batch", grid)["runs"]
    assert (
        "--set student.grad_accum_steps=2 takes them through the network in smaller"
        in large["error"]
    )
    assert large["error"].startswith("a step of seed-0 on cpu, of 9 views in 1 part, did not fit")
    assert "error" not in small


def test_ctrl_c_while_scoring_stops_after_that_student(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpd.pipeline.training.sweep import variants as sweeping

    load = sweeping.load_model

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return load(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "load_model", interrupted)
        with pytest.raises(Interrupted, match="the same command goes on"):
            sweep.run(work, toy_recipe, CPU, "s", GRID)
    assert len(list(work.sweep("s").rglob("score.json"))) == 1
    assert not (work.sweep("s") / "sweep.json").exists()
    assert len(sweep.run(work, toy_recipe, CPU, "s", GRID)["runs"]) == 4


def test_cross_validation_leaves_a_part_out_and_scores_it(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpd.pipeline.training import distill as distilling

    seen: list[tuple[set[str], set[str]]] = []
    train_model = distilling.train_model

    def spy(**arguments: Any) -> dict[str, Any]:
        people, keep = arguments["people"], arguments["keep"]
        trained_on = {i for i, kept in zip(people["train"].ids, keep, strict=True) if kept}
        seen.append((trained_on, set(people["validation"].ids)))
        return train_model(**arguments)

    monkeypatch.setattr(distilling, "train_model", spy)
    grid = Sweep(grid={"student.alpha": [1]}, folds=2, seeds=1)
    found = sweep.run(work, toy_recipe, CPU, "cv", grid)
    everyone = set(load(toy_recipe.data, "train").ids)
    (trained_a, left_a), (trained_b, left_b) = seen
    assert trained_a == everyone - left_a == left_b
    assert trained_b == everyone - left_b == left_a
    assert all(run["mean"] == run["validation_pck"] for run in found["runs"])
    assert all("auc" not in run for run in found["runs"])  # the test people were not looked at


def test_a_cluster_finds_the_same(work: WorkDir, toy_recipe: Recipe) -> None:
    here = sweep.run(work, toy_recipe, CPU, "here", GRID)
    there = sweep.run(work, toy_recipe, CPU, "there", GRID, choose_workers(2, None, None, "cpu"))
    varying = {"seconds"}
    for one, other in zip(here["runs"], there["runs"], strict=True):
        assert {k: v for k, v in one.items() if k not in varying} == {
            k: v for k, v in other.items() if k not in varying
        }


def test_weights_to_start_from_are_found_from_another_directory(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.root)
    work = WorkDir(Path())
    start = Sweep(points={"on": {"student.init_from": "./teacher", "student.alpha": 0}}, seeds=1)
    workers = choose_workers(2, None, None, "cpu")
    job = make_student_job(work, toy_recipe, "some", start, workers, None)
    (variant,) = [from_anywhere(work, variant) for variant in variants(start)]
    started = apply_overrides(toy_recipe.model_dump(mode="json"), ("student.init_from=./teacher",))
    by_recipe = json.loads(make_student_job(work, started, "some", start, workers, None).recipe)
    monkeypatch.chdir("/")
    there, recipe = WorkDir(Path(job.work)), Recipe.model_validate_json(job.recipe)
    assert "error" not in train_and_score(there, recipe, "some", start, variant, CPU, None)
    assert by_recipe["student"]["init_from"] == str(Path(job.work) / "teacher")


def test_the_command(work: WorkDir) -> None:
    grid = ("--grid", "student.alpha=0", "--grid", "student.learning_rate=4e-3,1e30")
    result = fpd("sweep", "mine", "-w", work.root, *grid, "--seeds", "1")
    assert result.exit_code == 1
    assert "alpha=0" in result.output
    assert "1 of 2 students failed" in result.output
    assert f"written to {work.sweep('mine')}" in result.output
    for arguments, said in (
        ((), "found no name"),
        (("unknown",), "found unknown"),
        (("x", "--grid", "teacher.epochs=1"), "expected settings of student"),
        (("../x", "--grid", "student.alpha=1"), "expected a student's name"),
        (("x", "--grid", "student.alpha=0,7"), "Error: alpha=7: student.alpha: "),
        (("x", "--grid", "student.alhpa=0,7"), "Error: alhpa=0: student.alhpa: there is no such"),
        (("x", "--grid", "student.alpha=0,1", "--store", "nowhere.zarr"), "cache-heatmaps"),
        (("x", "--grid", "student.alpha=0", *LEEDS), "expected joints.mat and images/"),
    ):
        result = fpd("sweep", *arguments, "-w", work.root)
        assert result.exit_code == 1
        assert said in result.output
        assert isinstance(result.exception, SystemExit)
    assert not work.sweep("x").exists()
