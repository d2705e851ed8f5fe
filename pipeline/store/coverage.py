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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .manifest import AUDIT, Manifest, read_manifest
from .schema import ARRAYS, RECEIPTS, Layout, receipt_name, shard_name, view_folder
from .storage import Storage

MAX_RECEIPT_BYTES = 1 << 16

SEAL = b'"seal": "%s"'
UNSEALED = SEAL % (b"0" * 32)

RECEIPTS_AT_ONCE = 1024
"""Receipts that are read before the first of them is checked: some megabytes."""

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
        return sum(
            receipt["arrays"][name]["bytes"]
            for receipt in self.receipts
            for name in self.layout.arrays
        )

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
    begun = storage.names(layout.receipts)  # metadata may state any number of views
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
    tasks = [divmod(total * i // SHARDS_CHECKED, layout.shards) for i in range(SHARDS_CHECKED)]
    return all(_complete_receipts_of(storage, layout, tasks))


def complete_receipt(storage: Storage, layout: Layout, view: int, shard: int) -> Receipt | None:
    """The receipt of a shard; None if the shard is not complete."""
    return _complete_receipts_of(storage, layout, [(view, shard)])[0]


def _complete_receipts_of(
    storage: Storage, layout: Layout, tasks: Sequence[tuple[int, int]]
) -> list[Receipt | None]:
    """The receipt of each of some shards, given as (view, shard); None for incomplete ones."""
    names = [shard_name(array, *task) for task in tasks for array in layout.arrays]
    sizes = storage.object_sizes(names)
    receipts = read_receipts(storage, tasks, layout)
    return [
        receipt if _is_complete(receipt, layout, *task, sizes) else None
        for task, receipt in zip(tasks, receipts, strict=True)
    ]


def read_receipt(
    storage: Storage, view: int, shard: int, layout: Layout | None = None
) -> Receipt | None:
    """The receipt of a shard, whose files are not checked; None if it is missing or damaged.

    Args:
        layout: whose arrays the receipt must list; None: those that every store has.
    """
    return read_receipts(storage, [(view, shard)], layout)[0]


def read_receipts(
    storage: Storage, tasks: Sequence[tuple[int, int]], layout: Layout | None = None
) -> list[Receipt | None]:
    """As `read_receipt`, of several shards, given as (view, shard); remote ones concurrently."""
    arrays, folder = (ARRAYS, RECEIPTS) if layout is None else (layout.arrays, layout.receipts)
    names = [receipt_name(view, shard, folder) for view, shard in tasks]
    contents = storage.read_many(names, MAX_RECEIPT_BYTES)
    return [
        None if content is None else _parse_receipt(content, *task, arrays)
        for task, content in zip(tasks, contents, strict=True)
    ]


def _parse_receipt(content: bytes, view: int, shard: int, arrays: Sequence[str]) -> Receipt | None:
    """The receipt of a shard; None if it is damaged, or of another shard."""
    try:
        receipt: Receipt = json.loads(content)
        unchanged = content == _with_seal(
            content.replace(SEAL % receipt["seal"].encode(), UNSEALED)
        )
        is_valid = _is_valid(receipt, view, shard, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return receipt if unchanged and is_valid else None


def _is_valid(receipt: Receipt, view: int, shard: int, arrays: Sequence[str]) -> bool:
    """Whether a receipt is of this shard, and all that is read from it has the right type."""
    files = [receipt["arrays"][name] for name in arrays]
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
    receipt_sizes = storage.sizes(f"{layout.receipts}/{view}")
    sizes: dict[str, int] = {}
    for name in layout.arrays:
        sizes |= _full_name_sizes(storage, view_folder(name, view))
    for start in range(0, layout.shards, RECEIPTS_AT_ONCE):
        shards = range(start, min(start + RECEIPTS_AT_ONCE, layout.shards))
        present = [(view, shard) for shard in shards if f"{shard}.json" in receipt_sizes]
        receipts = dict(zip(present, read_receipts(storage, present, layout), strict=True))
        for shard in shards:
            receipt = receipts.get((view, shard))
            yield receipt if _is_complete(receipt, layout, view, shard, sizes) else None


def _full_name_sizes(storage: Storage, folder: str) -> dict[str, int]:
    """Size of every object below a folder, by its full name."""
    return {f"{folder}/{name}": size for name, size in storage.sizes(folder).items()}


def _is_complete(
    receipt: Receipt | None,
    layout: Layout,
    view: int,
    shard: int,
    sizes: dict[str, int],
) -> bool:
    """Whether a shard has the right number of samples and files of the sizes in its receipt.

    Args:
        sizes: of the objects, by name.
    """
    if receipt is None or receipt["samples"] != len(layout.rows(shard)):
        return False
    return all(
        sizes.get(shard_name(array, view, shard)) == receipt["arrays"][array]["bytes"]
        for array in layout.arrays
    )
