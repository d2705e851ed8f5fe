"""Where each setting of a recipe comes from: its default, a recipe, or an option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data.sections import needs_root
from .overrides import merge, parse_override
from .recipe import Recipe, recipe_layers

DEFAULT = "default"
NOT_GIVEN = "to be given: --set data.root=FOLDER"

Path = tuple[str, ...]
"""The parts of a setting's key; a part may have dots, as those of a sweep's grid do."""


@dataclass(frozen=True)
class TracedRecipe:
    """A recipe, and where its values come from.

    Attributes:
        tree: all settings, as JSON has them.
        origins: by path, of those settings that do not have their default.
    """

    tree: dict[str, Any]
    origins: dict[Path, str]

    def origin(self, path: Path) -> str:
        return self.origins.get(path, DEFAULT)


def trace_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> TracedRecipe:
    """As `recipe.load_recipe`, with the origins; a `data.root` that is not given is a placeholder.

    Raises:
        ValueError: as `recipe.load_recipe`.
    """
    layers = [(f"recipe {name}", tree) for name, tree in recipe_layers(name_or_path)]
    return _trace(layers, overrides)


def trace_kept(kept: Mapping[str, Any], name: str, overrides: Sequence[str] = ()) -> TracedRecipe:
    """The recipe of a work directory, which states all settings, with the origins.

    Args:
        name: of its file.
    """
    traced = _trace([(name, kept)], overrides)
    defaults = _leaves(Recipe().model_dump(mode="json"))
    values = _leaves(traced.tree)
    changed = {
        path: origin
        for path, origin in traced.origins.items()
        if origin != name or path not in defaults or defaults[path] != values.get(path)
    }
    return TracedRecipe(traced.tree, changed)


def _trace(
    layers: Sequence[tuple[str, Mapping[str, Any]]], overrides: Sequence[str]
) -> TracedRecipe:
    layers = [*layers, *((f"--set {text}", parse_override(text)) for text in overrides)]
    merged: dict[str, Any] = {}
    origins: dict[Path, str] = {}
    for name, tree in layers:
        merged = merge(merged, tree)
        own = _leaves(tree)
        # A path that is no longer there belongs to a network that the layer replaced.
        origins = {
            path: name if path in own else origins[path]
            for path in _leaves(merged)
            if path in own or path in origins
        }
    data = merged.get("data")
    if isinstance(data, Mapping) and needs_root(data.get("reader")) and "root" not in data:
        merged = merge(merged, {"data": {"root": "FOLDER"}})
        origins["data", "root"] = NOT_GIVEN
    return TracedRecipe(Recipe.parse(merged).model_dump(mode="json"), origins)


def _leaves(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """The values of a tree by their paths; an empty table is a value."""
    return dict(_walk(tree, ()))


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if not (isinstance(value, Mapping) and value):
        yield path, value
        return
    for key, below in value.items():
        yield from _walk(below, (*path, key))
