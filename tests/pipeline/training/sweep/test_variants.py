"""Which students a sweep has, and by which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpd.data.samples import SampleSet
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


def test_every_combination_in_every_run() -> None:
    sweep = Sweep(grid={"student.alpha": [0, 0.5], "student.teacher_scale": ["raw"]}, seeds=2)
    found = variants(sweep)
    assert [(v.point, v.run) for v in found] == [
        ("alpha=0 teacher_scale=raw", "seed-0"),
        ("alpha=0 teacher_scale=raw", "seed-1"),
        ("alpha=0.5 teacher_scale=raw", "seed-0"),
        ("alpha=0.5 teacher_scale=raw", "seed-1"),
    ]
    recipe = found[3].recipe(Recipe(), None)
    assert (recipe.student.alpha, recipe.student.teacher_scale, recipe.student.seed) == (
        *(0.5, "raw", 1),
    )
    assert recipe.teacher == Recipe().teacher


def test_named_points_are_crossed_with_the_grid() -> None:
    points: dict[str, dict[str, Any]] = {
        "labels only": {"student.alpha": 0},
        "distilled": {"student.alpha": 1, "student.model.stages": 2},
    }
    sweep = Sweep(points=points, grid={"targets.sigma_px": [1, 2]}, seeds=1)
    assert [v.point for v in variants(sweep)] == [
        "labels only sigma_px=1",
        "distilled sigma_px=1",
        "labels only sigma_px=2",
        "distilled sigma_px=2",
    ]
    last = variants(sweep)[-1].recipe(Recipe(), None)
    assert (last.targets.sigma_px, last.student.alpha, last.student.model.stages) == (2, 1, 2)
    assert last.student.model.channels == Recipe().student.model.channels  # the rest is kept


def test_a_sweep_of_nothing_is_the_recipe_in_several_seeds() -> None:
    assert [(v.point, v.seed) for v in variants(Sweep(seeds=2))] == [
        ("as the recipe", 0),
        ("as the recipe", 1),
    ]


def test_folders_are_below_the_sweeps(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("teacher.epochs", "expected settings of student"),
        ("geometry.crop_px", "expected settings of student"),
        ("student.seed", "seeds and folds"),
    ],
)
def test_what_no_store_serves_cannot_be_varied(key: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_sweep(None, [f"{key}=1,2"], None, None)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("student.alpha=0,0.5,1", [0, 0.5, 1]),
        ("student.teacher_scale=raw,unit,0.5", ["raw", "unit", 0.5]),
        ("student.model.channels=32", [32]),
        ("student.kd_visible_only=true, false", [True, False]),
        ("student.model={stages=1},{stages=2}", [{"stages": 1}, {"stages": 2}]),
    ],
)
def test_grids_of_the_command_line(text: str, values: list[Any]) -> None:
    assert parse_sweep(None, [text], 5, None) == Sweep(grid={text.split("=")[0]: values}, seeds=5)


@pytest.mark.parametrize("text", ["student.alpha", "=1", "student.alpha="])
def test_grids_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected --grid key\.sub=value,value"):
        parse_sweep(None, [text], None, None)


def test_options_change_the_recipes_sweep() -> None:
    base = Sweep(grid={"student.alpha": [0, 1]}, seeds=5)
    found = parse_sweep(base, ["student.batch_size=8,16"], 2, 4)
    assert found.grid == {"student.alpha": [0, 1], "student.batch_size": [8, 16]}
    assert (found.seeds, found.folds) == (2, 4)


def test_a_recipes_sweeps_are_written_only_where_there_are_any() -> None:
    assert "sweeps" not in Recipe().model_dump()
    recipe = apply_overrides({}, ['sweeps.a.grid={"student.alpha"=[0, 1]}'])
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe


def test_a_recipe_extends_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "lsp"\n[student]\nepochs = 3\n[data]\nroot = "x"\n')
    base = load_recipe("lsp", ["data.root=x"])
    found = load_recipe(str(path))
    assert found.student.epochs == 3
    assert found.student.learning_rate == base.student.learning_rate
    assert (found.teacher, found.geometry) == (base.teacher, base.geometry)
    path.write_text('extends = "nothing"\n')
    with pytest.raises(ValueError, match="expected extends to name another shipped recipe"):
        load_recipe(str(path))


EXPERIMENTS = str(Path(__file__).parents[4] / "docs" / "experiments.toml")


@pytest.mark.parametrize("name", [*shipped_recipes(), EXPERIMENTS])
def test_every_student_of_a_recipes_sweeps_can_be_set_up(name: str) -> None:
    recipe = load_recipe(name, ("data.root=datasets",))
    for sweep in recipe.sweeps.values():
        for variant in variants(sweep):
            student = variant.recipe(recipe, sweep.folds).student
            assert student.seed == variant.seed


# Folds


def test_folds_are_parts_of_the_people(toy_samples: SampleSet) -> None:
    """Everyone is in one part, whoever else is there."""
    parts = np.stack([toy_samples.part(k, 3) for k in range(3)])
    assert (parts.sum(axis=0) == 1).all()
    assert (parts.sum(axis=1) > 0).all()
    fewer = toy_samples.take(np.arange(0, len(toy_samples), 2))
    np.testing.assert_array_equal(fewer.part(1, 3), parts[1, ::2])
    assert toy_samples.part(0, 1).all()


@pytest.mark.parametrize("fold", ["[3,3]", "[-1,3]", "[0,0]"])
def test_folds_that_are_not_there_are_refused(fold: str) -> None:
    with pytest.raises(ValueError, match="0 <= k < n"):
        apply_overrides({}, [f"student.fold={fold}"])
