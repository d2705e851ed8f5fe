"""Validation errors of settings, described in one line, by the keys that `--set` takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..models.networks import MODELS
from .overrides import NULL

MAX_SUGGESTED = 3
"""Keys of the same name that are suggested."""

Location = tuple[int | str, ...]
"""Pydantic's path to a value. The kind of network follows `model`: ("teacher", "model", "timm")."""


def describe(error: ValidationError, settings: type[BaseModel], prefix: str = "") -> str:
    """Describe all errors in one line, with a suggestion for each misspelled key.

    Args:
        settings: the class that was validated.
        prefix: of the keys of its settings, such as "students.small."
    """
    texts = []
    for item in error.errors():
        location, message = item["loc"], item["msg"]
        key = prefix + ".".join(_key_parts(location))
        if item["type"] == "extra_forbidden":
            known = _keys_at(settings, location[:-1])
            siblings = [f"{key.rpartition('.')[0]}.{name}".lstrip(".") for name in known]
            hint = did_you_mean(key, siblings) or _elsewhere(location, settings, prefix)
            texts.append(f"{key}: there is no such setting{hint}")
        elif item["type"] == "union_tag_invalid":
            name = item["ctx"]["tag"]
            hint = did_you_mean(name, MODELS)
            texts.append(f"{key}.name: expected {' or '.join(MODELS)}, got {name!r}{hint}")
        elif item["type"] == "value_error":  # of our own validators, which give the value found
            text = message.removeprefix("Value error, ")
            texts.append(f"{key}: {text}" if key else text)
        else:
            got = NULL if item["input"] is None else f"{item['input']!r:.80}"
            texts.append(f"{key}: {message[0].lower()}{message[1:]} (got {got})")
    return "; ".join(texts)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the most similar of the known names: "; did you mean `alpha`?", or ""."""
    # Dotted keys share all but their last part, which alone decides.
    by_last_part = {candidate.rpartition(".")[2]: candidate for candidate in known}
    matches = get_close_matches(name.rpartition(".")[2], by_last_part, n=1)
    return f"; did you mean `{by_last_part[matches[0]]}`?" if matches else ""


def _elsewhere(location: Location, settings: type[BaseModel], prefix: str) -> str:
    """Suggest the keys of this name in other sections: "; did you mean `student.alpha`?", or ""."""
    for index, part in enumerate(location):
        if part in MODELS:
            return _of_another_network(location[:index], location[-1], settings, prefix)
    keys = [key for key in _keys(settings) if key.rpartition(".")[2] == location[-1]]
    listed = " or ".join(f"`{prefix}{key}`" for key in keys[:MAX_SUGGESTED])
    return f"; did you mean {listed}?" if keys else ""


def _of_another_network(
    location: Location, name: int | str, settings: type[BaseModel], prefix: str
) -> str:
    """Name the kind of network that has a setting: "; networks with ... = timm have it", or ""."""
    kinds = [kind for kind in MODELS if name in _keys_at(settings, (*location, kind))]
    model = prefix + ".".join(map(str, location))
    return f"; networks with {model}.name = {kinds[0]} have it" if kinds else ""


def _keys(settings: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all settings in a class and those inside it; not in tables by name."""
    for name, field in settings.model_fields.items():
        yield prefix + name
        if get_origin(field.annotation) is not dict:
            for inner in _classes_in(field.annotation):
                yield from _keys(inner, f"{prefix}{name}.")


def _key_parts(location: Location) -> Iterator[str]:
    """The parts of a setting's dotted key: its location without the kind of network."""
    previous: int | str = ""
    for part in location:
        if not (previous == "model" and part in MODELS):
            yield str(part)
        previous = part


def _keys_at(settings: type[BaseModel], location: Location) -> list[str]:
    """The keys that the settings at a location have."""
    classes = [settings]
    for part in location:
        if part in MODELS:
            names = {c: get_args(c.model_fields["name"].annotation) for c in classes}
            classes = [c for c in classes if part in names[c]]
        else:
            fields = [c.model_fields[part] for c in classes if part in c.model_fields]
            classes = [inner for field in fields for inner in _classes_in(field.annotation)]
    return [key for c in classes for key in c.model_fields]


def _classes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings' classes that an annotation, such as a union of networks, consists of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _classes_in(argument)
