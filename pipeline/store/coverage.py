"""Which shards of a store are there. Files and their receipts say so, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .schema import ARRAYS, Layout, receipt_path, shard_path

MAX_RECEIPT_BYTES = 1 << 16

Receipt = dict[str, Any]


@dataclass(frozen=True)
class Coverage:
    """What is there of the shards that a layout calls for.

    Attributes:
        missing: (view, shard) of those absent, half-written or damaged in size, in order.
        receipts: of those that are there.
    """

    layout: Layout
    missing: list[tuple[int, int]]
    receipts: list[Receipt]

    @property
    def total(self) -> int:
        return self.layout.views * self.layout.shards

    def bytes(self) -> int:
        """Size of the complete shards' files."""
        return sum(receipt["arrays"][name]["bytes"] for receipt in self.receipts for name in ARRAYS)

    def measured(self) -> dict[str, float]:
        """The error over all complete shards, as measured while they were written."""
        samples = sum(receipt["samples"] for receipt in self.receipts) or 1
        errors = [(receipt["samples"] / samples, receipt["measured"]) for receipt in self.receipts]
        return {
            key: max((e[key] for _, e in errors), default=0.0)
            if key.startswith("max")
            else sum(share * e[key] for share, e in errors)
            for key in (errors[0][1] if errors else {})
        }


def coverage(path: Path, layout: Layout) -> Coverage:
    """Look at every shard's receipt and files (their sizes, not their contents)."""
    missing, receipts = [], []
    for view in range(layout.views):
        for shard in range(layout.shards):
            receipt = _valid_receipt(path, view, shard)
            if receipt is None:
                missing.append((view, shard))
            else:
                receipts.append(receipt)
    return Coverage(layout, missing, receipts)


def check_complete(path: Path, layout: Layout, work: Path) -> Coverage:
    """Refuse a store with gaps.

    Raises:
        ValueError: saying how much is there and which command adds the rest.
    """
    found = coverage(path, layout)
    if found.missing:
        views = len({view for view, _ in found.missing})
        raise ValueError(
            f"{path} is incomplete: {len(found.receipts)} of {found.total} shards are there, "
            f"{layout.views - views} of {layout.views} views are whole; finish it with "
            f"`fpd cache-heatmaps -w {work}`"
        )
    return found


def _valid_receipt(path: Path, view: int, shard: int) -> Receipt | None:
    file = receipt_path(path, view, shard)
    try:
        if file.stat().st_size > MAX_RECEIPT_BYTES:
            return None
        receipt: Receipt = json.loads(file.read_text("utf-8"))
        sizes = {name: shard_path(path, name, view, shard).stat().st_size for name in ARRAYS}
        whole = all(receipt["arrays"][name]["bytes"] == sizes[name] for name in ARRAYS)
        of_this = (receipt["view"], receipt["shard"]) == (view, shard)
        measured = receipt["samples"] > 0 and isinstance(receipt["measured"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return receipt if whole and of_this and measured else None
