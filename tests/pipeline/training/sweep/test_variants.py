"""Which students a sweep has, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fpd.pipeline.config.recipe import (
    Recipe,
    apply_overrides,
    load_recipe,
    parse_sweep,
    shipped_recipes,
)
from fpd.pipeline.config.sections import Sweep
from fpd.pipeline.training.sweep.variants import variants
from fpd.pipeline.workdir import WorkDir


def test_a_grid_is_every_combination_with_every_seed() -> None:
    sweep = Sweep(grid={"student.alpha": [0, 0.5], "student.teacher_scale": ["raw"]}, seeds=2)
    students = variants(sweep)
    assert [(variant.point, variant.run) for variant in students] == [
        ("alpha=0 teacher_scale=raw", "seed-0"),
        ("alpha=0 teacher_scale=raw", "seed-1"),
        ("alpha=0.5 teacher_scale=raw", "seed-0"),
        ("alpha=0.5 teacher_scale=raw", "seed-1"),
    ]
    recipe = students[3].recipe(Recipe(), None)
    assert recipe.student.alpha == 0.5
    assert recipe.student.teacher_scale == "raw"
    assert recipe.student.seed == 1
    assert recipe.teacher == Recipe().teacher


def test_named_points_are_crossed_with_the_grid() -> None:
    points: dict[str, dict[str, Any]] = {
        "labels only": {"student.alpha": 0},
        "distilled": {"student.alpha": 1, "student.model.stages": 2},
    }
    students = variants(Sweep(points=points, grid={"targets.sigma_px": [1, 2]}, seeds=1))
    assert [variant.point for variant in students] == [
        "labels only sigma_px=1",
        "distilled sigma_px=1",
        "labels only sigma_px=2",
        "distilled sigma_px=2",
    ]
    recipe = students[-1].recipe(Recipe(), None)
    assert (recipe.targets.sigma_px, recipe.student.alpha, recipe.student.model.stages) == (2, 1, 2)
    assert recipe.student.model.channels == Recipe().student.model.channels


def test_without_grid_and_points_the_recipe_is_run_with_several_seeds() -> None:
    assert [(variant.point, variant.seed) for variant in variants(Sweep(seeds=2))] == [
        ("as the recipe", 0),
        ("as the recipe", 1),
    ]


def test_cross_validation_has_every_fold_with_every_seed() -> None:
    students = variants(Sweep(seeds=2, folds=2))
    runs = ["fold-0-seed-0", "fold-1-seed-0", "fold-0-seed-1", "fold-1-seed-1"]
    assert [variant.run for variant in students] == runs
    assert students[1].recipe(Recipe(), 2).student.fold == (1, 2)


def test_folders_are_below_that_of_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(points={"../../etc passwd": {}, "ä/b": {}}, seeds=1)
    root = WorkDir(tmp_path).sweep("s")
    for variant in variants(sweep):
        folder = variant.folder(WorkDir(tmp_path), "s").path
        assert folder.resolve().is_relative_to(root)
        assert folder.parent.parent == root


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep(points={"a b": {}, "a/b": {}}),
        Sweep(grid={"student.alpha": [0.5, 0.5]}),
        Sweep(
            grid={"student.batch_size": [8, 16], "student.model": [{"stages": 1}, {"stages": 1}]}
        ),
    ],
)
def test_points_that_would_share_a_folder_are_refused(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match="different points"):
        variants(sweep)


# Settings of sweeps


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("teacher.epochs", "expected settings of student"),
        ("geometry.crop_px", "expected settings of student"),
        ("student.seed", "seeds"),
    ],
)
def test_settings_that_need_another_store_cannot_vary(key: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_sweep(None, [f"{key}=1,2"], None, None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("student.alpha=0,0.5,1", [0, 0.5, 1]),
        ("student.teacher_scale=raw,unit,0.5", ["raw", "unit", 0.5]),
        ("student.kd_visible_only=true, false", [True, False]),
        ("student.model={stages=1},{stages=2}", [{"stages": 1}, {"stages": 2}]),
    ],
)
def test_grids_of_the_command_line(text: str, values: list[Any]) -> None:
    assert parse_sweep(None, [text], 5, None) == Sweep(grid={text.split("=")[0]: values}, seeds=5)


@pytest.mark.parametrize("text", ["student.alpha", "=1", "student.alpha="])
def test_malformed_grids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected --grid key\.sub=value,value"):
        parse_sweep(None, [text], None, None)


def test_options_change_the_recipes_sweep() -> None:
    base = Sweep(grid={"student.alpha": [0, 1]}, seeds=5)
    sweep = parse_sweep(base, ["student.batch_size=8,16"], 2, 4)
    assert sweep.grid == {"student.alpha": [0, 1], "student.batch_size": [8, 16]}
    assert (sweep.seeds, sweep.folds) == (2, 4)


def test_a_recipes_sweeps_survive_its_json() -> None:
    recipe = apply_overrides({}, ['sweeps.a.grid={"student.alpha"=[0, 1]}'])
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe


def test_a_recipe_extends_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "lsp"\n[student]\nepochs = 3\n[data]\nroot = "x"\n')
    base, recipe = load_recipe("lsp", ["data.root=x"]), load_recipe(str(path))
    assert recipe.student.epochs == 3
    assert recipe.student.learning_rate == base.student.learning_rate
    assert (recipe.teacher, recipe.geometry) == (base.teacher, base.geometry)
    path.write_text('extends = "nothing"\n')
    with pytest.raises(ValueError, match="expected extends to name another shipped recipe"):
        load_recipe(str(path))


EXPERIMENTS = str(Path(__file__).parents[4] / "docs" / "experiments.toml")


@pytest.mark.parametrize("name", [*shipped_recipes(), EXPERIMENTS])
def test_every_student_of_a_recipes_sweeps_is_valid(name: str) -> None:
    recipe = load_recipe(name, ("data.root=datasets",))
    for sweep in recipe.sweeps.values():
        for variant in variants(sweep):
            assert variant.recipe(recipe, sweep.folds).student.seed == variant.seed


@pytest.mark.parametrize("fold", ["[3,3]", "[-1,3]", "[0,0]"])
def test_folds_that_do_not_exist_are_refused(fold: str) -> None:
    with pytest.raises(ValueError, match="0 <= k < n"):
        apply_overrides({}, [f"student.fold={fold}"])
