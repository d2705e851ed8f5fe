"""The base of every settings model: typed, unknown keys refused, unchangeable once made."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings; see `pipeline/recipe.py` for how groups make a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
