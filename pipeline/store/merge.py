"""Joining stores that were made separately: whole shards are copied and checked by their digests.

All stores must have equal manifests, apart from what was measured. Shards that several stores have
must be equal; this is checked, by their receipts, before anything is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..runtime.diff import differences
from .coverage import MAX_RECEIPT_BYTES, coverage, read_receipt
from .manifest import NOT_COMPARED, Manifest, read_manifest, stored_layout
from .schema import ARRAYS, receipt_name, shard_name
from .storage import Storage
from .writer import digest


class Copy(NamedTuple):
    """A shard to copy, and the store that has it."""

    source: Storage
    view: int
    shard: int


def common_manifest(stores: Sequence[Storage]) -> Manifest:
    """The manifest of several stores together: that of the first one, without what was measured.

    Raises:
        ValueError: one is not a store, or differs from the first; every difference is named.
    """
    manifest = read_manifest(stores[0])
    compared = _without_measurements(manifest)
    for other in stores[1:]:
        different = differences(compared, _without_measurements(read_manifest(other)))
        if different:
            raise ValueError(
                f"{other} cannot be joined with {stores[0]}: {'; '.join(different)}. Only stores "
                "of one teacher, data set and settings can be"
            )
    return {**compared, "versions": manifest.get("versions", {})}


def plan_copies(sources: Sequence[Storage], target: Storage | None) -> list[Copy]:
    """The shards that the target lacks, in order of views, each from the first store that has it.

    Args:
        target: None if there is no store yet.

    Raises:
        ValueError: two stores have different content for the same view and shard.
    """
    owners: dict[tuple[int, int], tuple[Storage, dict[str, Any]]] = {}
    stores = sources if target is None else [target, *sources]
    for storage in stores:
        for receipt in coverage(storage, stored_layout(storage)).receipts:
            task = (receipt["view"], receipt["shard"])
            owner, arrays = owners.setdefault(task, (storage, receipt["arrays"]))
            if arrays != receipt["arrays"]:
                raise ValueError(
                    f"{owner} and {storage} differ in view {task[0]}, shard {task[1]}: one of them "
                    "does not match the teacher's output. Nothing has been copied; find out which "
                    "with `fpd verify-cache -w WORK --deep` in the work directory of each"
                )
    return [
        Copy(owner, *task) for task, (owner, _) in sorted(owners.items()) if owner is not target
    ]


def copy_shard(copy: Copy, target: Storage) -> None:
    """Copy the files of a shard, each checked against its receipt, and then the receipt.

    Raises:
        ValueError: a file is damaged.
        FileNotFoundError: a file was removed after the copies were planned.
    """
    source, view, shard = copy
    content = source.read(receipt_name(view, shard), MAX_RECEIPT_BYTES)
    receipt = read_receipt(source, view, shard)
    if receipt is None:
        raise _damaged(copy, receipt_name(view, shard))
    target.delete(receipt_name(view, shard))  # a half-copied shard must not count as complete
    for array in ARRAYS:
        name = shard_name(array, view, shard)
        expected = receipt["arrays"][array]
        values = source.read(name, limit=expected["bytes"])
        if digest(values) != expected["blake2b"]:
            raise _damaged(copy, name)
        target.write(name, values)
    target.write(receipt_name(view, shard), content)


def _damaged(copy: Copy, name: str) -> ValueError:
    return ValueError(
        f"{copy.source}: {name} (view {copy.view}, shard {copy.shard}) is damaged: repair it with "
        f"`fpd verify-cache -w WORK --deep --repair` in the work directory where it was made, and "
        "run this again"
    )


def _without_measurements(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in NOT_COMPARED}
