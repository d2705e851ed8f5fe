"""Canaries: digests and thumbnails of a few crops per shard, which the student cuts again.

Equal view parameters do not guarantee equal pixels: the image decoder, the interpolation or the
image itself may have changed. A canary holds the digest of an augmented crop and a thumbnail of it,
which tell equal pixels, rounding differences and another picture apart.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...data.views import Views
from ..runtime.files import versions
from .coverage import read_receipts
from .schema import Layout
from .storage import Storage

log = logging.getLogger("fpd")

Canary = dict[str, Any]

PER_SHARD = 2

SHARDS_CHECKED = 16
"""Up to 32 crops, which take a tenth of a second whatever the size of the store."""

THUMBNAIL_PX = 16

TOLERANCE = 3.0
"""Largest mean difference between thumbnails, in gray levels (0-255), that counts as rounding. JPEG
decoders differ by 1 or 2 levels in some pixels; other pictures differ by dozens."""


def canary_rows(rows: int) -> list[int]:
    """The rows of a shard that become canaries: evenly spread, starting with row 0."""
    return sorted({rows * i // PER_SHARD for i in range(PER_SHARD)})


def make_canary(row: int, crop: NDArray[np.uint8]) -> Canary:
    """The canary of a crop, uint8 (S, S, 3), in a row of a shard. It can be written as JSON."""
    return {
        "row": row,
        "blake2b": _digest(crop),
        "thumbnail": base64.b64encode(_thumbnail(crop).tobytes()).decode(),
    }


def compare_canary(canary: Canary, crop: NDArray[np.uint8]) -> float:
    """How much a crop differs from the one that was cached.

    Returns:
        0 if every pixel is equal, otherwise the mean absolute difference between the thumbnails in
        gray levels (at least 1e-9), or infinity if the canary is damaged.
    """
    if canary.get("blake2b") == _digest(crop):
        return 0.0
    try:
        cached = np.frombuffer(base64.b64decode(canary["thumbnail"]), np.uint8)
        difference = cached.astype(float) - _thumbnail(crop).reshape(-1)
    except (KeyError, TypeError, ValueError):
        return float("inf")
    return max(float(np.abs(difference).mean()), 1e-9)


def _digest(crop: NDArray[np.uint8]) -> str:
    content = np.ascontiguousarray(crop)
    return hashlib.blake2b(content.tobytes(), digest_size=16).hexdigest()


def _thumbnail(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = cv2.resize(crop, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return small.astype(np.uint8, copy=False)


def check_canaries(
    storage: Storage,
    layout: Layout,
    views: Views,
    manifest: dict[str, Any],
    work: object,
    *,
    readable_only: bool = False,
) -> None:
    """Cut the canaries of up to `SHARDS_CHECKED` shards, spread over the store, and compare them.

    Logs a warning if they differ by rounding.

    Args:
        work: what follows `-w` in the command that messages name.
        readable_only: leave out views that cannot be read, of a store that may be damaged.

    Raises:
        ValueError: a view shows another picture than the one that was cached.
    """
    shard_count = layout.views * layout.shards
    largest_difference = 0.0
    positions = sorted({shard_count * i // SHARDS_CHECKED for i in range(SHARDS_CHECKED)})
    tasks = [divmod(position, layout.shards) for position in positions]
    receipts = read_receipts(storage, tasks, layout)
    for (view, shard), receipt in zip(tasks, receipts, strict=True):
        for canary in (receipt or {}).get("canaries", ()):
            index = layout.rows(shard)[canary["row"]]
            try:
                crop = views[index, view]["crop"]
            except ValueError:
                if readable_only:
                    continue
                raise
            difference = compare_canary(canary, crop)
            if difference > TOLERANCE:
                raise ValueError(
                    f"{storage}: view {view} of {views.samples.ids[index]} is another picture than "
                    f"the one that was cached (mean difference {difference:.0f} of 255): its image "
                    "has changed. Restore the image, or rebuild the store with "
                    f"`fpd cache-heatmaps -w {work} --overwrite`"
                )
            largest_difference = max(largest_difference, difference)
    if largest_difference:
        log.warning(
            "crops differ by rounding from those that were cached (mean difference of a thumbnail: "
            "%.2g of 255): cached with %s, cut now with %s",
            largest_difference,
            _format_versions(manifest.get("versions", {})),
            _format_versions(versions()),
        )


def _format_versions(by_library: dict[str, str]) -> str:
    return ", ".join(
        f"{name} {by_library.get(name, 'unknown')}" for name in ("cv2", "numpy", "fpd")
    )
