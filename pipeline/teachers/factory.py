"""A teacher from the user's own code: `--teacher package.module:factory`.

The module is imported, also from the working directory, and its factory is called without
arguments. Both run with the user's rights.
"""

from __future__ import annotations

from typing import cast

from ..runtime.user_code import import_function
from .spec import Teacher, TeacherSpec


def load(name: str) -> Teacher:
    """Import a factory and call it.

    Args:
        name: "package.module:factory".

    Raises:
        ValueError: there is no such factory, or it does not return a teacher.
    """
    return check(import_function(name, "--teacher")(), name)


def check(value: object, name: str) -> Teacher:
    """Return what a factory returned, if it is a teacher.

    Raises:
        ValueError: it is not callable, or has no `spec` or no `digest`.
    """
    spec, digest = getattr(value, "spec", None), getattr(value, "digest", None)
    if not isinstance(spec, TeacherSpec) or not isinstance(digest, str) or not callable(value):
        raise ValueError(
            f"--teacher {name}: expected it to return a callable with `spec`, a TeacherSpec, and "
            f"`digest`, a string; found a value of type {type(value).__name__}"
        )
    return cast(Teacher, value)
