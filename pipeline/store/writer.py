"""Writing shards: encoded in memory, put in place whole, the receipt last.

Shape letters: S samples in the shard, K joints, Y and X blocks down and across, C coefficients of a
block, P parameters.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

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
    Manifest,
    check_manifest,
    layout_of,
    read_manifest,
    read_metadata,
    served_layout,
    stored_layout,
    with_added,
    write_manifest,
)
from .schema import ARRAYS, MANIFEST, Layout, create_arrays, receipt_name, shard_array, shard_name
from .storage import Files


@dataclass(frozen=True)
class Shard:
    """The content of one shard, without padding.

    Attributes:
        heatmaps_SKYXC: int8, from `encode`; so are steps and peaks.
        steps_SK, peaks_SK: float16.
        parameters_SP: float64.
        measured: what storing them cost, by name (see `stages/heatmaps.py`).
    """

    view: int
    shard: int
    heatmaps_SKYXC: NDArray[np.int8]
    steps_SK: NDArray[np.float16]
    peaks_SK: NDArray[np.float16]
    parameters_SP: NDArray[np.float64]
    measured: dict[str, float]
    canaries: list[Canary] = field(default_factory=list)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by their name in the store."""
        values = (self.heatmaps_SKYXC, self.steps_SK, self.peaks_SK, self.parameters_SP)
        return dict(zip(ARRAYS, values, strict=True))


class StoreWriter:
    """A store open for writing, its manifest included: one process's, who may share out shards."""

    def __init__(
        self,
        files: Files,
        manifest: Manifest,
        views: int,
        work: object,
        *,
        samples: SampleSet | None = None,
    ) -> None:
        """Make the store, or take up one that fits, with more views or samples if need be.

        Args:
            manifest: as it is to be; of a store that is there, all but `versions` must agree.
            work: the work directory, for the commands that messages name.
            samples: the manifest's data set; needed to tell that it begins with that of a store
                made earlier, and so adds to it.

        Raises:
            ValueError: what is there was made for something else.
        """
        self.files, self.manifest = files, manifest
        if not files.exists():
            _create(files, manifest, layout_of(manifest, views))
        found = read_manifest(files)
        extended = found if samples is None else with_added(manifest, found, samples)
        check_manifest(files, manifest, extended, work)
        self.layout = served_layout(manifest, extended, views)
        _enlarge(files, layout_of(extended, views), work)
        if extended != found:
            write_manifest(files, extended)
        self._may_be_audited = True

    def coverage(self) -> Coverage:
        """Which shards are there, and which are to be written."""
        return coverage(self.files, self.layout)

    def write(self, content: Shard) -> None:
        """Write one shard and vouch for it. Writing it again gives the same bytes."""
        self.end_audit()
        write_shard(self.files, self.layout, content)

    def end_audit(self) -> None:
        """Take the audit out of the manifest: to be done before the first shard is written."""
        if self._may_be_audited:
            manifest = read_manifest(self.files)
            if manifest.pop(AUDIT, None) is not None:
                write_manifest(self.files, manifest)
        self._may_be_audited = False

    def finish(self) -> Coverage:
        """Look at every shard once more, and sum up in the manifest what was found.

        Returns:
            What was found of the views and samples that this writer was made for.
        """
        whole = coverage(self.files, stored_layout(self.files))
        manifest = read_manifest(self.files) | {"encoding_error": whole.measured()}
        manifest.pop(AUDIT, None)
        found = whole.within(self.layout)
        if not found.missing:
            manifest[AUDIT] = audit_of(found if whole.missing else whole)
        write_manifest(self.files, manifest)
        self._may_be_audited = True
        return found


def write_shard(files: Files, layout: Layout, content: Shard) -> Receipt:
    """Write one shard, and its receipt last; the manifest is left alone.

    Any number of processes may, of one store, each its own shards; the store's writer must have
    ended the audit before.

    Returns:
        The receipt.
    """
    view, shard = content.view, content.shard
    files.delete(receipt_name(view, shard))  # it vouches for nothing half-rewritten
    written = {}
    for name, values in content.columns().items():
        encoded = encode_shard(name, values, layout)
        files.write(shard_name(name, view, shard), encoded)
        written[name] = {"bytes": len(encoded), "blake2b": digest(encoded)}
    receipt = {
        "view": view,
        "shard": shard,
        "samples": len(content.peaks_SK),
        "arrays": written,
        "encoding_error": content.measured,
        "canaries": content.canaries,
    }
    files.write(receipt_name(view, shard), sealed(receipt))
    return receipt


def encode_shard(name: str, values: NDArray[Any], layout: Layout) -> bytes:
    """One array's part of a shard (samples first), padded, as the bytes of its file."""
    store = MemoryStore()
    array, key = shard_array(store, name, layout)
    padding = [(0, layout.shard_samples - len(values)), *[(0, 0)] * (values.ndim - 1)]
    array[0] = np.pad(values, padding)
    return stored_bytes(store, key)


def digest(content: bytes) -> str:
    """BLAKE2b-128 of a file's content, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _create(files: Files, manifest: Manifest, layout: Layout) -> None:
    """Metadata and basis, the group's own last: without it there is no store."""
    strangers = sorted(set(files.sizes("")) - set(empty_store(layout)))
    if strangers:
        raise ValueError(
            f"expected a heatmap store or an empty place at {files}, found {strangers[0]}: name "
            "another with --store"
        )
    objects = empty_store(layout)
    group = json.loads(objects.pop("zarr.json"))
    group["attributes"][MANIFEST] = manifest
    for name, content in objects.items():
        files.write(name, content)
    files.write("zarr.json", json.dumps(group, indent=2, sort_keys=True).encode())


def empty_store(layout: Layout) -> dict[str, bytes]:
    """The objects of a store without manifest or shards, by name."""
    store = MemoryStore()
    create_arrays(store, layout)
    return {name: stored_bytes(store, name) for name in wait_for(_names(store))}


async def _names(store: MemoryStore) -> list[str]:
    return [name async for name in store.list()]


def stored_bytes(store: MemoryStore, name: str) -> bytes:
    """What zarr has put under a name."""
    buffer = wait_for(store.get(name, default_buffer_prototype()))
    if buffer is None:
        raise RuntimeError(f"zarr wrote no {name}")
    return buffer.to_bytes()


def _enlarge(files: Files, layout: Layout, work: object) -> None:
    """Make room for more views and samples. Only metadata changes; nothing ever shrinks."""
    wanted = (layout.views, layout.shards * layout.shard_samples)
    for name in ARRAYS:
        place = f"{name}/zarr.json"
        try:
            metadata = read_metadata(files, place)
            views, samples, *rest = metadata["shape"]
            shape = [max(views, wanted[0]), max(samples, wanted[1]), *rest]
        except (FileNotFoundError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{files} has damaged metadata ({place}: {error}); mend it with "
                f"`fpd verify-cache -w {work} --repair`"
            ) from None
        if shape != metadata["shape"]:
            # As zarr-python words it, so that a store made this large has the same bytes.
            files.write(place, json.dumps(metadata | {"shape": shape}, indent=2).encode())
