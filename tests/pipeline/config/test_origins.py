"""Where the values of a recipe come from, layer by layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.pipeline.config.origins import NOT_GIVEN, trace_kept, trace_recipe
from fpd.pipeline.config.recipe import load_recipe, shipped_recipes


def test_each_value_has_the_origin_that_decides_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extends = "demo"\n[student]\nepochs = 7\n[store]\nviews = 3\n')
    traced = trace_recipe(str(mine), ["store.views=5"])
    assert traced.tree == load_recipe(str(mine), ["store.views=5"]).model_dump(mode="json")
    assert traced.origin(("student", "epochs")) == f"recipe {mine}"
    assert traced.origin(("store", "views")) == "--set store.views=5"
    assert traced.origin(("student", "loss")) == "recipe demo"
    assert traced.origin(("students", "labels-only", "alpha")) == "recipe demo"
    assert traced.origin(("student", "weight_decay")) == "default"


def test_a_network_of_the_same_kind_keeps_the_origins_of_its_other_settings() -> None:
    change = "student.model={name='hourglass', stages=1}"
    traced = trace_recipe("demo", [change])
    assert traced.origin(("student", "model", "stages")) == f"--set {change}"
    assert traced.origin(("student", "model", "channels")) == "recipe demo"


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_that_needs_a_folder_is_shown_without_one(name: str) -> None:
    traced = trace_recipe(name)
    needs = name != "demo"
    assert (traced.origin(("data", "root")) == NOT_GIVEN) == needs
    given = trace_recipe(name, ["data.root=here"] if needs else [])
    assert given.origin(("data", "root")) == ("--set data.root=here" if needs else "default")


def test_of_a_kept_recipe_only_what_differs_from_the_defaults_is_its_own() -> None:
    kept = load_recipe("demo").model_dump(mode="json")
    traced = trace_kept(kept, "work/recipe.json", ["student.alpha=0.25"])
    assert traced.origin(("student", "epochs")) == "work/recipe.json"
    assert traced.origin(("student", "weight_decay")) == "default"
    assert traced.origin(("student", "alpha")) == "--set student.alpha=0.25"
    assert traced.origin(("teacher", "model", "channels")) == "work/recipe.json"


def test_a_mistake_is_refused_as_by_every_command() -> None:
    with pytest.raises(ValueError, match=r"did you mean `student\.alpha`"):
        trace_recipe("demo", ["student.alhpa=1"])
