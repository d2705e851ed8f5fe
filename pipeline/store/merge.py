"""Joining stores that were made separately: whole shards are copied and checked by their digests.

All stores must have equal manifests, apart from what was measured. Shards that several stores have
must be equal; this is checked, by their receipts, before anything is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..runtime.diff import differences
from .coverage import MAX_RECEIPT_BYTES, coverage, read_receipt
from .manifest import (
    NOT_COMPARED,
    RECIPE,
    STORED_SPLITS,
    Manifest,
    is_portable,
    read_manifest,
    stored_layout,
    write_manifest,
)
from .schema import Layout, receipt_name, shard_name
from .splits import create_split, stored_parts
from .storage import Storage, StoragePart
from .writer import digest


class Copy(NamedTuple):
    """A shard to copy, and the store that has it."""

    source: Storage
    view: int
    shard: int
    layout: Layout


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
    return {
        **compared,
        **({STORED_SPLITS: _common_splits(stores)} if is_portable(manifest) else {}),
        **({RECIPE: manifest[RECIPE]} if RECIPE in manifest else {}),
        "versions": manifest.get("versions", {}),
    }


def _common_splits(stores: Sequence[Storage]) -> dict[str, Any]:
    """The splits that any of several portable stores has.

    Raises:
        ValueError: two stores have a split with different samples.
    """
    splits: dict[str, tuple[Storage, Any]] = {}
    for store in stores:
        for name, fingerprint in read_manifest(store)[STORED_SPLITS].items():
            owner, known = splits.setdefault(name, (store, fingerprint))
            if known != fingerprint:
                raise ValueError(
                    f"{store} cannot be joined with {owner}: their {name} samples differ"
                )
    return {name: fingerprint for name, (_, fingerprint) in splits.items()}


def plan_copies(sources: Sequence[Storage], target: Storage | None) -> list[Copy]:
    """The shards that the target lacks, in order of views, each from the first store that has it.

    Those of heatmaps come first, then those of the splits' samples.

    Args:
        target: None if there is no store yet.

    Raises:
        ValueError: two stores have different content for the same shard.
    """
    stores = sources if target is None else [target, *sources]
    parts: dict[str, list[tuple[Storage, Layout]]] = {"": [(s, stored_layout(s)) for s in stores]}
    for store in stores:
        for part, layout in stored_parts(store, read_manifest(store)):
            if part.exists():
                parts.setdefault(part.folder, []).append((part, layout))
    copies = [copy for stored in parts.values() for copy in _plan_part(stored)]
    return [copy for copy in copies if _whole(copy.source) is not target]


def _whole(storage: Storage) -> Storage:
    """The store that a group of samples belongs to; a whole store itself."""
    return storage.whole if isinstance(storage, StoragePart) else storage


def _plan_part(stores: Sequence[tuple[Storage, Layout]]) -> list[Copy]:
    """Each shard, from the first store that has it."""
    owners: dict[tuple[int, int], tuple[Copy, dict[str, Any]]] = {}
    for storage, layout in stores:
        for receipt in coverage(storage, layout).receipts:
            task = (receipt["view"], receipt["shard"])
            copy, arrays = owners.setdefault(
                task, (Copy(storage, *task, layout), receipt["arrays"])
            )
            if arrays != receipt["arrays"]:
                raise ValueError(
                    f"{copy.source} and {storage} differ in view {task[0]}, shard {task[1]}: one "
                    "of them does not match the teacher's output. Nothing has been copied; find "
                    "out which with `fpd verify-cache -w WORK --deep` in the work directory of each"
                )
    return [copy for _, (copy, _) in sorted(owners.items())]


def merge_splits(target: Storage, manifest: Manifest, work: object) -> None:
    """Create the groups of samples that a target store lacks.

    Args:
        manifest: of all stores together (`common_manifest`).
        work: what follows `-w` in the commands that messages name.
    """
    stored = read_manifest(target, work)
    if is_portable(manifest) and stored[STORED_SPLITS] != manifest[STORED_SPLITS]:
        write_manifest(target, stored | {STORED_SPLITS: manifest[STORED_SPLITS]})
    for part, layout in stored_parts(target, manifest):
        create_split(part, layout, work)


def copy_shard(copy: Copy, target: Storage) -> None:
    """Copy the files of a shard, each checked against its receipt, and then the receipt.

    Args:
        target: the whole store; a shard of a split's samples goes into the split's group.

    Raises:
        ValueError: a file is damaged.
        FileNotFoundError: a file was removed after the copies were planned.
    """
    source, view, shard, layout = copy
    if isinstance(source, StoragePart):
        target = StoragePart(target, source.folder)
    receipt_file = receipt_name(view, shard, layout.receipts)
    content = source.read(receipt_file, MAX_RECEIPT_BYTES)
    receipt = read_receipt(source, view, shard, layout)
    if receipt is None:
        raise _damaged(copy, receipt_file)
    target.delete(receipt_file)  # a half-copied shard must not count as complete
    for array in layout.arrays:
        name = shard_name(array, view, shard)
        expected = receipt["arrays"][array]
        values = source.read(name, limit=expected["bytes"])
        if digest(values) != expected["blake2b"]:
            raise _damaged(copy, name)
        target.write(name, values)
    target.write(receipt_file, content)


def _damaged(copy: Copy, name: str) -> ValueError:
    return ValueError(
        f"{copy.source}: {name} (view {copy.view}, shard {copy.shard}) is damaged: repair it with "
        f"`fpd verify-cache -w WORK --deep --repair` in the work directory where it was made, and "
        "run this again"
    )


def _without_measurements(manifest: Manifest) -> Manifest:
    return {key: value for key, value in manifest.items() if key not in NOT_COMPARED}
