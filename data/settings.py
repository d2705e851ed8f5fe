"""The base class of all settings: typed and immutable, unknown keys are refused."""

from pathlib import PurePath

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of settings; `pipeline/config/recipe.py` combines the sections into a recipe."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


def check_inside(name: str, folder: str) -> str:
    """Check that a name of a file or folder does not lead out of a folder, and return it.

    Args:
        folder: the setting that names the folder, for the message.

    Raises:
        ValueError: it is empty, absolute, or has `..`.
    """
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not name:
        raise ValueError(f"expected a name inside {folder}")
    return name
