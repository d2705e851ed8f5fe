"""Find damage in a store, and choose views to compare with the teacher."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from tqdm import tqdm

from ..runtime.text import pluralize
from .coverage import coverage, read_receipt
from .manifest import (
    MAX_METADATA_BYTES,
    Manifest,
    layout_of,
    read_manifest,
    read_metadata,
    with_manifest,
)
from .reader import CachedHeatmaps, StoreReader
from .schema import ARRAYS, MAX_VIEWS, RECEIPTS, Layout, shard_name
from .splits import load_split, read_picture, stored_parts
from .storage import Storage, StoragePart
from .writer import digest, empty_store

GOLDEN_RATIO = 0.6180339887498949
"""The fractional parts of its first n multiples are spread evenly over 0 to 1, for any n."""

SampleView = tuple[int, int]
"""(view, sample index)."""


class Damage(NamedTuple):
    """A shard that is missing or is not as it was written.

    Attributes:
        array: whose file is damaged; "receipt" if the receipt is missing or damaged.
        what: a predicate such as "is missing".
        split: of a portable store, whose samples the shard has; "": it has heatmaps.
    """

    array: str
    view: int
    shard: int
    what: str
    split: str = ""


ViewParameters = Callable[[int, int], NDArray[np.float64]]
"""The augmentation parameters of a sample's view, by (sample index, view number)."""


def examine(
    storage: Storage,
    layout: Layout,
    view: int,
    shard: int,
    *,
    decode: bool = True,
    parameters: ViewParameters | None = None,
) -> list[Damage]:
    """Read the files of a shard and compare them with its receipt.

    Args:
        decode: decode every view as well. A receipt may match files that were damaged before it was
            written; the checksums inside the files are older.
        parameters: that the views must have; None: they are not compared.
    """
    split = storage.folder if isinstance(storage, StoragePart) else ""
    damaged = partial(Damage, view=view, shard=shard, split=split)
    receipt = read_receipt(storage, view, shard, layout)
    if receipt is None or receipt["samples"] != len(layout.rows(shard)):
        return [damaged("receipt", what="is missing or damaged")]
    faults = {
        name: _fault(storage, shard_name(name, view, shard), receipt["arrays"][name])
        for name in layout.arrays
    }
    damages = [damaged(name, what=what) for name, what in faults.items() if what]
    if decode and not damages:
        reader = StoreReader(storage, layout, check_digests=False)  # compared above
        try:
            for index in layout.rows(shard):
                _decode_all(reader, view, index)
                if parameters is None or layout.is_split:
                    continue
                stored = reader.read_row("parameters", view, index)
                if not np.array_equal(stored, parameters(index, view)):
                    what = f"has other parameters for sample {index} than its augmentation gives"
                    damages.append(damaged("parameters", what=what))
                    break
        except ValueError as error:
            damages.append(damaged(layout.arrays[0], what=f"cannot be decoded: {error}"))
    return damages


def _decode_all(reader: StoreReader, view: int, index: int) -> None:
    """Decode the heatmaps and the crop of one view of one sample, where the store has them.

    Raises:
        ValueError: one cannot be decoded.
    """
    layout = reader.layout
    if not layout.is_split:
        reader.read(view, index)
    if layout.crop_px:
        read_picture(reader, view, index)


def _fault(storage: Storage, name: str, expected: dict[str, Any]) -> str | None:
    """What is wrong with a file; None if it matches its entry in the receipt."""
    try:
        content = storage.read(name, limit=expected["bytes"])
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    if len(content) != expected["bytes"]:
        return f"has {len(content)} bytes, expected {expected['bytes']}"
    if digest(content) != expected["blake2b"]:
        return "was changed after it was written: its digest differs from that in the receipt"
    return None


def damaged_metadata(storage: Storage, views: int = 1) -> dict[str, bytes]:
    """The damaged or missing objects that describe the arrays, with their correct content, by name.

    Args:
        views: number of views that a run needs, for a store of which no array has a readable shape.

    Raises:
        ValueError: there is no store, or its manifest is damaged.
    """
    manifest = read_manifest(storage)
    expected = empty_store(layout_of(manifest, array_views(storage, views)))
    for part, layout in stored_parts(storage, manifest):
        objects = empty_store(layout)
        expected |= {f"{part.folder}/{name}": content for name, content in objects.items()}
    group = json.loads(expected.pop("zarr.json"))
    damaged = {
        name: content
        for name, content in expected.items()
        if not _is_equivalent(storage, name, content)
    }
    stored = read_metadata(storage, "zarr.json")
    if any(stored.get(key) != value for key, value in group.items() if key != "attributes"):
        damaged["zarr.json"] = with_manifest(stored | group | _attributes(stored), manifest)
    return damaged


