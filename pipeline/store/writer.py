"""Writing shards: each file is encoded in memory and written atomically, and the receipt last.

Shape letters: S samples in the shard, K joints, Y and X blocks down and across, C coefficients of a
block, P parameters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync as wait_for
from zarr.storage import MemoryStore

from ...data.samples import SampleSet
from .canaries import Canary
from .coverage import Coverage, Receipt, audit_of, coverage, sealed
from .manifest import (
    AUDIT,
    RECIPE,
    Manifest,
    check_manifest,
    has_shards,
    layout_of,
    read_manifest,
    read_metadata,
    served_layout,
    stored_layout,
    with_added,
    with_manifest,
    write_manifest,
)
from .schema import ARRAYS, Layout, create_arrays, receipt_name, shard_array, shard_name
from .storage import Storage, foreign_names

Column = NDArray[Any] | Sequence[bytes]
"""An array's values in a shard, without padding, samples first; byte strings are padded later: as
an array, those of a shard take 67 MB."""


@dataclass(frozen=True)
class Shard:
    """The content of one shard, without padding.

    Attributes:
        heatmaps_SKYXC, steps_SK, peaks_SK: int8, float16 and float16, from `compress`.
        parameters_SP: float64, the view parameters (`data.augmentation.PARAMETERS`).
        encoding_error: errors of the heatmaps as stored, by name; see
            `caching.encode.summarize_errors`.
        canaries: of the rows given by `canary_rows`.
        labeled_crops: of a portable store; None: of another.
    """

    view: int
    shard: int
    heatmaps_SKYXC: NDArray[np.int8]
    steps_SK: NDArray[np.float16]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]
    encoding_error: dict[str, float]
    canaries: list[Canary] = field(default_factory=list)
    labeled_crops: LabeledCrops | None = None

    def columns(self) -> dict[str, Column]:
        """The arrays, by their names in the store."""
        values = (self.heatmaps_SKYXC, self.steps_SK, self.peaks_SK, self.parameters_SP)
        columns: dict[str, Column] = dict(zip(ARRAYS, values, strict=True))
        if self.labeled_crops is not None:
            columns |= crop_columns(self.labeled_crops.jpegs)
            columns["joints"] = self.labeled_crops.joints_SK2
        return columns


class LabeledCrops(NamedTuple):
    """The views of a shard, of a portable store.

    Attributes:
        jpegs: each view's crop (`data.io.jpeg`).
        joints_SK2: float32, labels in heatmap pixels; NaN where not labeled.
    """

    jpegs: Sequence[bytes]
    joints_SK2: NDArray[np.float32]


def crop_columns(jpegs: Sequence[bytes]) -> dict[str, Column]:
    """The arrays of crops, by their names in the store."""
    sizes_S = np.array([len(jpeg) for jpeg in jpegs], np.int32)
    return {"crops": jpegs, "crop_sizes": sizes_S}


class StoreWriter:
    """A store open for writing, including its manifest.

    Only one process has a writer of a store; it may have other processes write shards
    (`write_shard`).
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        views: int,
        work: object,
        *,
        samples: SampleSet | None = None,
    ) -> None:
        """Create the store, or open a matching one and extend it by views or samples as needed.

        Args:
            manifest: of the store; an existing store must match it (`check_manifest`).
            work: what follows `-w` in the commands that messages name.
            samples: the manifest's data set. Needed to recognize that an existing store holds its
                first samples, so that the others can be added.

        Raises:
            ValueError: there are other files, or a store that was made for another run.
        """
        self.storage, self.manifest = storage, manifest
        if not storage.exists():
            _create(storage, manifest, layout_of(manifest, views), work)
        stored = read_manifest(storage, work)
        extended = stored if samples is None else with_added(manifest, stored, samples)
        check_manifest(storage, manifest, extended, work)
        self.layout = served_layout(manifest, extended, views)
        enlarge(storage, layout_of(extended, views), work)
        stored_layout(storage, work)  # the sizes that `finish` goes by
        if extended != stored:
            write_manifest(storage, extended)
        self._may_be_audited = True

    def coverage(self) -> Coverage:
        """Which shards are complete, and which remain to be written."""
        return coverage(self.storage, self.layout)

    def write(self, content: Shard) -> None:
        """Write one shard and its receipt. Writing it again gives the same bytes."""
        self.end_audit()
        write_shard(self.storage, self.layout, content)

    def end_audit(self) -> None:
        """Remove the audit from the manifest. Must be called before the first shard is written."""
        if self._may_be_audited:
            manifest = read_manifest(self.storage)
            if manifest.pop(AUDIT, None) is not None:
                write_manifest(self.storage, manifest)
        self._may_be_audited = False

    def finish(self) -> Coverage:
        """Check every shard, and write errors and, if complete, an audit to the manifest.

        Returns:
            The coverage of the views and samples that this writer was made for.
        """
        stored = coverage(self.storage, stored_layout(self.storage))
        manifest = read_manifest(self.storage) | {"encoding_error": stored.encoding_error()}
        manifest.pop(AUDIT, None)
        served = stored.within(self.layout)
        if RECIPE in manifest:
            manifest[RECIPE]["store"]["views"] = served.complete_views or served.layout.views
        if not served.missing:
            manifest[AUDIT] = audit_of(served if stored.missing else stored)
        write_manifest(self.storage, manifest)
        self._may_be_audited = True
        return served


