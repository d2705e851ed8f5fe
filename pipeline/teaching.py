"""What the teacher says of views, as floats and as stored.

Shape letters: B batch, S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.targets import decode as decode_joints
from ..data.targets import mirror
from .inputs import normalise
from .memory import room_for
from .sizes import counted
from .store import Coded, decode, encode
from .store.canaries import Canary, canary_rows, make_canary
from .store.code import FAINT_PEAK
from .store.writer import Shard

Columns = dict[str, NDArray[Any]]

Ask = Callable[[Tensor], Tensor]
"""From crops, uint8 (B, S, S, 3), to the teacher's heatmaps, float32 (B, K, H, W) on its device."""


def asker(network: nn.Module, device: torch.device, mirror_joints: tuple[int, ...] | None) -> Ask:
    """How a network is asked.

    Args:
        mirror_joints: the skeleton's, to average each answer with its mirrored twin (at twice the
            passes): then the answer to a mirrored crop is the mirrored answer, exactly. None: not.
    """

    def ask(crop_BSS3: Tensor) -> Tensor:
        inputs = normalise(crop_BSS3, device)
        said: Tensor = network(inputs)[-1].float()
        if mirror_joints is None:
            return said
        twin = mirror(network(inputs.flip(-1))[-1].float(), mirror_joints)
        return (said + twin) / 2

    return ask


def answers(
    ask: Ask, batches: Iterable[Mapping[str, Tensor]], max_error: float
) -> Iterator[Columns]:
    """What the teacher says of each batch, encoded on its device.

    Yields:
        "heatmaps", "steps", "peaks", "parameters" as stored, "cost" of storing them (see `cost`),
        and "crop", uint8 (B, S, S, 3).
    """
    for batch in batches:
        views = len(batch["crop"])
        room = room_for(
            f"the teacher, asked about {counted(views, 'view')} at once,",
            f"--set store.batch={max(1, views // 2)} asks about fewer",
        )
        with room, torch.inference_mode():  # not around the yield: it would be on elsewhere
            heatmaps = ask(batch["crop"])
            coded = encode(heatmaps, max_error)
            columns = {
                "heatmaps": coded.coefficients.cpu().numpy(),
                "steps": coded.steps.cpu().numpy(),
                "peaks": coded.peaks.cpu().numpy(),
                "parameters": batch["parameters"].numpy(),
                "cost": cost(heatmaps, coded).cpu().double().numpy(),
                "crop": batch["crop"].numpy(),
            }
        yield columns


def cost(heatmaps_BKHW: Tensor, coded: Coded) -> Tensor:
    """What storing maps changes.

    Returns:
        float32 (B, K, 3): largest error and mean squared error, as shares of the peak (of
        `FAINT_PEAK` where that is higher), and displacement of the decoded joint in heatmap pixels
        (NaN: the map is too faint to show one).
    """
    wanted = heatmaps_BKHW.clamp_min(0)
    kept = decode(coded.coefficients, coded.steps, wanted.shape[-1])
    unit = coded.peaks.float().clamp_min(FAINT_PEAK)[..., None, None]
    share = (kept - wanted).abs() / unit
    moved = (decode_joints(kept)[0] - decode_joints(wanted)[0]).norm(dim=-1)
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
