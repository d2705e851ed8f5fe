"""Trees of settings: read from and written as TOML, `--set` and `--grid`, and merged."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.networks import DEFAULT_MODEL, MODELS

NULL = "null"
"""The value of `--set` that leaves a setting unset."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `changes`, table by table.

    A table for another kind of network replaces the one in `base`, whose settings do not apply.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = dict(value) if _is_other_network(old, value) else merge(old, value)
        merged[key] = value
    return merged


def _is_other_network(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two tables are settings of different kinds of networks."""
    old_name = old.get("name", DEFAULT_MODEL)
    return old_name in MODELS and new.get("name", old_name) != old_name


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse the TOML text of the file called `name`.

    Raises:
        ValueError: the text is not TOML; the message says where.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not a TOML file: {error}") from None


def parse_override(text: str) -> dict[str, Any]:
    """Parse a `--set` option, `key.sub=value`, into a tree with that one setting.

    Raises:
        ValueError: the text has another form.
    """
    key, equals, value_text = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise ValueError(f"expected --set key.sub=value, got {text!r}")
    tree = _parse_value(value_text)
    for part in reversed(key.split(".")):
        tree = {part.strip(): tree}
    return dict(tree)


def parse_grid(text: str) -> tuple[str, list[Any]]:
    """Parse a `--grid` option, `key.sub=value,value`, into the key and its values.

    Raises:
        ValueError: the text has another form.
    """
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ValueError(f"expected --grid key.sub=value,value, got {text!r}")
    try:
        return key.strip(), list(tomllib.loads(f"values = [{values}]")["values"])
    except tomllib.TOMLDecodeError:
        return key.strip(), [_parse_value(value.strip()) for value in values.split(",")]


def _parse_value(text: str) -> Any:
    """Parse a TOML value; any other text is a string, as in `--set data.reader=lsp`.

    TOML has no word for a setting that is not set: here, `NULL` is one.
    """
    if text.strip() == NULL:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def list_overrides(prefix: str, wanted: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """The options `--set` that turn the settings `base` of a section into those of `wanted`.

    Args:
        prefix: the section's dotted key.

    Returns:
        Texts that `parse_override` reads.
    """
    texts: list[str] = []
    for key, value in wanted.items():
        dotted, old = f"{prefix}.{key}", base.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            texts += list_overrides(dotted, value, old)
        elif value != old:
            texts.append(f"{dotted}={NULL if value is None else toml(value)}")
    return texts


def toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_key(key)} = {toml(one)}" for key, one in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def toml_key(key: str) -> str:
    """A key as TOML has it: quoted if it has dots or other characters that bare keys lack."""
    is_bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if is_bare else toml(key)
