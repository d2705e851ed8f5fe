"""The text that `fpd config` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...pipeline.config.origins import Path, TracedRecipe
from ...pipeline.config.overrides import toml, toml_key
from ...pipeline.config.recipe import shipped_recipes
from ...pipeline.config.reference import (
    REQUIRED,
    UNSET,
    Section,
    Setting,
    about,
    networks,
    sections,
)

COMMENT_COLUMN = 44


def describe_settings() -> str:
    """The shipped recipes, and every setting: key, default, type and range, description."""
    names = shipped_recipes()
    width = max(map(len, names))
    choice = networks()
    return "\n".join(
        [
            "Recipes (`fpd config show -r NAME` prints one):",
            *(f"  {name:{width}}  {about(name)}" for name in names),
            "",
            "Settings (`--set KEY=VALUE`), with their defaults:",
            *(line for section in sections() for line in _section(section)),
            "",
            f"Networks: the other keys of {' and '.join(choice.keys)}, by their name",
            *(line for kind in choice.kinds.values() for line in _section(kind)),
        ]
    )


def describe_recipe(traced: TracedRecipe) -> str:
    """A recipe as a TOML file, with the origin of each value as a comment."""
    return "\n".join(_table(traced, traced.tree, ())).strip("\n")


def _section(section: Section) -> Iterator[str]:
    yield f"\n{section.key}: {section.summary}" if section.summary else f"\n{section.key}"
    yield from (line for setting in section.settings for line in _setting(setting))


def _setting(setting: Setting) -> Iterator[str]:
    default = setting.default
    value = f"({default})" if default in (UNSET, REQUIRED) else f"= {default}"
    yield f"  {setting.key} {value}"
    kind = setting.kind.replace("`", "")
    yield f"      {kind}: {setting.description}" if setting.description else f"      {kind}"


def _table(traced: TracedRecipe, tree: dict[str, Any], path: Path) -> Iterator[str]:
    """A table's own values, then the tables in it."""
    tables = {key: value for key, value in tree.items() if isinstance(value, dict) and value}
    if path and len(tables) < len(tree):
        yield f"\n[{'.'.join(map(toml_key, path))}]"
    for key, value in tree.items():
        if key not in tables:
            # TOML has no null: a comment has the place of a value that is not set.
            text = f"# {key}: {UNSET}" if value is None else f"{toml_key(key)} = {toml(value)}"
            yield f"{text:{COMMENT_COLUMN}}  # {traced.origin((*path, key))}"
    for key, value in tables.items():
        yield from _table(traced, value, (*path, key))
