"""The base of every settings model: typed, unknown keys refused, immutable."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings; `pipeline/config/recipe.py` puts groups together into a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
