"""Joining stores that were made apart: whole shards, copied by the digests that vouch for them.

What decides a shard's content must be equal in all of them. A shard that several have must be the
same everywhere; that is settled, by receipts, before anything is copied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..runtime.diff import differences
from .coverage import MAX_RECEIPT_BYTES, coverage
from .manifest import NOT_COMPARED, Manifest, read_manifest, stored_layout
from .schema import ARRAYS, receipt_name, shard_name
from .storage import Files
from .writer import digest


class Copy(NamedTuple):
    """A shard to be copied, and the store that has it."""

    source: Files
    view: int
    shard: int


def common_manifest(stores: Sequence[Files]) -> Manifest:
    """The manifest of several stores together: the first one's, without what was found out of it.

    Raises:
        ValueError: one is no store, or differs from the first; the message names each difference.
    """
    first = read_manifest(stores[0])
    deciding = _deciding(first)
    for other in stores[1:]:
        different = differences(deciding, _deciding(read_manifest(other)))
        if different:
            raise ValueError(
                f"{other} cannot be joined with {stores[0]}: {'; '.join(different)}. Only stores "
                "of one teacher, data set and settings can be"
            )
    return {**deciding, "versions": first.get("versions", {})}


def plan_copies(sources: Sequence[Files], target: Files | None) -> list[Copy]:
    """The shards that the target lacks, in the order of views, each from the first that has it.

    Args:
        target: None where there is no store yet.

    Raises:
        ValueError: two stores have other content for the same view and shard.
    """
    found: dict[tuple[int, int], tuple[Files, dict[str, Any]]] = {}
    stores = sources if target is None else [target, *sources]
    for files in stores:
        for receipt in coverage(files, stored_layout(files)).receipts:
            task = (receipt["view"], receipt["shard"])
            first, arrays = found.setdefault(task, (files, receipt["arrays"]))
            if arrays != receipt["arrays"]:
                raise ValueError(
                    f"{first} and {files} differ in view {task[0]}, shard {task[1]}: one of them "
                    "is not what the teacher said; `fpd verify-cache` on each tells which, and "
                    "nothing has been copied"
                )
    return [Copy(files, *task) for task, (files, _) in sorted(found.items()) if files is not target]


def copy_shard(copy: Copy, target: Files) -> None:
    """Copy a shard's files, each checked against its receipt, and the receipt last.

    Raises:
        ValueError: a file is damaged, or gone since it was planned.
    """
    source, view, shard = copy
    vouched = source.read(receipt_name(view, shard), MAX_RECEIPT_BYTES)
    arrays = json.loads(vouched)["arrays"]
    target.delete(receipt_name(view, shard))  # it vouches for nothing half-rewritten
    for array in ARRAYS:
        name = shard_name(array, view, shard)
        content = source.read(name)
        if digest(content) != arrays[array].get("blake2b"):
            raise ValueError(
                f"{source}: {name} (view {view}, shard {shard}) is damaged: mend it where it was "
                "made with `fpd verify-cache --deep --repair`, and run this again"
            )
        target.write(name, content)
    target.write(receipt_name(view, shard), vouched)


def _deciding(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in NOT_COMPARED}
