"""Canaries: pixels of a few views, kept with each shard, for the student to make again.

Equal parameters do not make equal pixels: another image decoder, another interpolation, an image
edited in place. A canary has the exact digest of an augmented crop and a thumbnail of it, so that
"the same", "the same but for rounding" and "another picture" are told apart.
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
from .coverage import read_receipt
from .schema import Layout
from .storage import Files

log = logging.getLogger("fpd")

Canary = dict[str, Any]

PER_SHARD = 2

SHARDS_CHECKED = 16
"""Two dozen crops or so: a tenth of a second, whatever the store's size."""

THUMBNAIL_PX = 16

TOLERANCE = 3.0
"""Largest mean difference of thumbnails, gray levels of 255, that passes as another decoder's
rounding. JPEG decoders differ by 1 or 2 levels here and there; another picture by dozens."""


def canary_rows(rows: int) -> list[int]:
    """The rows of a shard that are canaries: spread evenly, the first among them."""
    return sorted({rows * i // PER_SHARD for i in range(PER_SHARD)})


def make_canary(row: int, crop: NDArray[np.uint8]) -> Canary:
    """What is kept of a view's crop, uint8 (S, S, 3)."""
    return {
        "row": row,
        "blake2b": _digest(crop),
        "thumbnail": base64.b64encode(_thumbnail(crop).tobytes()).decode(),
    }


def compare_canary(canary: Canary, crop: NDArray[np.uint8]) -> float:
    """How far a crop is from the one that was cached.

    Returns:
        0 where every pixel is equal; else the mean difference of the thumbnails, gray levels, above
        0; infinity where the canary is damaged.
    """
    if canary.get("blake2b") == _digest(crop):
        return 0.0
    try:
        kept = np.frombuffer(base64.b64decode(canary["thumbnail"]), np.uint8)
        difference = kept.astype(float) - _thumbnail(crop).reshape(-1)
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
    files: Files, layout: Layout, views: Views, manifest: dict[str, Any], work: object
) -> None:
    """Cut canaries of up to `SHARDS_CHECKED` shards again, spread over views and samples.

    Pixels that differ by rounding are let pass with a warning.

    Raises:
        ValueError: a view shows another picture than the teacher saw.
    """
    total = layout.views * layout.shards
    worst = 0.0
    for place in sorted({total * i // SHARDS_CHECKED for i in range(SHARDS_CHECKED)}):
        view, shard = divmod(place, layout.shards)
        receipt = read_receipt(files, view, shard) or {}
        for canary in receipt.get("canaries", ()):
            index = layout.rows(shard)[canary["row"]]
            difference = compare_canary(canary, views[index, view]["crop"])
            if difference > TOLERANCE:
                raise ValueError(
                    f"{files}: view {view} of {views.samples.ids[index]} is another picture than "
                    f"the teacher saw (mean difference {difference:.0f} of 255): its image has "
                    "changed. Bring the image back, or make the store anew with "
                    f"`fpd cache-heatmaps -w {work} --overwrite`"
                )
            worst = max(worst, difference)
    if worst:
        log.warning(
            "crops differ from those that were cached by rounding (%.2g of 255 in the mean of a "
            "thumbnail): cached with %s, here %s",
            worst,
            _libraries(manifest.get("versions", {})),
            _libraries(versions()),
        )


def _libraries(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {found.get(name, 'unknown')}" for name in ("cv2", "numpy", "fpd"))
