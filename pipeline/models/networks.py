"""The kinds of networks, distinguished by their settings' `name`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from .settings import HourglassSettings, TimmSettings

DEFAULT_MODEL = "hourglass"

MODELS = (DEFAULT_MODEL, "timm")


def _name(value: Any) -> str:
    """The kind of network that settings describe; the name may be left out for an hourglass."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return DEFAULT_MODEL if name is None else str(name)


AnyModel = Annotated[
    Annotated[HourglassSettings, Tag(DEFAULT_MODEL)] | Annotated[TimmSettings, Tag("timm")],
    Discriminator(_name),
]

_adapter: TypeAdapter[AnyModel] = TypeAdapter(AnyModel)


def parse_model(tree: Any) -> AnyModel:
    """Parse a network's settings, from a record or a recipe.

    Raises:
        ValueError: there is no such network, or a setting is out of range.
    """
    return _adapter.validate_python(tree)