def _attributes(metadata: Manifest) -> dict[str, Any]:
    return {"attributes": metadata["attributes"]}


def _is_equivalent(storage: Storage, name: str, expected: bytes) -> bool:
    """Whether an object has the expected content. Versions of zarr and zstd may format it
    differently.
    """
    try:
        content = storage.read(name, MAX_METADATA_BYTES)
        if name.endswith("zarr.json"):
            return _is_equivalent_metadata(json.loads(content), json.loads(expected))
        return bool(Zstd().decode(content) == Zstd().decode(expected))
    except (OSError, ValueError, RuntimeError, AttributeError, RecursionError):
        return False


def _is_equivalent_metadata(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether metadata has the expected entries, and no others that readers must understand."""
    others = [value for key, value in found.items() if key not in expected]
    ignorable = all(isinstance(o, dict) and o.get("must_understand") is False for o in others)
    return ignorable and expected.items() <= found.items()


def array_views(storage: Storage, views: int) -> int:
    """The number of views that most arrays have.

    Args:
        views: the least, if no shape can be read; then the receipts decide.
    """
    counts: Counter[int] = Counter()
    for name in ARRAYS:
        try:
            shape = read_metadata(storage, f"{name}/zarr.json")["shape"]
            counts[shape[0]] += isinstance(shape[0], int) and 0 < shape[0] <= MAX_VIEWS
        except (OSError, ValueError, KeyError, IndexError, TypeError, RecursionError):
            continue
    usable = [views for views, count in counts.most_common() if count]
    if usable:
        return usable[0]
    written = storage.names(RECEIPTS)
    return max([views, *(int(view) + 1 for view in written if view.isdecimal())])


def spread(layout: Layout, tasks: list[tuple[int, int]], count: int) -> list[SampleView]:
    """Choose views of single samples, spread evenly over shards and rows. Deterministic.

    Args:
        tasks: (view, shard) of the shards to choose from.

    Returns:
        `count` views, or fewer if the shards are small, in the order of `tasks`.
    """
    chosen: list[SampleView] = []
    for position, (view, shard) in enumerate(tasks):
        rows = layout.rows(shard)
        share = count * (position + 1) // len(tasks) - count * position // len(tasks)
        share = min(share, len(rows))
        first = int(position * GOLDEN_RATIO % 1 * len(rows))
        chosen += [(view, rows[(first + len(rows) * i // share) % len(rows)]) for i in range(share)]
    return chosen


class Examination(NamedTuple):
    """What is damaged in a store.

    Attributes:
        damaged_metadata: name and correct content of each damaged object that describes the arrays.
        damages: of shards.
        cached_heatmaps: the views that were chosen to be compared with the teacher, as stored.
    """

    damaged_metadata: dict[str, bytes]
    damages: list[Damage]
    cached_heatmaps: dict[SampleView, CachedHeatmaps]

    @property
    def is_damaged(self) -> bool:
        """Whether anything is missing or damaged."""
        return bool(self.damaged_metadata or self.damages)


def examine_store(
    store: Storage, layout: Layout, sample_count: int, parameters: ViewParameters | None
) -> Examination:
    """Examine the shards with a missing file or a wrong size, and those that are read.

    Args:
        sample_count: number of views of single samples to read, for a comparison with the teacher.
        parameters: of the views; if given, all shards are examined.

    Raises:
        ValueError: there is no store, or its manifest is damaged.
    """
    metadata = damaged_metadata(store, layout.views)
    all_shards = layout.tasks()
    deep = parameters is not None
    shards_to_examine = all_shards if deep else coverage(store, layout).missing
    progress_bar = tqdm(shards_to_examine, "verify-cache", unit="shard", leave=False, disable=None)
    damages = [
        damage
        for view, shard in progress_bar
        for damage in examine(
            store, layout, view, shard, decode=not metadata, parameters=parameters
        )
    ]
    for part, part_layout in stored_parts(store, read_manifest(store)):
        tasks = part_layout.tasks() if deep else coverage(part, part_layout).missing
        for view, shard in tasks:
            damages += examine(part, part_layout, view, shard, decode=not metadata)
        if deep and not metadata and not any(damage.split == part.folder for damage in damages):
            damages += _examine_labels(store, part.folder, part_layout)
    if metadata:  # the reader needs it to decode anything
        return Examination(metadata, damages, {})
    damaged_shards = {(damage.view, damage.shard) for damage in damages if not damage.split}
    readable_shards = [task for task in all_shards if task not in damaged_shards]
    reader = StoreReader(store, layout)
    cached_heatmaps: dict[SampleView, CachedHeatmaps] = {}
    for view, index in spread(layout, readable_shards, sample_count):
        try:
            cached_heatmaps[view, index] = reader.read(view, index)
        except ValueError:
            shard, _ = layout.locate(index)
            if (view, shard) not in damaged_shards:
                damaged_shards.add((view, shard))
                damages += examine(store, layout, view, shard, parameters=parameters)
    return Examination(metadata, damages, cached_heatmaps)


def _examine_labels(store: Storage, split: str, layout: Layout) -> list[Damage]:
    """All shards of a split, if its samples cannot be used although they match their receipts."""
    try:
        load_split(store, read_manifest(store), split)
    except ValueError as error:
        what = f"has samples that cannot be used: {error}"
        return [Damage("ids", view, shard, what, split) for view, shard in layout.tasks()]
    return []


class CheckedView(NamedTuple):
    """A stored view of a sample, compared with the teacher's current output.

    Attributes:
        sample: its id.
        error: largest difference of a pixel or a peak, as a share of its heatmap's peak (or of
            `FAINT_PEAK`, if that is higher); infinite if the crop has other view parameters.
        displacement_px: mean distance between decoded joints, in heatmap pixels; NaN if no heatmap
            shows a joint.
    """

    view: int
    sample: str
    error: float
    displacement_px: float


@dataclass(frozen=True)
class Verification:
    """The state of a store whose manifest and canaries match a run.

    Attributes:
        location: path or URL of the store.
        work: what follows `-w` in the commands that messages name.
        ids: of the layout's samples.
        damaged_metadata: names of damaged objects that describe the arrays.
        damages: of shards that are missing or damaged.
        repaired: whether all of that has been repaired.
        compared_views: compared with the live teacher, largest error first; None: no teacher.
        not_compared: why there is no teacher to compare with; None: there is one.
        bound: the largest error that a view may have.
        deep: whether file contents were checked, not only sizes.
    """

    location: str
    work: object
    layout: Layout
    ids: tuple[str, ...]
    damaged_metadata: list[str]
    damages: list[Damage]
    repaired: bool
    compared_views: list[CheckedView] | None
    not_compared: str | None
    bound: float
    deep: bool

    @property
    def wrong_views(self) -> list[CheckedView]:
        """Views whose error exceeds the bound."""
        return [view for view in self.compared_views or () if not view.error <= self.bound]

    @property
    def problem(self) -> str | None:
        """What is wrong, and the command that repairs it; None if the store is intact."""
        if self.is_damaged and not self.repaired:
            return (
                f"{self.location} is damaged or incomplete ({self.damage_summary}); repair it "
                f"with `fpd verify-cache -w {self.work} --deep --repair`"
            )
        if self.wrong_views:
            return (
                f"{self.location}: {len(self.wrong_views)} of {len(self.compared_views or ())} "
                "views do not match the teacher's output; rebuild the store with "
                f"`fpd cache-heatmaps -w {self.work} --overwrite`"
            )
        return None

    @property
    def is_damaged(self) -> bool:
        """Whether anything is missing or damaged, or was before the repair."""
        return bool(self.damaged_metadata or self.damages)

    @property
    def damage_summary(self) -> str:
        """How much is missing or damaged, in a few words."""
        shards = len({(d.view, d.shard) for d in self.damages if not d.split})
        parts = [f"{shards} of {pluralize(len(self.layout.tasks()), 'shard')}"] if shards else []
        split_shards = {(d.split, d.shard) for d in self.damages if d.split}
        if split_shards:
            parts.append(pluralize(len(split_shards), "shard of samples", "shards of samples"))
        if self.damaged_metadata:
            forms = ("description of an array", "descriptions of arrays")
            parts.append(pluralize(len(self.damaged_metadata), *forms))
        return " and ".join(parts) + " missing or damaged" if parts else "match the receipts"
