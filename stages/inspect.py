"""Beside the stages: what a heatmap store contains, in numbers or as a figure of one view.

    fpd inspect-cache -w work/demo
    fpd inspect-cache -w work/demo --view figures/train/000007 0 -o view.png

Reads `heatmaps.zarr`, complete or not; for a figure also the data set and, to compare with, the
teacher if there is one. Writes the figure.

Shape letters: S crop side, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..data.heatmap_codec import decode
from ..data.samples import SampleSet
from ..pipeline.caching.figure import CachedFigure
from ..pipeline.caching.figure import draw as draw_figure
from ..pipeline.config.recipe import Recipe, stored_views
from ..pipeline.models.predictor import HeatmapPredictor, input_crop, teacher_input
from ..pipeline.runtime.files import check_output, write_json
from ..pipeline.runtime.text import show_ranges
from ..pipeline.store import (
    Coverage,
    Layout,
    Storage,
    StoreReader,
    check_manifest,
    coverage,
    decompress,
    make_manifest,
    open_storage,
    read_manifest,
    stored_layout,
)
from ..pipeline.store.compression import FAINT_PEAK
from ..pipeline.store.coverage import read_receipt
from ..pipeline.store.dataset import load_samples
from ..pipeline.store.manifest import has_shards
from ..pipeline.store.match import views_of
from ..pipeline.store.splits import stored_parts
from ..pipeline.teachers import CodeNotAllowed, HeatmapSource, expected_entry, find_teacher
from ..pipeline.training.dataset import CachedView, DistillationViews
from ..pipeline.workdir import WorkDir

RANGES_SHOWN = 20
"""Ranges of view or shard numbers that are listed; the rest are counted."""


def run(work: WorkDir, recipe: Recipe, json_path: Path | None = None) -> dict[str, Any]:
    """Describe a store by its own manifest and receipts; the data set is not read.

    Args:
        json_path: file to write the report to.

    Returns:
        "location"; "manifest"; "layout" ("views", "samples", "shards" of a view, "shard_samples");
        "coverage" ("shards" needed and "present"; as ranges of view numbers "complete_views" and
        "empty_views"; "partial_views", each with its "present" and "missing" shards); "bytes" of
        the present shards (by array under "arrays", "total", "per_view", and for comparison
        "float16_per_view" and "compression_ratio"); their "encoding_error"; "canaries", the number
        of views whose pixels are recorded for checking; "splits", the groups of samples of a
        portable store (none of another), each with its number of "samples", of those "present",
        whether it has "crops", and its "bytes".

    Raises:
        ValueError: there is no store, its metadata is damaged, or `json_path` cannot be written.
    """
    check_output(json_path, ())
    store = _open(work, recipe)
    present = coverage(store, stored_layout(store, work.command_options(recipe)))
    layout, manifest = present.layout, read_manifest(store)
    report = {
        "location": str(store),
        "manifest": manifest,
        "layout": {
            "views": layout.views,
            "samples": layout.samples,
            "shards": layout.shards,
            "shard_samples": layout.shard_samples,
        },
        "coverage": _count_shards(present),
        "bytes": _count_bytes(present),
        "encoding_error": present.encoding_error(),
        "canaries": sum(len(receipt.get("canaries", ())) for receipt in present.receipts),
        "splits": {
            part.folder: _count_samples(coverage(part, split_layout))
            for part, split_layout in stored_parts(store, manifest)
        },
    }
    if json_path is not None:
        write_json(json_path, report, sort_keys=False)
    return report


def _open(work: WorkDir, recipe: Recipe) -> Storage:
    store = open_storage(work.store_location(recipe))
    if not store.exists() and not has_shards(store):
        raise ValueError(
            f"there is no heatmap store at {store}: make one with `fpd cache-heatmaps -w "
            f"{work.command_options(recipe)}`, or give its location with --store"
        )
    return store


def _count_shards(present: Coverage) -> dict[str, Any]:
    layout = present.layout
    missing_by_view: dict[int, list[int]] = defaultdict(list)
    for view, shard in present.missing:
        missing_by_view[view].append(shard)
    complete_views = set(range(layout.views)) - missing_by_view.keys()
    empty_views = {view for view, shards in missing_by_view.items() if len(shards) == layout.shards}
    partial_views = sorted(missing_by_view.keys() - empty_views)
    return {
        "shards": present.total,
        "present": len(present.receipts),
        "complete_views": show_ranges(complete_views, RANGES_SHOWN),
        "empty_views": show_ranges(empty_views, RANGES_SHOWN),
        "partial_views": {
            str(view): {
                "present": layout.shards - len(missing_by_view[view]),
                "missing": show_ranges(missing_by_view[view], RANGES_SHOWN),
            }
            for view in partial_views
        },
    }


def _count_bytes(present: Coverage) -> dict[str, Any]:
    bytes_by_array: Counter[str] = Counter()
    arrays = present.layout.arrays
    for receipt in present.receipts:
        bytes_by_array.update({name: receipt["arrays"][name]["bytes"] for name in arrays})
    layout, views, total = present.layout, present.samples(), present.bytes()
    float16_per_view = layout.float16_bytes // (layout.views * layout.samples)
    return {
        "arrays": {name: bytes_by_array[name] for name in arrays},
        "total": total,
        "per_view": total / max(1, views),
        "float16_per_view": float16_per_view,
        "compression_ratio": float16_per_view * views / total if total else None,
    }


def _count_samples(present: Coverage) -> dict[str, Any]:
    return {
        "samples": present.layout.samples,
        "present": present.samples(),
        "crops": present.layout.crop_px > 0,
        "bytes": present.bytes(),
    }


def draw(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    sample: str,
    view: int,
    out: Path,
    *,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Draw one stored view of one sample, beside the teacher's output where there is a teacher.

    Args:
        sample: its id, or its index in the data set.
        out: file of the figure.
        allow_code: run teachers that the recipe names as Python code (`package.module:factory`).

    Returns:
        "sample" (its id), "index", "view"; "bound", the store's largest allowed error of a pixel,
        as a share of its map's peak; "error", the largest difference from the teacher's output in
        the same unit (None: not compared); "not_compared", the reason (None: compared).

    Raises:
        ValueError: there is no such store, sample or view, or the store was made for another run.
    """
    store = _open(work, recipe)
    samples = load_samples(work, recipe, "train")
    manifest = read_manifest(store, work.command_options(recipe))
    entry = expected_entry(work.teacher, recipe, manifest, trusting=True)
    expected = make_manifest(recipe, samples, entry)
    check_manifest(store, expected, manifest, work.command_options(recipe))
    layout = stored_layout(store, work.command_options(recipe))
    index = _find_sample(samples, sample)
    _check_written(store, layout, view, index, work.command_options(recipe))
    reader = StoreReader(store, layout, work.command_options(recipe))
    cached_view = DistillationViews(views_of(recipe, samples, reader), reader)[index, view]

    try:
        teacher = find_teacher(work.teacher, recipe, samples.skeleton, allow_code=allow_code)
        not_compared = _why_not_compared(work, recipe, teacher, manifest["teacher"]["sha256"])
    except CodeNotAllowed:
        teacher, names = None, ", ".join(recipe.store.teachers)
        not_compared = f"teacher {names} is Python code, not run: not compared (--allow-code)"
    live_KHW = None
    if teacher is not None and not_compared is None:
        predictor = teacher.predictor(device)
        live_KHW = _run_teacher(predictor, recipe, samples, cached_view, view)

    title = _title(recipe, samples.ids[index], view, cached_view, not_compared)
    figure = _figure(recipe, samples, cached_view, live_KHW, title)
    draw_figure(figure, out)
    errors_KHW = figure.errors_KHW
    return {
        "sample": samples.ids[index],
        "index": index,
        "view": view,
        "bound": recipe.store.max_error,
        "error": None if errors_KHW is None else float(np.abs(errors_KHW).max()),
        "not_compared": not_compared,
    }


