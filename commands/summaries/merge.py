"""The text that `fpd merge-caches` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...pipeline.runtime.text import format_bytes, pluralize


def describe(report: dict[str, Any], work: Path) -> str:
    """How many shards were copied and are present, and what to do if some are missing.

    Args:
        report: what `stages.merge.run` returns.
        work: the work directory, for the command in the text.
    """
    lines = [
        f"merged: {pluralize(report['copied'], 'shard')} copied, {report['present']} of "
        f"{report['shards']} are present, {format_bytes(report['bytes'])} in {report['location']}"
    ]
    if report["present"] < report["shards"]:
        lines.append(f"`fpd inspect-cache -w {work}` lists the missing shards")
    return "\n".join(lines)
