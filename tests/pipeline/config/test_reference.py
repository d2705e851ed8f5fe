"""The reference of settings has all of them, with what their classes state."""

from __future__ import annotations

import pytest

from fpd.pipeline.config.recipe import Recipe, shipped_recipes
from fpd.pipeline.config.reference import UNSET, about, networks, sections

SETTINGS = {setting.key: setting for section in sections() for setting in section.settings}


def test_every_setting_of_the_recipe_is_listed_once() -> None:
    keys = [setting.key for section in sections() for setting in section.settings]
    assert len(keys) == len(set(keys))
    tree = Recipe().model_dump(mode="json")
    for section in ("geometry", "augmentation", "targets", "store", "loader", "monitor"):
        assert {key for key in keys if key.startswith(f"{section}.")} == {
            f"{section}.{name}" for name in tree[section]
        }
    assert all(setting.description for setting in SETTINGS.values() if not setting.is_network)


def test_a_setting_has_type_range_and_default() -> None:
    views = SETTINGS["store.views"]
    assert (views.kind, views.default) == ("integer, ≥ 1, ≤ 1,000,000", "4")
    assert SETTINGS["student.patience"].default == UNSET
    assert SETTINGS["teacher.loss"].kind == '`"mse"`, `"bce"`, `"kl"`'
    assert SETTINGS["student.model"].is_network


def test_networks_are_those_that_students_and_teachers_choose_from() -> None:
    assert networks().keys == ("teacher.model", "student.model")
    assert list(networks().kinds) == ["hourglass", "timm"]
    assert "backbone" in {setting.key for setting in networks().kinds["timm"].settings}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_says_what_it_is(name: str) -> None:
    assert about(name)