def _find_sample(samples: SampleSet, sample: str) -> int:
    """The index of a sample, given by its id or its index."""
    if sample in samples.ids:
        return samples.ids.index(sample)
    if sample.isdecimal() and int(sample) < len(samples):
        return int(sample)
    raise ValueError(
        f"expected a sample's id such as {samples.ids[0]}, or an index in 0..{len(samples) - 1}, "
        f"got {sample!r}"
    )


def _check_written(store: Storage, layout: Layout, view: int, index: int, work: str) -> None:
    if not 0 <= view < layout.views:
        raise ValueError(f"expected a view in 0..{layout.views - 1} of {store}, got {view}")
    shard, _ = layout.locate(index)
    if read_receipt(store, view, shard, layout) is None:
        raise ValueError(
            f"view {view} of sample {index} (shard {shard}) is not written in {store} yet: "
            f"`fpd inspect-cache -w {work}` lists what is, `fpd cache-heatmaps -w {work}` makes "
            "the rest"
        )


def _why_not_compared(
    work: WorkDir, recipe: Recipe, teacher: HeatmapSource | None, stored_sha256: str
) -> str | None:
    """The reason why the store's teacher cannot be run; None: it can."""
    location = ", ".join(recipe.store.teachers) or str(work.teacher.path)
    if teacher is None:
        return f"no teacher in {location} to compare with"
    if teacher.entry["sha256"] != stored_sha256:
        return f"the teacher in {location} is not the store's: not compared"
    return None


