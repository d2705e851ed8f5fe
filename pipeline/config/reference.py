"""Every setting with its type, range, default and description, as text: read from the classes.

Type and default are as TOML has them; values in a type are between backticks.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .overrides import toml
from .recipe import Recipe, recipe_text

UNSET = "not set"
REQUIRED = "required"
PLAIN_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "path"}
BOUNDS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: as `--set` takes it.
        kind: type and range.
        default: as TOML, or `UNSET` or `REQUIRED`.
        is_network: it is a table, whose keys depend on its `name` (`Networks`).
    """

    key: str
    kind: str
    default: str
    description: str
    is_network: bool = False


@dataclass(frozen=True)
class Section:
    """A table of the recipe; `summary` is empty for one of free form."""

    key: str
    summary: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Networks:
    """The kinds of networks that some settings choose from, by `name`; a section each."""

    keys: tuple[str, ...]
    kinds: dict[str, Section]


def sections() -> list[Section]:
    """All sections of the recipe, each before those inside it."""
    return [
        section for key, field in Recipe.model_fields.items() for section in _sections(key, field)
    ]


def networks() -> Networks:
    """The networks, and the settings that choose one."""
    keys = [s.key for section in sections() for s in section.settings if s.is_network]
    (kinds,) = {
        found
        for section in (Recipe.model_fields[key.split(".")[0]] for key in keys)
        for found in map(_models_in, _annotations(section))
        if len(found) > 1
    }
    return Networks(tuple(keys), {_name_of(kind): _network(kind) for kind in kinds})


def about(name: str) -> str:
    """The first paragraph of the comment that a shipped recipe begins with."""
    lines = []
    for line in recipe_text(name).splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    return " ".join(lines).rstrip(":")


def _sections(key: str, field: FieldInfo) -> Iterator[Section]:
    default = field.get_default(call_default_factory=True)
    models = _models_in(field.annotation)
    if not models:  # a table of free form, such as `students`
        yield Section(key, "", (_setting(key, field, default),))
        return
    (model,) = models
    if get_origin(field.annotation) is dict:
        key, default = f"{key}.NAME", model()
    settings: list[Setting] = []
    inner: list[Section] = []
    for name, below in model.model_fields.items():
        value = getattr(default, name)
        if len(_models_in(below.annotation)) == 1:
            section = FieldInfo(annotation=below.annotation, default=value)
            inner += _sections(f"{key}.{name}", section)
        else:
            settings.append(_setting(f"{key}.{name}", below, value))
    yield Section(key, _summary(model), tuple(settings))
    yield from inner


def _annotations(field: FieldInfo) -> Iterator[Any]:
    for model in _models_in(field.annotation):
        yield from (below.annotation for below in model.model_fields.values())


def _network(kind: type[BaseModel]) -> Section:
    settings = tuple(
        _setting(key, field, field.get_default())
        for key, field in kind.model_fields.items()
        if key != "name"
    )
    return Section(f"name = {toml(_name_of(kind))}", _summary(kind), settings)


def _name_of(kind: type[BaseModel]) -> str:
    return str(get_args(kind.model_fields["name"].annotation)[0])


def _setting(key: str, field: FieldInfo, default: Any) -> Setting:
    setting = Setting(
        key=key,
        kind=", ".join(filter(None, [_type_text(field.annotation), _bounds_text(field.metadata)])),
        default=_default_text(default),
        description=" ".join((field.description or "").split()),
    )
    if len(_models_in(field.annotation)) < 2:
        return setting
    table = {"name": default.name, **default.model_dump(exclude_unset=True)}
    return replace(setting, kind="table", default=toml(table), is_network=True)


def _default_text(default: Any) -> str:
    if default is PydanticUndefined:
        return REQUIRED
    return UNSET if default is None else toml(default)


def _models_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The settings' classes that an annotation mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for inner in get_args(annotation) for model in _models_in(inner))


def _type_text(annotation: Any) -> str:
    """A type as users of TOML know it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in PLAIN_TYPES:
        return PLAIN_TYPES[annotation]
    if origin is Annotated:
        metadata = [m for extra in inner[1:] for m in getattr(extra, "metadata", [extra])]
        return ", ".join(filter(None, [_type_text(inner[0]), _bounds_text(metadata)]))
    if origin is Literal:
        return ", ".join(f"`{toml(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_text(one) for one in inner if one is not type(None))
    if origin is tuple and inner[-1] is not Ellipsis:
        return "[" + ", ".join(_type_text(one) for one in inner) + "]"
    if origin in (tuple, list):
        return f"list of {_type_text(inner[0])}"
    return "table" if origin is dict else "any"


def _bounds_text(metadata: list[Any]) -> str:
    limits = [
        f"{sign} {_limit_text(getattr(item, name))}"
        for item in metadata
        for kind, name, sign in BOUNDS
        if isinstance(item, kind)
    ]
    return ", ".join([*limits, *("not empty" for item in metadata if isinstance(item, MinLen))])


def _limit_text(limit: float) -> str:
    power = int(limit).bit_length() - 1
    return f"2^{power}" if power >= 31 and limit == 2**power else f"{limit:,}"


def _summary(model: type[BaseModel]) -> str:
    """The first paragraph of a class's docstring."""
    return " ".join(inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].split())
