"""The base class of all settings: typed and immutable, unknown keys are refused."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of settings; `pipeline/config/recipe.py` combines the sections into a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