def _run_teacher(
    predictor: HeatmapPredictor, recipe: Recipe, samples: SampleSet, view: CachedView, number: int
) -> Tensor:
    """The teacher's heatmaps of one view: float32 (K, H, W), on the CPU.

    Args:
        number: of the view.
    """
    teacher_crop = input_crop(predictor)
    if teacher_crop is None:
        inputs: tuple[Tensor, ...] = (torch.from_numpy(view["crop"][None]),)
    else:
        views = stored_views(recipe, samples, teacher_crop)
        inputs = teacher_input(default_collate([views[view["index"], number]]))
    with torch.inference_mode():
        return predictor(*inputs)[0].cpu()


def _figure(
    recipe: Recipe,
    samples: SampleSet,
    cached_view: CachedView,
    live_KHW: Tensor | None,
    title: str,
) -> CachedFigure:
    """Decode a stored view, and compare it with the teacher's output.

    Args:
        live_KHW: float32, the teacher's output now; None: no comparison.
    """
    geometry = recipe.geometry
    coefficients, steps = (
        torch.from_numpy(cached_view[key][None]) for key in ("coefficients", "steps")
    )
    cached_KHW = decompress(coefficients, steps, geometry.heatmap_px)[0]
    decoded_K2 = decode(cached_KHW[None])[0][0].double().numpy()
    decoded_K2[cached_view["peaks"] <= FAINT_PEAK] = np.nan
    errors_KHW = None
    if live_KHW is not None:
        # As the store's error bound is defined: relative to the peak, and without negative values.
        peaks_K = torch.from_numpy(cached_view["peaks"]).float().clamp_min(FAINT_PEAK)
        errors_KHW = ((cached_KHW - live_KHW.clamp_min(0)) / peaks_K[:, None, None]).numpy()
    return CachedFigure(
        title=title,
        crop_SS3=cached_view["crop"],
        labels_K2=geometry.to_crop(cached_view["joints"].astype(np.float64)),
        decoded_K2=geometry.to_crop(decoded_K2),
        skeleton=samples.skeleton,
        cached_KHW=cached_KHW.numpy(),
        peaks_K=cached_view["peaks"],
        max_error=recipe.store.max_error,
        live_KHW=None if live_KHW is None else live_KHW.numpy(),
        errors_KHW=errors_KHW,
    )


def _title(
    recipe: Recipe, sample_id: str, view: int, cached_view: CachedView, not_compared: str | None
) -> str:
    scale, rotation_deg, is_flipped = cached_view["parameters"]
    lines = [
        f"{sample_id} (sample {cached_view['index']}), view {view}: scale {scale:.3f}, "
        f"rotation {rotation_deg:+.1f}°{', flipped' if is_flipped else ''}"
    ]
    if recipe.flip_averaged:
        lines.append("flip-averaged: the student flips this view itself")
    if not_compared is not None:
        lines.append(not_compared)
    return "\n".join(lines)
