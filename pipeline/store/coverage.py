"""Which shards of a store are there. Files and their receipts say so, and nothing else does.

To look at every receipt takes the longer the larger the store, so a writer that found all of them
leaves an *audit* in the manifest. Who only reads then looks at some; a shard that was lost since is
found when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .manifest import AUDIT, Manifest, read_manifest
from .schema import ARRAYS, RECEIPTS, Layout, receipt_name, shard_name, view_folder
from .storage import Files

MAX_RECEIPT_BYTES = 1 << 16

SEAL = b'"seal": "%s"'
UNSEALED = SEAL % (b"0" * 32)

SHARDS_LOOKED_AT = 64
"""Of an audited store: as many as show one that was moved or thinned out, in some 0.1 s."""

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

    def within(self, layout: Layout) -> Coverage:
        """The part of it that a layout of fewer views or samples calls for."""
        return Coverage(
            layout,
            [task for task in self.missing if _is_within(layout, *task)],
            [r for r in self.receipts if _is_within(layout, r["view"], r["shard"])],
        )

    def bytes(self) -> int:
        """Size of the complete shards' files."""
        return sum(receipt["arrays"][name]["bytes"] for receipt in self.receipts for name in ARRAYS)

    def samples(self) -> int:
        """Views of single samples in the complete shards."""
        return sum(receipt["samples"] for receipt in self.receipts)

    def measured(self) -> dict[str, float]:
        """The error over all complete shards, as measured while they were written."""
        samples = self.samples() or 1
        errors = [
            (receipt["samples"] / samples, receipt["encoding_error"]) for receipt in self.receipts
        ]
        return {
            key: max((e[key] for _, e in errors), default=0.0)
            if key.startswith("max")
            else sum(share * e[key] for share, e in errors)
            for key in (errors[0][1] if errors else {})
        }


def _is_within(layout: Layout, view: int, shard: int) -> bool:
    return view < layout.views and shard < layout.shards


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


def audit_of(found: Coverage) -> dict[str, int]:
    """What the manifest keeps of a look at a complete store."""
    layout = found.layout
    return {
        "views": layout.views,
        "samples": layout.samples,
        "shards": found.total,
        "bytes": found.bytes(),
    }


def audited(manifest: Manifest, layout: Layout) -> bool:
    """Whether every shard of a layout was there when the store was last audited."""
    audit: Any = manifest.get(AUDIT)
    try:
        return bool(audit["views"] >= layout.views and audit["samples"] >= layout.samples)
    except (KeyError, TypeError):
        return False


def shard_bytes(files: Files, layout: Layout) -> int:
    """Size of the complete shards' files, from the audit where it is of just this layout."""
    manifest = read_manifest(files)
    if audited(manifest, layout) and manifest[AUDIT].get("shards") == layout.views * layout.shards:
        return int(manifest[AUDIT]["bytes"])
    return coverage(files, layout).bytes()


def check_complete(files: Files, layout: Layout, work: object) -> None:
    """Refuse a store with gaps; of an audited one, `SHARDS_LOOKED_AT` shards are looked at.

    Raises:
        ValueError: saying how much is there and which command adds the rest.
    """
    if audited(read_manifest(files), layout) and _some_are_there(files, layout):
        return
    found = coverage(files, layout)
    if found.missing:
        whole = found.whole_views
        train = f", or train on the whole ones with `--set store.views={whole}`" if whole else ""
        raise ValueError(
            f"{files} is incomplete: {len(found.receipts)} of {found.total} shards are there, "
            f"the first {whole} of {layout.views} views are whole; finish it with "
            f"`fpd cache-heatmaps -w {work}`{train}"
        )


def _some_are_there(files: Files, layout: Layout) -> bool:
    """Whether shards spread evenly over views and samples, the first among them, are there."""
    total = layout.views * layout.shards
    if total <= SHARDS_LOOKED_AT:
        return False  # all of them is no more to look at, in fewer listings
    for i in range(SHARDS_LOOKED_AT):
        if (
            whole_receipt(files, layout, *divmod(total * i // SHARDS_LOOKED_AT, layout.shards))
            is None
        ):
            return False
    return True


def whole_receipt(files: Files, layout: Layout, view: int, shard: int) -> Receipt | None:
    """The receipt of one shard, where the shard counts."""
    listed = {name: _below(files, f"{view_folder(name, view)}/{shard}") for name in ARRAYS}
    receipt = read_receipt(files, view, shard)
    return receipt if _is_whole(receipt, layout, view, shard, listed) else None


def read_receipt(files: Files, view: int, shard: int) -> Receipt | None:
    """The receipt of one shard, if it is there and is one."""
    try:
        content = files.read(receipt_name(view, shard), MAX_RECEIPT_BYTES)
        receipt: Receipt = json.loads(content)
        unchanged = content == _with_seal(
            content.replace(SEAL % receipt["seal"].encode(), UNSEALED)
        )
        whole = all(isinstance(receipt["arrays"][name]["bytes"], int) for name in ARRAYS)
        of_this = (receipt["view"], receipt["shard"]) == (view, shard)
        measured = receipt["samples"] > 0 and isinstance(receipt["encoding_error"], dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return receipt if unchanged and whole and of_this and measured else None


def sealed(receipt: Receipt) -> bytes:
    """A receipt's file: it vouches for a shard, and the "seal" in it for every byte of itself.

    The seal is the BLAKE2b-128 of the file as it is with as many zeros in the seal's place.
    """
    text = json.dumps(receipt | {"seal": "0" * 32}, indent=2, sort_keys=True) + "\n"
    return _with_seal(text.encode())


def _with_seal(unsealed: bytes) -> bytes:
    seal = hashlib.blake2b(unsealed, digest_size=16).hexdigest()
    return unsealed.replace(UNSEALED, SEAL % seal.encode())


def _receipts(files: Files, view: int, layout: Layout) -> Iterator[Receipt | None]:
    """The receipt of each shard of a view, None where the shard does not count."""
    # One listing a folder, not one question a file: object stores answer 1,000 names at a time.
    vouched = files.sizes(f"{RECEIPTS}/{view}")
    listed = {name: _below(files, view_folder(name, view)) for name in ARRAYS}
    for shard in range(layout.shards):
        receipt = read_receipt(files, view, shard) if f"{shard}.json" in vouched else None
        yield receipt if _is_whole(receipt, layout, view, shard, listed) else None


def _below(files: Files, folder: str) -> dict[str, int]:
    """Size of every object below a folder, by its whole name."""
    return {f"{folder}/{name}": size for name, size in files.sizes(folder).items()}


def _is_whole(
    receipt: Receipt | None,
    layout: Layout,
    view: int,
    shard: int,
    listed: dict[str, dict[str, int]],
) -> bool:
    """Whether a shard has its samples and, of each array, the file that its receipt speaks of."""
    if receipt is None or receipt["samples"] != len(layout.rows(shard)):
        return False
    return all(
        sizes.get(shard_name(name, view, shard)) == receipt["arrays"][name]["bytes"]
        for name, sizes in listed.items()
    )
