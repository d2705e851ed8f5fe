"""Is a store what it says it is? Which parts are damaged, which cells to ask the teacher about."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numcodecs.zstd import Zstd

from ..runtime.text import pluralize
from .coverage import read_receipt
from .manifest import MAX_METADATA_BYTES, layout_of, read_manifest
from .reader import StoreReader
from .schema import ARRAYS, Layout, shard_name
from .storage import Files
from .writer import digest, empty_store

GOLDEN = 0.6180339887498949
"""Multiples of it, less their whole part, spread evenly over 0..1, however many are taken."""

LISTED = 20
"""Damages and cells that are named one by one."""

WORST = 3
"""Cells that are named where all are well."""

SampleView = tuple[int, int]
"""(view, sample index)."""


class Damage(NamedTuple):
    """A shard that is not as it was written.

    Attributes:
        array: whose file it is; "receipt", where that is missing or damaged.
        what: what is wrong, to follow the name in a sentence.
    """

    array: str
    view: int
    shard: int
    what: str


def examine(
    files: Files, layout: Layout, view: int, shard: int, *, decode: bool = True
) -> list[Damage]:
    """Read a shard's files and compare them with its receipt.

    Args:
        decode: decode every view as well. A receipt might vouch for files that were wrong when they
            were written; the checksums within them are older.
    """
    receipt = read_receipt(files, view, shard)
    if receipt is None or receipt["samples"] != len(layout.rows(shard)):
        return [Damage("receipt", view, shard, "is missing or damaged")]
    faults = {
        name: _fault(files, shard_name(name, view, shard), receipt["arrays"][name])
        for name in ARRAYS
    }
    found = [Damage(name, view, shard, what) for name, what in faults.items() if what]
    if decode and not found:
        reader = StoreReader(files, layout)
        try:
            for index in layout.rows(shard):
                reader.read(view, index)
        except ValueError as error:
            found.append(Damage(ARRAYS[0], view, shard, f"cannot be decoded: {error}"))
    return found


def _fault(files: Files, name: str, written: dict[str, Any]) -> str | None:
    """What is wrong with a file, if anything is."""
    try:
        content = files.read(name)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    if len(content) != written["bytes"]:
        return f"has {len(content)} bytes, expected {written['bytes']}"
    if digest(content) != written.get("blake2b"):
        return "is not what was written: its digest differs from the receipt's"
    return None


def damaged_metadata(files: Files) -> dict[str, bytes]:
    """What describes the arrays (not the group: it has the manifest) and is not as it should be.

    Returns:
        What each such object should contain, by name.

    Raises:
        ValueError: there is no store, or its manifest is damaged.
    """
    views = _stored_views(files)
    if views is None:
        raise ValueError(f"{files} has damaged metadata: no array says how many views there are")
    expected = empty_store(layout_of(read_manifest(files), views))
    del expected["zarr.json"]
    return {name: content for name, content in expected.items() if not _same(files, name, content)}


def _same(files: Files, name: str, expected: bytes) -> bool:
    """Whether an object means what is expected; zarr and zstd may have worded it otherwise."""
    try:
        found = files.read(name, MAX_METADATA_BYTES)
        if name.endswith("zarr.json"):
            return bool(json.loads(expected).items() <= json.loads(found).items())
        return bool(Zstd().decode(found) == Zstd().decode(expected))
    except (OSError, ValueError, RuntimeError, AttributeError, RecursionError):
        return False


def _stored_views(files: Files) -> int | None:
    """The number of views that most arrays have."""
    counts: Counter[int] = Counter()
    for name in ARRAYS:
        try:
            shape = json.loads(files.read(f"{name}/zarr.json", MAX_METADATA_BYTES))["shape"]
            counts[int(shape[0])] += 1
        except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
            continue
    usable = [views for views, _ in counts.most_common() if views > 0]
    return usable[0] if usable else None


def spread(layout: Layout, tasks: list[tuple[int, int]], count: int) -> list[SampleView]:
    """Cells of some shards, the same ones every time, spread over shards and rows.

    Args:
        tasks: (view, shard) of those to choose from.

    Returns:
        `count` cells, or somewhat fewer where shards are small, in the order of `tasks`.
    """
    cells: list[SampleView] = []
    for position, (view, shard) in enumerate(tasks):
        rows = layout.rows(shard)
        share = count * (position + 1) // len(tasks) - count * position // len(tasks)
        share = min(share, len(rows))
        first = int(position * GOLDEN % 1 * len(rows))
        cells += [(view, rows[(first + len(rows) * i // share) % len(rows)]) for i in range(share)]
    return cells


class CheckedView(NamedTuple):
    """A stored view beside what the teacher says of it now.

    Attributes:
        sample: its id.
        error: largest difference of a pixel, or of a peak, as a share of its map's peak (of
            `FAINT_PEAK` where that is higher); infinite where the view is cut otherwise.
        moved_px: distance of the decoded joints in the mean, heatmap pixels; NaN: none is shown.
    """

    view: int
    sample: str
    error: float
    moved_px: float


@dataclass(frozen=True)
class Verification:
    """What was found of a store whose manifest and canaries are as a run needs them.

    Attributes:
        ids: of the layout's samples.
        metadata: damaged objects that describe the arrays, by name.
        damages: of shards that are missing or damaged.
        repaired: whether all of that has been mended.
        cells: those compared with the live teacher, the worst first; None: there is no teacher.
        bound: the largest error that a cell may have.
        deep: whether contents were looked at, or sizes alone.
    """

    place: str
    work: object
    layout: Layout
    ids: tuple[str, ...]
    metadata: list[str]
    damages: list[Damage]
    repaired: bool
    cells: list[CheckedView] | None
    bound: float
    deep: bool

    @property
    def wrong_cells(self) -> list[CheckedView]:
        """Cells that the teacher does not agree with."""
        return [cell for cell in self.cells or () if not cell.error <= self.bound]

    @property
    def trouble(self) -> str | None:
        """What is not well, and the command that mends it; None: all is well."""
        if self._is_damaged and not self.repaired:
            return (
                f"{self.place} is damaged or incomplete ({self._damage()}); mend it with "
                f"`fpd verify-cache -w {self.work} --deep --repair`"
            )
        if self.wrong_cells:
            return (
                f"{self.place}: {len(self.wrong_cells)} of {len(self.cells or ())} cells are not "
                "what the teacher says; make the store anew with "
                f"`fpd cache-heatmaps -w {self.work} --overwrite`"
            )
        return None

    def table(self) -> str:
        """All that was found, in lines for people to read."""
        looked_at = "contents" if self.deep else "sizes (contents: --deep)"
        mended = ", mended" if self.repaired else ""
        return "\n".join(
            [
                f"{self.place}: {pluralize(self.layout.views, 'view')} of "
                f"{pluralize(self.layout.samples, 'person', 'people')} in "
                f"{pluralize(len(self.layout.tasks()), 'shard')}",
                "manifest and canaries: as this run needs them",
                f"{looked_at}: {self._damage()}{mended}",
                *_listed([f"  {name}: is damaged" for name in self.metadata]),
                *_listed([f"  {self._named(damage)}" for damage in self.damages]),
                *self._cell_lines(),
            ]
        )

    @property
    def _is_damaged(self) -> bool:
        return bool(self.metadata or self.damages)

    def _damage(self) -> str:
        shards = len({(damage.view, damage.shard) for damage in self.damages})
        parts = [f"{shards} of {pluralize(len(self.layout.tasks()), 'shard')}"] if shards else []
        if self.metadata:
            kind = ("description of an array", "descriptions of arrays")
            parts.append(pluralize(len(self.metadata), *kind))
        return " and ".join(parts) + " missing or damaged" if parts else "as the receipts say"

    def _named(self, damage: Damage) -> str:
        rows = self.layout.rows(damage.shard)
        return (
            f"{damage.array}, view {damage.view}, shard {damage.shard} ({self.ids[rows[0]]} to "
            f"{self.ids[rows[-1]]}): {damage.what}"
        )

    def _cell_lines(self) -> list[str]:
        if self.cells is None:
            return ["live teacher: none in the work directory, so no cell was compared with it"]
        if not self.cells:
            return ["live teacher: no cell was compared with it"]
        views = len({cell.view for cell in self.cells})
        worst = self.cells[0].error
        moved = [cell.moved_px for cell in self.cells if not np.isnan(cell.moved_px)]
        return [
            "live teacher:",
            "  cells  views  largest error   bound  error / bound  mean displacement, px",
            f"  {len(self.cells):5}  {views:5}  {worst:13.4f}  {self.bound:6.4f}  "
            f"{worst / self.bound:13.2f}  {np.mean(moved) if moved else 0.0:21.3f}",
            *(
                f"  view {cell.view} of {cell.sample}: {cell.error / self.bound:.2f} of the bound"
                for cell in self.wrong_cells[:LISTED] or self.cells[:WORST]
            ),
        ]


def _listed(lines: list[str]) -> list[str]:
    more = len(lines) - LISTED
    return lines if more <= 0 else [*lines[:LISTED], f"  and {more} more"]
