"""Shared by the tests of training: a recipe whose runs take a fraction of a second."""

from __future__ import annotations

import pytest

from fpd.pipeline.config.recipe import Recipe, apply_overrides


@pytest.fixture(scope="session")
def tiny_recipe(toy_recipe: Recipe) -> Recipe:
    """The toy recipe with half its samples: two steps an epoch. Its stores are not the toy's."""
    return apply_overrides(
        toy_recipe.model_dump(mode="json"), ["data.synthetic.train=12", "data.synthetic.test=2"]
    )
