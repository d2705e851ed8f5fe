"""The base of every settings model: typed, unknown keys refused, unchangeable once made."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """A group of settings; see `pipeline/recipe.py` for how groups make a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


def added(default: Any, **rest: Any) -> Any:
    """A field that older recipes, runs and stores lack, where its default is what they did.

    It is written down only where it has another value, so that what was made before still compares
    as equal.
    """
    return Field(default, exclude_if=lambda value: value == default, **rest)
