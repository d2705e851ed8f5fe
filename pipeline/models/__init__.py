"""The networks. Another one is one file here, with a settings class and an entry in `AnyModel`.

A settings class has `name` (its key in a recipe), `build(num_joints)`, which returns a module that
maps normalised crops, float (B, 3, S, S), to a list of heatmaps, one entry a supervised stage,
`start(num_joints)`, which returns the one that training begins with, `check_crop(crop_px,
stride_px)`, which refuses a geometry that does not fit, and `smallest_batch(crop_px)`, the views
that a training step needs at least. A network's last layers are `score`, a list with a convolution
for each stage: from its bias is read how many joints it has.
"""

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from .hourglass import Hourglass, HourglassSettings
from .simple_baseline import SimpleBaseline, TimmSettings

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


__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "AnyModel",
    "Hourglass",
    "HourglassSettings",
    "SimpleBaseline",
    "TimmSettings",
    "parse_model",
]