def write_shard(storage: Storage, layout: Layout, content: Shard) -> Receipt:
    """Write one shard and then its receipt, but not the manifest.

    Several processes may do this at the same time for different shards, after the store's writer
    has called `end_audit`.

    Returns:
        The receipt.
    """
    return write_columns(
        storage,
        layout,
        content.view,
        content.shard,
        content.columns(),
        encoding_error=content.encoding_error,
        canaries=content.canaries,
    )


def write_columns(
    storage: Storage,
    layout: Layout,
    view: int,
    shard: int,
    columns: Mapping[str, Column],
    *,
    encoding_error: dict[str, float] | None = None,
    canaries: Sequence[Canary] = (),
) -> Receipt:
    """Write one shard of some layout and then its receipt.

    Args:
        columns: the values of each array of the layout, by name.

    Returns:
        The receipt.
    """
    # A half-rewritten shard must not count as complete.
    storage.delete(receipt_name(view, shard, layout.receipts))
    arrays = {}
    for name in layout.arrays:
        encoded = encode_shard(name, columns[name], layout)
        storage.write(shard_name(name, view, shard), encoded)
        arrays[name] = {"bytes": len(encoded), "blake2b": digest(encoded)}
    receipt = {
        "view": view,
        "shard": shard,
        "samples": len(columns[layout.arrays[-1]]),
        "arrays": arrays,
        "encoding_error": encoding_error or {},
        "canaries": list(canaries),
    }
    storage.write(receipt_name(view, shard, layout.receipts), sealed(receipt))
    return receipt


def encode_shard(name: str, values: Column, layout: Layout) -> bytes:
    """The file content of one array's part of a shard, padded to whole shards."""
    store = MemoryStore()
    array, key = shard_array(store, name, layout)
    spec = layout.specs[name]
    padded = np.zeros((layout.shard_samples, *spec.shape), spec.dtype)
    if isinstance(values, np.ndarray):
        padded[: len(values)] = values
    else:
        for row, text in zip(padded, values, strict=False):
            row[: len(text)] = np.frombuffer(text, np.uint8)
    array[0] = padded
    return stored_bytes(store, key)


def digest(content: bytes | memoryview) -> str:
    """The BLAKE2b-128 digest of a file's content, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _create(storage: Storage, manifest: Manifest, layout: Layout, work: object) -> None:
    """Write metadata and basis. The group's metadata is last, and without it there is no store."""
    objects = empty_store(layout)
    names = set(storage.sizes("")) - set(objects)
    if has_shards(storage) and not foreign_names(storage):
        raise ValueError(
            f"{storage} has shards, but no manifest (zarr.json): restore it with "
            f"`fpd verify-cache -w {work} --repair`"
        )
    if names:
        raise ValueError(
            f"expected a heatmap store or an empty place at {storage}, found {min(names)}: name "
            "another with --store"
        )
    group = json.loads(objects.pop("zarr.json"))
    for name, content in objects.items():
        storage.write(name, content)
    storage.write("zarr.json", with_manifest(group, manifest))


def empty_store(layout: Layout) -> dict[str, bytes]:
    """The objects of a store without manifest and shards, by name."""
    store = MemoryStore()
    create_arrays(store, layout)
    return {name: stored_bytes(store, name) for name in wait_for(_names(store))}


async def _names(store: MemoryStore) -> list[str]:
    return [name async for name in store.list()]


def stored_bytes(store: MemoryStore, name: str) -> bytes:
    """The content of an object that zarr has written."""
    buffer = wait_for(store.get(name, default_buffer_prototype()))
    if buffer is None:
        raise RuntimeError(f"zarr wrote no {name}")
    return buffer.to_bytes()


def enlarge(storage: Storage, layout: Layout, work: object) -> None:
    """Enlarge the arrays to a layout's views and samples, where they are smaller.

    Only metadata changes, and arrays never shrink.
    """
    sample_rows = layout.shards * layout.shard_samples
    for array in layout.arrays:
        name = f"{array}/zarr.json"
        try:
            metadata = read_metadata(storage, name)
            views, samples, *rest = metadata["shape"]
            shape = [max(views, layout.views), max(samples, sample_rows), *rest]
        except (FileNotFoundError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{storage} has damaged metadata ({name}: {error}); repair it with "
                f"`fpd verify-cache -w {work} --repair`"
            ) from None
        if shape != metadata["shape"]:
            # Formatted as zarr-python does, so that a store created at this size has equal bytes.
            storage.write(name, json.dumps(metadata | {"shape": shape}, indent=2).encode())
