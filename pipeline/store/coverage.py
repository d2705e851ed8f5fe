"""Which shards of a store are complete, according to files and receipts and nothing else.

Reading every receipt takes longer the larger the store is. Therefore a writer that has found all
shards complete leaves an *audit* in the manifest, and readers of an audited store check only some
shards. A shard that was lost after the audit is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .manifest import AUDIT, Manifest, read_manifest
from .schema import ARRAYS, RECEIPTS, Layout, receipt_name, shard_name, view_folder
from .storage import Storage

MAX_RECEIPT_BYTES = 1 << 16

SEAL = b'"seal": "%s"'
UNSEALED = SEAL % (b"0" * 32)

SHARDS_CHECKED = 64
"""Shards of an audited store that are checked before training. Takes about 0.1 s, and detects a
store that was copied in part."""

Receipt = dict[str, Any]

_DIGEST = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Coverage:
    """Which shards of a layout are complete.

    Attributes:
        missing: (view, shard) of those that are absent, half-written or of a wrong size, in order.
        receipts: of the complete shards.
    """

    layout: Layout
    missing: list[tuple[int, int]]
    receipts: list[Receipt]

    @property
    def total(self) -> int:
        return self.layout.views * self.layout.shards

    @property
    def complete_views(self) -> int:
        """Number of consecutive views, starting with view 0, that have every shard."""
        return min((view for view, _ in self.missing), default=self.layout.views)

    def within(self, layout: Layout) -> Coverage:
        """The part that belongs to a layout of fewer views or samples."""
        return Coverage(
            layout,
            [task for task in self.missing if _is_within(layout, *task)],
            [r for r in self.receipts if _is_within(layout, r["view"], r["shard"])],
        )

    def bytes(self) -> int:
        """Size of the complete shards' files."""
        return sum(receipt["arrays"][name]["bytes"] for receipt in self.receipts for name in ARRAYS)

    def samples(self) -> int:
        """Number of stored views of single samples in the complete shards."""
        return sum(receipt["samples"] for receipt in self.receipts)

    def encoding_error(self) -> dict[str, float]:
        """The errors of all complete shards, as measured during writing: maxima and means."""
        samples = self.samples() or 1
        errors = [
            (receipt["samples"] / samples, receipt["encoding_error"]) for receipt in self.receipts
        ]
        return {
            key: max((e[key] for _, e in errors), default=0.0)
            if key.startswith("max")
            else sum(share * e[key] for share, e in errors)
            for key in (errors[0][1] if errors else {})
            if all(key in e for _, e in errors)
        }


def _is_within(layout: Layout, view: int, shard: int) -> bool:
    return view < layout.views and shard < layout.shards


def coverage(storage: Storage, layout: Layout, views: Iterable[int] | None = None) -> Coverage:
    """Check the receipt and file sizes of every shard. File contents are not read.

    Args:
        views: view numbers to check; None: all.
    """
    missing, receipts = [], []
    begun = storage.names(RECEIPTS)  # metadata may state any number of views
    for view in range(layout.views) if views is None else views:
        if str(view) not in begun:
            missing += [(view, shard) for shard in range(layout.shards)]
            continue
        for shard, receipt in enumerate(_complete_receipts(storage, view, layout)):
            if receipt is None:
                missing.append((view, shard))
            else:
                receipts.append(receipt)
    return Coverage(layout, missing, receipts)


def audit_of(complete: Coverage) -> dict[str, int]:
    """The audit of a store without missing shards."""
    layout = complete.layout
    return {
        "views": layout.views,
        "samples": layout.samples,
        "shards": complete.total,
        "bytes": complete.bytes(),
    }


def audited(manifest: Manifest, layout: Layout) -> bool:
    """Whether every shard of a layout was complete at the last audit."""
    audit: Any = manifest.get(AUDIT)
    try:
        counts = [audit[key] for key in ("views", "samples", "shards", "bytes")]
        return (
            all(map(_is_count, counts))
            and counts[0] >= layout.views
            and counts[1] >= layout.samples
        )
    except (KeyError, TypeError):
        return False


def shard_bytes(storage: Storage, layout: Layout) -> int:
    """Size of the complete shards' files. Taken from the audit if it is of exactly this layout."""
    manifest = read_manifest(storage)
    if audited(manifest, layout) and manifest[AUDIT].get("shards") == layout.views * layout.shards:
        audited_bytes: int = manifest[AUDIT]["bytes"]
        return audited_bytes
    return coverage(storage, layout).bytes()


