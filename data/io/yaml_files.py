"""YAML files of unknown origin: plain values up to a size limit, without references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .files import read_bytes

# Parsing takes 10 s a MiB or more. The names of 1000 joints take 25 KB.
MAX_YAML_BYTES = 1 << 16


class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Loads scalars, lists and mappings; references are refused.

    A file of a few lines whose values refer to each other can stand for billions of values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class.

        Raises:
            yaml.YAMLError: the next value is a reference.
        """
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references (*name) are not read")
        return super().compose_node(parent, index)


WRONG_VALUES = (
    ValueError,
    ArithmeticError,
    RecursionError,
    LookupError,
    AttributeError,
    TypeError,
)
"""What PyYAML raises for values that are not of their tag's type."""


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file, None if it is empty.

    Args:
        what: what the file is read as, for messages.

    Raises:
        ValueError: the file cannot be read, is too large, is not YAML, or has references.
    """
    content = read_bytes(path, MAX_YAML_BYTES, what)
    try:
        return yaml.load(content, PlainLoader)  # noqa: S506 (derived from the safe loader)
    except (yaml.YAMLError, *WRONG_VALUES) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be read as {what}: {reason}") from None
