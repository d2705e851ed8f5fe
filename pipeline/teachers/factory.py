"""A teacher of the user's own: `--teacher package.module:factory`.

The module is imported and its factory called, with nothing: both are the user's own code, and run
with the user's rights. Modules of the working directory are found, too.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import cast

from .spec import Teacher, TeacherSpec


def load(name: str) -> Teacher:
    """What a factory returns.

    Args:
        name: "package.module:factory".

    Raises:
        ValueError: there is no such factory, or what it returns is no teacher.
    """
    module_name, _, factory_name = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--teacher {name}: expected a function {factory_name} in a module {module_name} that "
            f"Python finds from {here} ({error})"
        ) from None
    finally:
        sys.path.remove(here)
    return check(factory(), name)


def check(found: object, name: str) -> Teacher:
    """What was returned, if it is a teacher.

    Raises:
        ValueError: it lacks something.
    """
    spec, digest = getattr(found, "spec", None), getattr(found, "digest", None)
    if not isinstance(spec, TeacherSpec) or not isinstance(digest, str) or not callable(found):
        raise ValueError(
            f"--teacher {name}: expected it to return something that can be called, with `spec`, a "
            f"TeacherSpec, and `digest`, a text; found a {type(found).__name__}"
        )
    return cast(Teacher, found)
