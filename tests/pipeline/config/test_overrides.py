"""Trees of settings: `--set` and `--grid`, TOML files, merging."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fpd.pipeline.config.overrides import (
    list_overrides,
    merge,
    parse_grid,
    parse_override,
    parse_toml,
    toml,
    toml_key,
)
from fpd.pipeline.config.recipe import load_recipe


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("student.alpha=1", 1.0),
        ("teacher.learning_rate=2.5e-4", 2.5e-4),
        ("teacher.epochs=1_000", 1000),
        ("targets.area_normalized=true", True),
        ("student.teacher_scale=raw", "raw"),
        ("teacher.optimizer = 'rmsprop'", "rmsprop"),
        ("augmentation.scale=[0.9, 1.1]", (0.9, 1.1)),
        ("teacher.model.stages=3", 3),
        ("data.root=/a=b/c d", Path("/a=b/c d")),
    ],
)
def test_a_value_is_toml_and_otherwise_a_string(override: str, value: object) -> None:
    setting: Any = load_recipe("demo", [override])
    for part in override.partition("=")[0].split("."):
        setting = getattr(setting, part.strip())
    assert setting == value
    assert type(setting) is type(value) or isinstance(setting, Path)


@pytest.mark.parametrize("text", ["student.alpha", "=3", ".alpha=1", "a..b=1", ""])
def test_a_malformed_override_is_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected --set key\.sub=value, got ") as caught:
        parse_override(text)
    assert repr(text) in str(caught.value)


def test_a_grid_has_toml_values_or_strings() -> None:
    assert parse_grid("student.alpha = 0, 0.5") == ("student.alpha", [0, 0.5])
    assert parse_grid("student.loss=mse,kl") == ("student.loss", ["mse", "kl"])
    for text in ("student.alpha", "=1", "student.alpha="):
        with pytest.raises(ValueError, match=r"expected --grid key\.sub=value,value, got"):
            parse_grid(text)


def test_tables_are_merged_and_later_overrides_win() -> None:
    overrides = ["teacher.model={stages=3}", "teacher.epochs=5", "teacher.epochs=6"]
    recipe = load_recipe("demo", overrides)
    assert (recipe.teacher.model.stages, recipe.teacher.model.channels) == (3, 64)
    assert recipe.teacher.epochs == 6


def test_merge_updates_nested_tables_and_leaves_its_arguments() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 2}
    assert merge(base, {"a": {"c": [3]}, "e": {"f": 4}}) == {
        "a": {"b": 1, "c": [3]},
        "d": 2,
        "e": {"f": 4},
    }
    assert merge(base, {"a": 5, "d": {"x": 1}}) == {"a": 5, "d": {"x": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 2}


def test_a_table_of_another_network_replaces_the_old_one() -> None:
    base = {"model": {"stages": 2}}
    timm = {"name": "timm", "backbone": "resnet18"}
    assert merge(base, {"model": timm}) == {"model": timm}
    assert merge(base, {"model": {"name": "hourglass"}}) == {
        "model": {"stages": 2, "name": "hourglass"}
    }


@pytest.mark.parametrize("text", ["[data\nreader = 1", "a = 1\na = 2"])
def test_text_that_is_not_toml_is_refused_with_the_name_of_its_file(text: str) -> None:
    with pytest.raises(ValueError, match=r"mine\.toml is not a TOML file: "):
        parse_toml(text, "mine.toml")


@pytest.mark.parametrize(
    "value",
    [True, 3, 0.25, 1e-05, 'a "quoted" \\ word\n', "Ωmega", [1, [2.5, "x"]], {}, {"a.b": {"c": 1}}],
)
def test_values_are_toml(value: object) -> None:
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value


@pytest.mark.parametrize("key", ["plain", "labels-only", "student.alpha", "", "ä", 'quo"te'])
def test_keys_are_toml(key: str) -> None:
    assert tomllib.loads(f"{toml_key(key)} = 1") == {key: 1}


def test_overrides_turn_one_section_into_another() -> None:
    base = {"crop_px": 64, "inner": {"names": ["a"], "kept": 1}, "unset": 3, "table": None}
    wanted = {"crop_px": 128, "inner": {"names": ["b c"], "kept": 1}, "unset": None, "table": {}}
    texts = list_overrides("geometry", wanted, base)
    assert texts == [
        "geometry.crop_px=128",
        'geometry.inner.names=["b c"]',
        "geometry.unset=null",
        "geometry.table={}",
    ]
    merged: dict[str, Any] = {"geometry": base}
    for text in texts:
        merged = merge(merged, parse_override(text))
    assert merged["geometry"] == wanted


def test_null_unsets_what_may_be_unset() -> None:
    overrides = ["student.patience=3", "data.root=x", "student.patience=null", "data.root = null"]
    recipe = load_recipe("demo", overrides)
    assert recipe.student.patience is None and recipe.data.root is None
    assert parse_grid("student.patience=null,3") == ("student.patience", [None, 3])
    assert load_recipe("demo", ['data.root="null"']).data.root == Path("null")
    with pytest.raises(ValueError, match=r"^student\.epochs: .* integer \(got null\)$"):
        load_recipe("demo", ["student.epochs=null"])
