"""Functions of the user's own modules, which a command names as `package.module:function`.

The module is imported, also from the working directory, with the user's rights: call this only with
a name from the command line, or one that the command line allowed (docs/security.md).
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def import_function(name: str, option: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        name: "package.module:function".
        option: that names it, for the message.

    Raises:
        ValueError: there is no such function, or the module fails while it is imported.
    """
    module_name, _, function_name = name.partition(":")
    working_directory = str(Path.cwd())
    sys.path.insert(0, working_directory)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{option} {name}: expected a function {function_name} in a module {module_name} that "
            f"Python finds from {working_directory} ({error}){_hint(module_name, function_name)}"
        ) from None
    except Exception as error:  # of any kind: code of the user's
        raise ValueError(
            f"{option} {name}: expected a module {module_name} that can be imported, found "
            f"{describe(error, module_name)}"
        ) from error
    finally:
        sys.path.remove(working_directory)
    if not callable(function):
        raise ValueError(f"{option} {name}: expected a function, found {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def describe(error: Exception, module_name: str) -> str:
    """An error that a module of the user's raised, with the last line of it that was run."""
    text = f"{type(error).__name__}: {error}"
    path = getattr(sys.modules.get(module_name), "__file__", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f"{text} ({path}, line {lines[-1]})" if lines else text


def _hint(module_name: str, function_name: str) -> str:
    if not module_name.endswith(".py"):
        return ""
    return f": write {module_name.removesuffix('.py')}:{function_name}, without .py"
