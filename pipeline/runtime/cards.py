"""What model cards and data cards share: Markdown and YAML of text of unknown origin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .text import printable

MAX_TEXT = 200
"""Characters of a text of unknown origin that are shown."""

UNKNOWN_LICENSE = "other"

_LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]{1,63}")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|~$&!]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What Markdown gives a meaning, and what GitHub and the hub make a link of."""


def escape(value: Any) -> str:
    """A text of unknown origin as Markdown that shows it, on one line."""
    return _MARKDOWN.sub(r"\\\1", printable(str(value)[:MAX_TEXT]))


def quote(text: str) -> str:
    """A text of unknown origin as a string of JSON, which YAML reads as well."""
    return json.dumps(printable(text[:MAX_TEXT]), ensure_ascii=False)


def table(rows: list[list[str]]) -> str:
    """A table in Markdown; the first row is its header. The cells are Markdown."""
    header, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others])


def license_fields(license_name: str | None) -> dict[str, str]:
    """The license in Hugging Face's metadata: YAML by key.

    Args:
        license_name: an identifier such as `CC-BY-4.0`, or the name of another license; None: it
            is unknown.
    """
    license_id = (license_name or UNKNOWN_LICENSE).lower()
    if _LICENSE_ID.fullmatch(license_id):
        return {"license": license_id}
    return {"license": UNKNOWN_LICENSE, "license_name": quote(str(license_name))}


def describe_settings(values: Any) -> str:
    """Settings as `name value`, in order of their names."""
    if not isinstance(values, Mapping):
        return "unknown settings"
    shown = {k: v for k, v in sorted(values.items()) if not isinstance(v, Mapping)}
    return ", ".join(f"{escape(key)} {escape(value)}" for key, value in shown.items())


def describe_teacher(entry: Any) -> str:
    """A teacher, as a store's manifest and a student's record describe it."""
    if not isinstance(entry, Mapping):
        return "unknown"
    parts = entry.get("teachers")
    if isinstance(parts, list):
        kinds = [part for part in parts if isinstance(part, Mapping)]
        return "; ".join(
            f"{escape(part.get('kind'))} (SHA-256 {escape(part.get('sha256'))})" for part in kinds
        )
    model = entry.get("model")
    settings = dict(model) if isinstance(model, Mapping) else {}
    return (
        f"{escape(settings.pop('name', 'network'))} ({describe_settings(settings)}), trained with "
        f"fpd (SHA-256 of its weights: {escape(entry.get('sha256'))})"
    )
