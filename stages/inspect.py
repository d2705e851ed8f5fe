"""Beside the stages: what a store holds, in numbers and as a picture of one view.

    fpd inspect-cache -w work/demo
    fpd inspect-cache -w work/demo --view figures/train/000007 0 -o view.png

In: `heatmaps.zarr`, whole or not; for a picture also the data set, and `teacher/` where it is to be
compared with the live one. Out: the picture.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.datasets import load
from ..data.heatmap_codec import decode
from ..data.samples import SampleSet
from ..pipeline.caching.figure import CachedFigure
from ..pipeline.caching.figure import draw as draw_teaching
from ..pipeline.config.recipe import Recipe, stored_views
from ..pipeline.runtime.text import show_ranges
from ..pipeline.store import (
    Coverage,
    Files,
    Layout,
    StoreReader,
    check_manifest,
    coverage,
    decompress,
    make_manifest,
    read_manifest,
    store_files,
    stored_layout,
)
from ..pipeline.store.compression import FAINT_PEAK
from ..pipeline.store.coverage import read_receipt
from ..pipeline.store.schema import ARRAYS
from ..pipeline.teachers import HeatmapSource, expected_entry, find_teacher
from ..pipeline.training.dataset import CachedView, DistillationViews
from ..pipeline.workdir import WorkDir


def run(work: WorkDir, recipe: Recipe) -> dict[str, Any]:
    """What a store holds, by its own manifest and receipts; the data set is not needed.

    Returns:
        "location"; "manifest"; "layout" ("views", "samples", "shards" of a view, "shard_samples");
        "coverage" ("shards" called for, "present"; view numbers as ranges: "whole_views",
        "empty_views"; "partial_views", each with "present" and "missing" shards); "bytes" (by
        array under "arrays", "total", "a_view", and "float16_a_view", "times_smaller"), of the
        shards that are there; "encoding_error" errors of the same; "canaries", their number.

    Raises:
        ValueError: there is no store, or its metadata is damaged.
    """
    files = _open(work, recipe)
    found = coverage(files, stored_layout(files))
    layout = found.layout
    return {
        "location": str(files),
        "manifest": read_manifest(files),
        "layout": {
            "views": layout.views,
            "samples": layout.samples,
            "shards": layout.shards,
            "shard_samples": layout.shard_samples,
        },
        "coverage": _coverage(found),
        "bytes": _bytes(found),
        "encoding_error": found.measured(),
        "canaries": sum(len(receipt.get("canaries", ())) for receipt in found.receipts),
    }


def _open(work: WorkDir, recipe: Recipe) -> Files:
    files = store_files(work, recipe)
    if not files.exists():
        raise ValueError(
            f"there is no heatmap store at {files}: make one with `fpd cache-heatmaps -w "
            f"{work.named(recipe)}`, or say with --store where it is"
        )
    return files


def _coverage(found: Coverage) -> dict[str, Any]:
    layout = found.layout
    missing: dict[int, list[int]] = defaultdict(list)
    for view, shard in found.missing:
        missing[view].append(shard)
    whole = set(range(layout.views)) - missing.keys()
    empty = [view for view, shards in missing.items() if len(shards) == layout.shards]
    partial = sorted(missing.keys() - set(empty))
    return {
        "shards": found.total,
        "present": len(found.receipts),
        "whole_views": show_ranges(whole, RANGES_SHOWN),
        "empty_views": show_ranges(empty, RANGES_SHOWN),
        "partial_views": {
            str(view): {
                "present": layout.shards - len(missing[view]),
                "missing": show_ranges(missing[view], RANGES_SHOWN),
            }
            for view in partial
        },
    }


def _bytes(found: Coverage) -> dict[str, Any]:
    arrays: Counter[str] = Counter()
    for receipt in found.receipts:
        arrays.update({name: receipt["arrays"][name]["bytes"] for name in ARRAYS})
    layout, samples, total = found.layout, found.samples(), found.bytes()
    float16 = layout.float16_bytes // (layout.views * layout.samples)
    return {
        "arrays": {name: arrays[name] for name in ARRAYS},
        "total": total,
        "a_view": total / max(1, samples),
        "float16_a_view": float16,
        "times_smaller": float16 * samples / total if total else None,
    }


def draw(
    work: WorkDir, recipe: Recipe, device: torch.device, sample: str, view: int, out: Path
) -> dict[str, Any]:
    """Draw one view of one sample as the store has it, beside the live teacher where there is one.

    Args:
        sample: its id, or its index in the data set.
        out: the picture's file.

    Returns:
        "sample" (its id), "index", "view", "bound" (on a pixel's error, as a share of its map's
        peak), "error" (the largest, against the live teacher; None: not compared), "not_compared"
        (why; None: compared).

    Raises:
        ValueError: there is no such store, sample or view, or the store was made for something
            else than the work directory's recipe.
    """
    files = _open(work, recipe)
    samples = load(recipe.data, "train")
    manifest = read_manifest(files)
    entry = expected_entry(work.teacher, recipe, manifest, trusting=True)
    check_manifest(files, make_manifest(recipe, samples, entry), manifest, work.named(recipe))
    layout = stored_layout(files)
    index = _find(samples, sample)
    _check_written(files, layout, view, index, work.named(recipe))
    store = StoreReader(files, layout, work.named(recipe))
    cached = DistillationViews(stored_views(recipe, samples), store)[index, view]
    source = find_teacher(work.teacher, recipe, samples.skeleton)
    not_compared = _why_not_compared(work, recipe, source, manifest["teacher"]["sha256"])
    live = None if source is None or not_compared else _ask(source, cached["crop"], device)
    title = _title(recipe, samples.ids[index], view, cached, not_compared)
    teaching = _teaching(recipe, samples, cached, live, title)
    draw_teaching(teaching, out)
    errors = teaching.errors_KHW
    return {
        "sample": samples.ids[index],
        "index": index,
        "view": view,
        "bound": recipe.store.max_error,
        "error": None if errors is None else float(np.abs(errors).max()),
        "not_compared": not_compared,
    }


def _find(samples: SampleSet, sample: str) -> int:
    """The index of a sample, given as its id or as that."""
    if sample in samples.ids:
        return samples.ids.index(sample)
    if sample.isdecimal() and int(sample) < len(samples):
        return int(sample)
    raise ValueError(
        f"expected a sample's id such as {samples.ids[0]}, or an index in 0..{len(samples) - 1}, "
        f"got {sample!r}"
    )


def _check_written(files: Files, layout: Layout, view: int, index: int, work: str) -> None:
    if not 0 <= view < layout.views:
        raise ValueError(f"expected a view in 0..{layout.views - 1} of {files}, got {view}")
    shard, _ = layout.locate(index)
    if read_receipt(files, view, shard) is None:
        raise ValueError(
            f"view {view} of sample {index} (shard {shard}) is not written in {files} yet: "
            f"`fpd inspect-cache -w {work}` says what is, `fpd cache-heatmaps -w {work}` "
            "makes the rest"
        )


def _why_not_compared(
    work: WorkDir, recipe: Recipe, source: HeatmapSource | None, teacher_sha256: str
) -> str | None:
    """Why the live teacher cannot be asked, if so."""
    place = ", ".join(recipe.store.teachers) or str(work.teacher.path)
    if source is None:
        return f"no teacher in {place} to compare with"
    if source.entry["sha256"] != teacher_sha256:
        return f"{place} has another teacher than the store's: not compared"
    return None


def _ask(source: HeatmapSource, crop_SS3: NDArray[np.uint8], device: torch.device) -> Tensor:
    """float32 (K, H, W), of one crop."""
    predictor = source.predictor(device)
    with torch.inference_mode():
        return predictor(torch.from_numpy(crop_SS3[None]))[0].cpu()


def _teaching(
    recipe: Recipe, samples: SampleSet, cached: CachedView, live: Tensor | None, title: str
) -> CachedFigure:
    """What is drawn of a view."""
    geometry = recipe.geometry
    coefficients, steps = (torch.from_numpy(cached[key][None]) for key in ("coefficients", "steps"))
    kept = decompress(coefficients, steps, geometry.heatmap_px)
    decoded_K2 = decode(kept)[0][0].double().numpy()
    decoded_K2[cached["peaks"] <= FAINT_PEAK] = np.nan
    unit = torch.from_numpy(cached["peaks"]).float().clamp_min(FAINT_PEAK)[:, None, None]
    errors = None if live is None else (kept[0] - live.clamp_min(0)) / unit
    return CachedFigure(
        title=title,
        crop_SS3=cached["crop"],
        labels_K2=geometry.to_crop(cached["joints"].astype(np.float64)),
        decoded_K2=geometry.to_crop(decoded_K2),
        joints=samples.skeleton.joints,
        limbs=samples.skeleton.limbs,
        cached_KHW=kept[0].numpy(),
        peaks_K=cached["peaks"],
        max_error=recipe.store.max_error,
        live_KHW=None if live is None else live.numpy(),
        errors_KHW=None if errors is None else errors.numpy(),
    )


def _title(
    recipe: Recipe, sample: str, view: int, cached: CachedView, not_compared: str | None
) -> str:
    scale, rotation_deg, mirrored = cached["parameters"]
    lines = [
        f"{sample} (sample {cached['index']}), view {view}: scale {scale:.3f}, "
        f"rotation {rotation_deg:+.1f}°{', mirrored' if mirrored else ''}"
    ]
    if recipe.flip_averaged:
        lines.append(
            "averaged with the mirrored twin: the student mirrors this view itself, exactly"
        )
    return "\n".join([*lines, *([not_compared] if not_compared else [])])


RANGES_SHOWN = 20
"""Ranges of view numbers, or of missing shards, before they are pluralize instead."""
