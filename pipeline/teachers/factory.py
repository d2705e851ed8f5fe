"""A teacher from the user's own code: `--teacher package.module:factory`.

The module is imported, also from the working directory, and its factory is called without
arguments. Both run with the user's rights.
"""

from __future__ import annotations

from typing import cast

from pydantic import ValidationError
from torch import nn

from ..runtime.user_code import describe, import_function
from .spec import Teacher, TeacherSpec, explain


def load(name: str) -> Teacher:
    """Import a factory and call it.

    Args:
        name: "package.module:factory".

    Raises:
        ValueError: there is no such factory, it fails, or it does not return a teacher.
    """
    factory = import_function(name, "--teacher")
    try:
        value = factory()
    except ValidationError as error:  # of a TeacherSpec, mostly
        raise ValueError(f"--teacher {name}: {error.title}: {explain(error)}") from error
    except Exception as error:  # of any kind: code of the user's
        reason = describe(error, name.partition(":")[0])
        raise ValueError(
            f"--teacher {name}: expected it to return a teacher, found {reason}"
        ) from error
    return check(value, name)


def check(value: object, name: str) -> Teacher:
    """Return what a factory returned, if it is a teacher.

    A network in training mode is put into evaluation mode: its batch normalization would otherwise
    make the heatmaps of a view depend on the other views of its batch.

    Raises:
        ValueError: it is not callable, or has no `spec` or no `digest`.
    """
    spec, digest = getattr(value, "spec", None), getattr(value, "digest", None)
    if not isinstance(spec, TeacherSpec) or not isinstance(digest, str) or not callable(value):
        raise ValueError(
            f"--teacher {name}: expected it to return a callable with `spec`, a TeacherSpec, and "
            f"`digest`, a string; found a value of type {type(value).__name__}, whose `spec` is of "
            f"type {type(spec).__name__} and whose `digest` is of type {type(digest).__name__}"
        )
    if isinstance(value, nn.Module):
        value.eval()
    return cast(Teacher, value)
