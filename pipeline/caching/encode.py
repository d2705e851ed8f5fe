"""The teacher's heatmaps of views, encoded as the store holds them.

Shape letters: B batch, S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...data.heatmap_codec import decode
from ..models.predictor import HeatmapPredictor, teacher_input
from ..runtime.memory import explain_out_of_memory
from ..runtime.text import pluralize
from ..store import CompressedHeatmaps, decompress
from ..store.canaries import Canary, canary_rows, make_canary
from ..store.compression import FAINT_PEAK, check_finite, compress_unchecked, total
from ..store.writer import LabeledCrops, Shard

Columns = dict[str, NDArray[Any]]
"""Values of consecutive views, by name, with the views along the first axis."""


def encode_batches(
    predictor: HeatmapPredictor, batches: Iterable[Mapping[str, Tensor]], max_error: float
) -> Iterator[Columns]:
    """Run the teacher on each batch, and encode its heatmaps on its device.

    On a GPU, a batch is fetched after the next one was launched, so that the GPU need not wait.

    Args:
        batches: of views: "crop", uint8 (B, S, S, 3) RGB, and "parameters"; for a portable store
            also "jpeg" and "joints"; for a teacher with crops of its own size, "teacher_crop".
        max_error: largest error of a stored pixel, as a share of its map's peak.

    Yields:
        "heatmaps", "steps", "peaks" and "parameters" as stored, "encoding_error" (see
        `encoding_error`), and "crop"; for a portable store also "jpegs" (an array of byte strings)
        and "joints".

    Raises:
        ValueError: a batch does not fit into memory, or heatmaps are not finite.
    """
    launched: EncodedBatch | None = None
    try:
        for batch in batches:
            following = _encode(predictor, batch, max_error)
            if launched is not None:
                yield launched.fetch()
            launched = following
            if launched.is_on_cpu:
                yield launched.fetch()
                launched = None
    except (ValueError, OSError):  # of a later batch
        if launched is not None:
            yield launched.fetch()
        raise
    if launched is not None:
        yield launched.fetch()


@dataclass(frozen=True)
class EncodedBatch:
    """A batch of views, whose heatmaps may still be on their way from a GPU.

    Attributes:
        batch: as it was read.
        columns: the results by name, on the CPU once `arrived`.
        total: of the heatmaps, see `compression.total`.
        arrived: None: they are there.
    """

    batch: Mapping[str, Any]
    columns: dict[str, Tensor]
    total: Tensor
    arrived: torch.cuda.Event | None

    @property
    def is_on_cpu(self) -> bool:
        return self.arrived is None

    def fetch(self) -> Columns:
        """Wait for the results.

        Raises:
            ValueError: heatmaps are not finite.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        check_finite(self.total)
        columns = {name: values.numpy() for name, values in self.columns.items()}
        columns["encoding_error"] = columns["encoding_error"].astype(np.float64)
        names = ["parameters", "crop"] + (["joints"] if "jpeg" in self.batch else [])
        columns |= {name: self.batch[name].numpy() for name in names}
        if "jpeg" in self.batch:
            columns["jpegs"] = np.array(self.batch["jpeg"], object)
        return columns


def _encode(
    predictor: HeatmapPredictor, batch: Mapping[str, Tensor], max_error: float
) -> EncodedBatch:
    """Run the teacher and encode its heatmaps, without waiting for a GPU."""
    views = len(batch["crop"])
    out_of_memory_explained = explain_out_of_memory(
        f"the teacher's pass over {pluralize(views, 'view')}",
        f"--set store.batch_size={max(1, views // 2)} takes fewer at once",
    )
    with out_of_memory_explained, torch.inference_mode():
        heatmaps = predictor(*teacher_input(batch))
        compressed = compress_unchecked(heatmaps, max_error)
        on_device = {
            "heatmaps": compressed.coefficients,
            "steps": compressed.steps,
            "peaks": compressed.peaks,
            "encoding_error": encoding_error(heatmaps, compressed),
            "total": total(heatmaps, compressed.peaks),
        }
        columns = {name: values.to("cpu", non_blocking=True) for name, values in on_device.items()}
        arrived = None
        if heatmaps.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(heatmaps.device))
    return EncodedBatch(batch, columns, columns.pop("total"), arrived)


def encoding_error(heatmaps_BKHW: Tensor, compressed: CompressedHeatmaps) -> Tensor:
    """The difference between the heatmaps and what the store returns for them.

    Returns:
        float32 (B, K, 3): the largest error and the mean squared error, as shares of the peak (of
        `FAINT_PEAK` if that is higher), and the displacement of the decoded joint in heatmap pixels
        (NaN for maps fainter than that).
    """
    expected = heatmaps_BKHW.clamp_min(0)
    stored = decompress(compressed.coefficients, compressed.steps, expected.shape[-1])
    unit = compressed.peaks.float().clamp_min(FAINT_PEAK)[..., None, None]
    error = (stored - expected).abs() / unit
    displacement = (decode(stored)[0] - decode(expected)[0]).norm(dim=-1)
    displacement = torch.where(compressed.peaks > FAINT_PEAK, displacement, torch.nan)
    return torch.stack([error.amax((-2, -1)), error.square().mean((-2, -1)), displacement], dim=-1)


def take_canaries(columns: Columns, first_row: int, shard_rows: int) -> list[Canary]:
    """Make the canaries of a batch, and remove its crops: a shard's crops would fill the memory.

    Args:
        columns: of the batch; "crop" is removed.
        first_row: the row of the shard that the batch starts at.
        shard_rows: number of rows of the shard.
    """
    crops = columns.pop("crop")
    batch_rows = range(first_row, first_row + len(crops))
    return [
        make_canary(row, crops[row - first_row])
        for row in canary_rows(shard_rows)
        if row in batch_rows
    ]


def make_shard(view: int, shard: int, batches: list[Columns], canaries: list[Canary]) -> Shard:
    """Join a shard's batches, from which `take_canaries` has removed the crops."""
    joined = {key: np.concatenate([columns[key] for columns in batches]) for key in batches[0]}
    return Shard(
        view,
        shard,
        joined["heatmaps"],
        joined["steps"],
        joined["peaks"],
        joined["parameters"],
        encoding_error=summarize_errors(joined["encoding_error"], joined["peaks"]),
        canaries=canaries,
        labeled_crops=(
            LabeledCrops(joined["jpegs"].tolist(), joined["joints"]) if "jpegs" in joined else None
        ),
    )


def summarize_errors(
    errors_NK3: NDArray[np.float64], peaks_NK: NDArray[np.float16]
) -> dict[str, float]:
    """Summarize many views: maxima and means of `encoding_error`, and the mean peak."""
    max_errors, squared_errors, displacements = np.moveaxis(errors_NK3, -1, 0)
    displacements = displacements[~np.isnan(displacements)]
    return {
        "max_error": float(max_errors.max()),
        "mean_squared_error": float(squared_errors.mean()),
        "max_displacement_px": float(displacements.max(initial=0.0)),
        "mean_displacement_px": float(displacements.mean()) if displacements.size else 0.0,
        "mean_peak": float(peaks_NK.astype(np.float64).mean()),
    }
