"""Functions of the user's own modules, which a command names as `package.module:function`.

The module is imported, also from the working directory, with the user's rights: call this only with
a name from the command line, or one that the command line allowed (docs/security.md).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def import_function(name: str, option: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        name: "package.module:function".
        option: that names it, for the message.

    Raises:
        ValueError: there is no such function.
    """
    module_name, _, function_name = name.partition(":")
    working_directory = str(Path.cwd())
    sys.path.insert(0, working_directory)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{option} {name}: expected a function {function_name} in a module {module_name} that "
            f"Python finds from {working_directory} ({error})"
        ) from None
    finally:
        sys.path.remove(working_directory)
    if not callable(function):
        raise ValueError(f"{option} {name}: expected a function, found {type(function).__name__}")
    return function  # type: ignore[no-any-return]
