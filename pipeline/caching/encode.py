"""What the teacher says of views, as floats and as stored.

Shape letters: B batch, S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.heatmap_codec import decode
from ..models.predictor import HeatmapPredictor
from ..runtime.memory import explain_out_of_memory
from ..runtime.text import pluralize
from ..store import CompressedHeatmaps, compress, decompress
from ..store.canaries import Canary, canary_rows, make_canary
from ..store.compression import FAINT_PEAK
from ..store.writer import Shard

Columns = dict[str, NDArray[Any]]


def encode_batches(
    predictor: HeatmapPredictor, batches: Iterable[Mapping[str, Tensor]], max_error: float
) -> Iterator[Columns]:
    """What the teacher says of each batch, encoded on its device.

    Yields:
        "heatmaps", "steps", "peaks", "parameters" as stored, "cost" of storing them (see `cost`),
        and "crop", uint8 (B, S, S, 3).
    """
    for batch in batches:
        views = len(batch["crop"])
        room = explain_out_of_memory(
            f"the teacher, asked about {pluralize(views, 'view')} at once,",
            f"--set store.batch_size={max(1, views // 2)} asks about fewer",
        )
        with room, torch.inference_mode():  # not around the yield: it would be on elsewhere
            heatmaps = predictor(batch["crop"])
            coded = compress(heatmaps, max_error)
            columns = {
                "heatmaps": coded.coefficients.cpu().numpy(),
                "steps": coded.steps.cpu().numpy(),
                "peaks": coded.peaks.cpu().numpy(),
                "parameters": batch["parameters"].numpy(),
                "cost": cost(heatmaps, coded).cpu().double().numpy(),
                "crop": batch["crop"].numpy(),
            }
        yield columns


def cost(heatmaps_BKHW: Tensor, coded: CompressedHeatmaps) -> Tensor:
    """What storing maps changes.

    Returns:
        float32 (B, K, 3): largest error and mean squared error, as shares of the peak (of
        `FAINT_PEAK` where that is higher), and displacement of the decoded joint in heatmap pixels
        (NaN: the map is too faint to show one).
    """
    wanted = heatmaps_BKHW.clamp_min(0)
    kept = decompress(coded.coefficients, coded.steps, wanted.shape[-1])
    unit = coded.peaks.float().clamp_min(FAINT_PEAK)[..., None, None]
    share = (kept - wanted).abs() / unit
    moved = (decode(kept)[0] - decode(wanted)[0]).norm(dim=-1)
    moved = torch.where(coded.peaks > FAINT_PEAK, moved, torch.nan)
    return torch.stack([share.amax((-2, -1)), share.square().mean((-2, -1)), moved], dim=-1)


def take_canaries(part: Columns, first_row: int, rows: int) -> list[Canary]:
    """The canaries among a batch, whose crops are let go of: a shard's would fill the memory.

    Args:
        first_row: the batch's first row in its shard.
        rows: of the shard.
    """
    crops = part.pop("crop")
    inside = range(first_row, first_row + len(crops))
    return [make_canary(row, crops[row - first_row]) for row in canary_rows(rows) if row in inside]


def make_shard(view: int, shard: int, parts: list[Columns], canaries: list[Canary]) -> Shard:
    """A shard of the batches that make it up, their canaries taken out."""
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Shard(
        view,
        shard,
        joined["heatmaps"],
        joined["steps"],
        joined["peaks"],
        joined["parameters"],
        measured=summary(joined["cost"], joined["peaks"]),
        canaries=canaries,
    )


def summary(cost_NK3: NDArray[np.float64], peaks_NK: NDArray[np.float16]) -> dict[str, float]:
    """The errors of many views in a few numbers."""
    largest, squared, moved = np.moveaxis(cost_NK3, -1, 0)
    shown = moved[~np.isnan(moved)]
    return {
        "max_error": float(largest.max()),
        "mean_squared_error": float(squared.mean()),
        "max_displacement_px": float(shown.max(initial=0.0)),
        "mean_displacement_px": float(shown.mean()) if shown.size else 0.0,
        "mean_peak": float(peaks_NK.astype(np.float64).mean()),
    }
