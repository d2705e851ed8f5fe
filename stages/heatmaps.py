"""Stage 2: run the teacher once over every view, and keep what it says.

    fpd cache-heatmaps -w work/demo

In: the data set, `teacher/`. Out: `heatmaps.zarr`. Only shards that are missing are made.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data.readers import load
from ..data.samples import SampleSet
from ..data.targets import decode
from ..pipeline.inputs import normalise
from ..pipeline.recipe import Recipe
from ..pipeline.store import (
    Layout,
    Shard,
    StoreWriter,
    dequantise,
    layout_of,
    make_manifest,
    quantise,
)
from ..pipeline.training.feed import Key, make_loader, stored_views
from ..pipeline.training.loop import Interrupted, stop_requested
from ..pipeline.training.train import load_model
from ..pipeline.workdir import WorkDir, sha256

log = logging.getLogger("fpd")

# Where a joint is, is only asked of maps that show one: below this peak there is none to displace.
SHOWS_A_JOINT = 0.1

STOPPED = "cache-heatmaps stopped; whole shards are kept, the same command makes the rest"


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, *, overwrite: bool = False
) -> dict[str, Any]:
    """Fill the store, or what is missing of it.

    Args:
        overwrite: remove a store that is there first.

    Returns:
        Sizes and errors: "views", "samples", "written" (shards), "bytes", "float16_bytes",
        "bytes_per_view", "measured".

    Raises:
        ValueError: there is no finished teacher, or the store was made for something else.
        Interrupted: after a signal; whole shards are kept.
    """
    if not work.teacher.finished:
        raise ValueError(
            f"{work.teacher.path} has no finished teacher: run `fpd run teacher -w {work.root}`"
        )
    samples = load(recipe.data, "train")
    layout = layout_of(recipe, samples)
    manifest = make_manifest(recipe, samples, sha256(work.teacher.weights))
    if overwrite and work.store.exists():
        shutil.rmtree(work.store)
    writer = StoreWriter(work.store, manifest, layout, work.root)
    missing = writer.coverage().missing
    if missing:
        log.info("caching %d of %d shards", len(missing), layout.views * layout.shards)
        network = load_model(work.teacher, layout.joints, device)
        _fill(writer, missing, network, recipe, samples, device)
    found = writer.finish()
    count = layout.views * layout.samples
    return {
        "views": layout.views,
        "samples": layout.samples,
        "written": len(missing),
        "bytes": found.bytes(),
        "bytes_per_view": found.bytes() / count,
        "float16_bytes": layout.float16_bytes,
        "measured": found.measured(),
    }


def _fill(
    writer: StoreWriter,
    missing: list[tuple[int, int]],
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
) -> None:
    """One loader runs through all missing shards, so that it reads on while a shard is written."""
    layout, size = writer.layout, recipe.store.batch
    keys = [batch for view, shard in missing for batch in _batches(layout, view, shard, size)]
    loader = make_loader(stored_views(recipe, samples), keys, recipe.loader, device)
    total = sum(len(layout.rows(shard)) for _, shard in missing)
    with (
        stop_requested() as stop,
        tqdm(total=total, desc="cache-heatmaps", unit="view", leave=False, disable=None) as bar,
    ):
        answers = _answers(network, loader, recipe.store.max_error, device, bar, stop)
        for view, shard in missing:
            parts = [next(answers) for _ in _batches(layout, view, shard, size)]
            writer.write(_join(view, shard, parts))
        if stop.is_set():
            raise Interrupted(STOPPED)


def _batches(layout: Layout, view: int, shard: int, size: int) -> list[list[Key]]:
    """A shard's views, cut the same way whatever else is missing: the same bytes every time."""
    rows = layout.rows(shard)
    return [[(i, view) for i in rows[start : start + size]] for start in range(0, len(rows), size)]


def _answers(
    network: nn.Module,
    loader: Any,
    max_error: float,
    device: torch.device,
    bar: tqdm[Any],
    stop: threading.Event,
) -> Iterator[dict[str, Any]]:
    """What the teacher says of each batch, quantised on its device."""
    with torch.inference_mode():
        for batch in loader:
            if stop.is_set():
                raise Interrupted(STOPPED)
            heatmaps = network(normalise(batch["crop"], device))[-1].float()
            stored, peaks = quantise(heatmaps, max_error)
            yield {
                "heatmaps": stored.cpu().numpy(),
                "peaks": peaks.cpu().numpy(),
                "parameters": batch["parameters"].numpy(),
                "cost": _cost(heatmaps, stored, peaks, max_error).cpu().double().numpy(),
            }
            bar.update(len(stored))


def _cost(heatmaps: Tensor, stored: Tensor, peaks: Tensor, max_error: float) -> Tensor:
    """What storing maps changes: float32 (B, K, 3) of largest error and mean squared error, as
    shares of the peak, and displacement of the decoded joint in heatmap pixels (NaN: no joint).
    """
    wanted = heatmaps.clamp_min(0)
    kept = dequantise(stored, peaks.float(), max_error)
    share = (kept - wanted).abs() / peaks.float().clamp_min(1e-9)[..., None, None]
    moved = (decode(kept)[0] - decode(wanted)[0]).norm(dim=-1)
    moved = torch.where(peaks > SHOWS_A_JOINT, moved, torch.nan)
    share = torch.where((peaks > 0)[..., None, None], share, 0.0)
    return torch.stack([share.amax((-2, -1)), share.square().mean((-2, -1)), moved], dim=-1)


def _join(view: int, shard: int, parts: list[dict[str, Any]]) -> Shard:
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    largest, squared, moved = np.moveaxis(joined["cost"], -1, 0)
    shown = moved[~np.isnan(moved)]
    return Shard(
        view,
        shard,
        joined["heatmaps"],
        joined["peaks"],
        joined["parameters"],
        measured={
            "max_error": float(largest.max()),
            "mean_squared_error": float(squared.mean()),
            "max_displacement_px": float(shown.max(initial=0.0)),
            "mean_displacement_px": float(shown.mean()) if shown.size else 0.0,
            "mean_peak": float(joined["peaks"].astype(np.float64).mean()),
        },
    )