def check_complete(storage: Storage, layout: Layout, work: object) -> None:
    """Refuse a store with missing shards. In an audited store, checks only `SHARDS_CHECKED`.

    Args:
        work: what follows `-w` in the command that messages name.

    Raises:
        ValueError: stating how many shards exist and which command adds the rest.
    """
    if audited(read_manifest(storage, work), layout) and _some_are_complete(storage, layout):
        return
    present = coverage(storage, layout)
    if present.missing:
        views = present.complete_views
        train = f", or train on complete views with `--set store.views={views}`" if views else ""
        raise ValueError(
            f"{storage} is incomplete: {len(present.receipts)} of {present.total} shards exist, "
            f"the first {views} of {layout.views} views are complete; finish it with "
            f"`fpd cache-heatmaps -w {work}`{train}"
        )


def _some_are_complete(storage: Storage, layout: Layout) -> bool:
    """Whether shards spread evenly over views and samples, including the first, are complete."""
    total = layout.views * layout.shards
    if total <= SHARDS_CHECKED:
        return False  # checking all of them takes fewer requests
    return all(
        complete_receipt(storage, layout, *divmod(total * i // SHARDS_CHECKED, layout.shards))
        for i in range(SHARDS_CHECKED)
    )


def complete_receipt(storage: Storage, layout: Layout, view: int, shard: int) -> Receipt | None:
    """The receipt of a shard; None if the shard is not complete."""
    sizes = {
        name: _full_name_sizes(storage, f"{view_folder(name, view)}/{shard}") for name in ARRAYS
    }
    receipt = read_receipt(storage, view, shard)
    return receipt if _is_complete(receipt, layout, view, shard, sizes) else None


def read_receipt(storage: Storage, view: int, shard: int) -> Receipt | None:
    """The receipt of a shard, whose files are not checked; None if it is missing or damaged."""
    try:
        content = storage.read(receipt_name(view, shard), MAX_RECEIPT_BYTES)
        receipt: Receipt = json.loads(content)
        unchanged = content == _with_seal(
            content.replace(SEAL % receipt["seal"].encode(), UNSEALED)
        )
        is_valid = _is_valid(receipt, view, shard)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return receipt if unchanged and is_valid else None


def _is_valid(receipt: Receipt, view: int, shard: int) -> bool:
    """Whether a receipt is of this shard, and all that is read from it has the right type."""
    files = [receipt["arrays"][name] for name in ARRAYS]
    canaries = receipt["canaries"]
    return (
        (receipt["view"], receipt["shard"]) == (view, shard)
        and _is_count(receipt["samples"], 1)
        and all(_is_count(file["bytes"]) and _DIGEST.fullmatch(file["blake2b"]) for file in files)
        and isinstance(receipt["encoding_error"], dict)
        and all(_is_finite(value) for value in receipt["encoding_error"].values())
        and isinstance(canaries, list)
        and all(
            isinstance(canary, dict) and _is_count(canary["row"], below=receipt["samples"])
            for canary in canaries
        )
    )


def _is_count(value: Any, least: int = 0, below: float = math.inf) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and least <= value < below


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < math.inf


def sealed(receipt: Receipt) -> bytes:
    """The file content of a receipt, with an entry "seal" added that protects all of its bytes.

    The seal is the hexadecimal BLAKE2b-128 digest of the file with 32 zeros in place of the seal.
    """
    text = json.dumps(receipt | {"seal": "0" * 32}, indent=2, sort_keys=True) + "\n"
    return _with_seal(text.encode())


def _with_seal(unsealed: bytes) -> bytes:
    seal = hashlib.blake2b(unsealed, digest_size=16).hexdigest()
    return unsealed.replace(UNSEALED, SEAL % seal.encode())


def _complete_receipts(storage: Storage, view: int, layout: Layout) -> Iterator[Receipt | None]:
    """The receipt of each shard of a view, None for shards that are not complete."""
    # One listing per folder instead of one request per file: object stores list 1,000 names at a
    # time.
    receipt_sizes = storage.sizes(f"{RECEIPTS}/{view}")
    sizes = {name: _full_name_sizes(storage, view_folder(name, view)) for name in ARRAYS}
    for shard in range(layout.shards):
        exists = f"{shard}.json" in receipt_sizes
        receipt = read_receipt(storage, view, shard) if exists else None
        yield receipt if _is_complete(receipt, layout, view, shard, sizes) else None


def _full_name_sizes(storage: Storage, folder: str) -> dict[str, int]:
    """Size of every object below a folder, by its full name."""
    return {f"{folder}/{name}": size for name, size in storage.sizes(folder).items()}


def _is_complete(
    receipt: Receipt | None,
    layout: Layout,
    view: int,
    shard: int,
    sizes: dict[str, dict[str, int]],
) -> bool:
    """Whether a shard has the right number of samples and files of the sizes in its receipt.

    Args:
        sizes: of the objects of each array, by full name.
    """
    if receipt is None or receipt["samples"] != len(layout.rows(shard)):
        return False
    return all(
        by_name.get(shard_name(array, view, shard)) == receipt["arrays"][array]["bytes"]
        for array, by_name in sizes.items()
    )
