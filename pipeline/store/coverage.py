"""Which shards of a store are there. Files and their receipts say so, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .files import Files
from .schema import ARRAYS, RECEIPTS, Layout, receipt_name, shard_name, view_folder

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

    @property
    def whole_views(self) -> int:
        """View numbers from 0 on that have every shard."""
        return min((view for view, _ in self.missing), default=self.layout.views)

    def bytes(self) -> int:
        """Size of the complete shards' files."""
        return sum(receipt["arrays"][name]["bytes"] for receipt in self.receipts for name in ARRAYS)

    def samples(self) -> int:
        """Views of single samples in the complete shards."""
        return sum(receipt["samples"] for receipt in self.receipts)

    def measured(self) -> dict[str, float]:
        """The error over all complete shards, as measured while they were written."""
        samples = self.samples() or 1
        errors = [(receipt["samples"] / samples, receipt["measured"]) for receipt in self.receipts]
        return {
            key: max((e[key] for _, e in errors), default=0.0)
            if key.startswith("max")
            else sum(share * e[key] for share, e in errors)
            for key in (errors[0][1] if errors else {})
        }


def coverage(files: Files, layout: Layout, views: Iterable[int] | None = None) -> Coverage:
    """Look at every shard's receipt and files (their sizes, not their contents).

    Args:
        views: the view numbers to look at; none given: all.
    """
    missing, receipts = [], []
    for view in range(layout.views) if views is None else views:
        for shard, receipt in enumerate(_receipts(files, view, layout)):
            if receipt is None:
                missing.append((view, shard))
            else:
                receipts.append(receipt)
    return Coverage(layout, missing, receipts)


def check_complete(files: Files, layout: Layout, work: Any) -> Coverage:
    """Refuse a store with gaps.

    Raises:
        ValueError: saying how much is there and which command adds the rest.
    """
    found = coverage(files, layout)
    if found.missing:
        whole = found.whole_views
        train = f", or train on the whole ones with `--set store.views={whole}`" if whole else ""
        raise ValueError(
            f"{files} is incomplete: {len(found.receipts)} of {found.total} shards are there, "
            f"the first {whole} of {layout.views} views are whole; finish it with "
            f"`fpd cache-heatmaps -w {work}`{train}"
        )
    return found


def read_receipt(files: Files, view: int, shard: int) -> Receipt | None:
    """The receipt of one shard, if it is there and is one."""
    try:
        receipt: Receipt = json.loads(files.read(receipt_name(view, shard), MAX_RECEIPT_BYTES))
        whole = all(isinstance(receipt["arrays"][name]["bytes"], int) for name in ARRAYS)
        of_this = (receipt["view"], receipt["shard"]) == (view, shard)
        measured = receipt["samples"] > 0 and isinstance(receipt["measured"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return receipt if whole and of_this and measured else None


def _receipts(files: Files, view: int, layout: Layout) -> Iterator[Receipt | None]:
    """The receipt of each shard of a view, None where the shard does not count."""
    # One listing a folder, not one question a file: object stores answer 1,000 names at a time.
    vouched = files.sizes(f"{RECEIPTS}/{view}")
    sizes = {name: files.sizes(view_folder(name, view)) for name in ARRAYS}
    for shard in range(layout.shards):
        receipt = read_receipt(files, view, shard) if f"{shard}.json" in vouched else None
        if receipt is None or receipt["samples"] != len(layout.rows(shard)):
            yield None
            continue
        keys = {
            name: shard_name(name, view, shard).removeprefix(view_folder(name, view) + "/")
            for name in ARRAYS
        }
        there = all(
            sizes[name].get(keys[name]) == receipt["arrays"][name]["bytes"] for name in ARRAYS
        )
        yield receipt if there else None
