"""The kinds of networks, by their settings' `name`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from .hourglass import HourglassSettings
from .simple_baseline import TimmSettings

DEFAULT_MODEL = "hourglass"


MODELS = (DEFAULT_MODEL, "timm")


def _name(value: Any) -> str:
    """Which network settings are of; recipes of an hourglass need not say so."""
    named = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return DEFAULT_MODEL if named is None else str(named)


AnyModel = Annotated[
    Annotated[HourglassSettings, Tag(DEFAULT_MODEL)] | Annotated[TimmSettings, Tag("timm")],
    Discriminator(_name),
]


_adapter: TypeAdapter[AnyModel] = TypeAdapter(AnyModel)


def parse_model(tree: Any) -> AnyModel:
    """A network's settings, from a record or a recipe.

    Raises:
        ValueError: there is no such network, or a setting of it is out of range.
    """
    return _adapter.validate_python(tree)
