"""Making the manifest of a store again that has lost it, while its shards are intact.

All but the data sets' history and the libraries' versions follows from the run that the store was
made for. Whether the shards are really of that run is for the caller to find out, by comparing
views with the teacher's output.
"""

from __future__ import annotations

import json
from itertools import accumulate

from ...data.samples import SampleSet
from .coverage import Receipt, read_receipts
from .manifest import Manifest, layout_of, with_manifest
from .schema import RECEIPTS, Layout, is_object_name
from .storage import Storage, foreign_names
from .verify import array_views
from .writer import empty_store


def restored_manifest(
    storage: Storage, expected: Manifest, samples: SampleSet, views: int
) -> tuple[Manifest, Layout]:
    """The manifest of a store that has none, and its layout.

    Args:
        expected: the manifest of the run that the store was made for.
        samples: the data set of that run.
        views: number of views that the run needs, if no array has a readable shape.

    Raises:
        ValueError: the receipts are of another run.
    """
    unknown = foreign_names(storage)
    if unknown:
        raise ValueError(
            f"{storage} holds {unknown[0]}, which is not part of a heatmap store: move it away, "
            "and run the same command again"
        )
    receipts = _receipts(storage)
    totals = _totals(receipts, len(samples), expected["shard_samples"])
    manifest = {
        **expected,
        "datasets": [samples.take(range(total)).fingerprint() for total in totals[:-1]]
        + [samples.fingerprint()],
    }
    layout = layout_of(manifest, array_views(storage, views))
    for receipt in receipts:
        is_of_run = (
            receipt["shard"] < layout.shards
            and receipt["samples"] == len(layout.rows(receipt["shard"]))
            and receipt["encoding_error"].get("max_error", 0.0) <= expected["max_error"]
        )
        if not is_of_run:
            raise ValueError(
                f"{storage}: the receipt of view {receipt['view']}, shard {receipt['shard']} is of "
                "other settings or another data set than this run's: give those with which the "
                "store was made, or move the store away and make it again"
            )
    return manifest, layout


def restored_group(manifest: Manifest, layout: Layout) -> bytes:
    """The content of the group's `zarr.json` with a restored manifest."""
    return with_manifest(json.loads(empty_store(layout)["zarr.json"]), manifest)


def _receipts(storage: Storage) -> list[Receipt]:
    """All undamaged receipts, in order of views and shards."""
    names = [n for n in storage.sizes(RECEIPTS) if is_object_name(f"{RECEIPTS}/{n}")]
    parts = [name.removesuffix(".json").split("/") for name in names]
    tasks = sorted((int(view), int(shard)) for view, shard in parts)
    return [receipt for receipt in read_receipts(storage, tasks) if receipt is not None]


def _totals(receipts: list[Receipt], samples: int, shard_samples: int) -> list[int]:
    """Numbers of samples when the store was created and after each addition, from its receipts.

    Additions start a new shard, so one follows every shard that is not full.
    """
    counts = {receipt["shard"]: receipt["samples"] for receipt in receipts}
    leading: list[int] = []
    while len(leading) in counts:
        leading.append(counts[len(leading)])
    after = accumulate(leading)
    ends = [total for count, total in zip(leading, after, strict=True) if count < shard_samples]
    return [total for total in ends if total < samples] + [samples]
