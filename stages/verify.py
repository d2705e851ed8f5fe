"""HeatmapPredictor whether a store holds what it should, and mend it where it does not.

    fpd verify-cache -w work/demo --samples 256
    fpd verify-cache -w work/demo --deep --repair

In: the data set, `heatmaps.zarr`, `teacher/` (without it, whatever can be told without). Out: with
`repair`, the shards that were missing or damaged.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.datasets import load
from ..data.samples import SampleSet
from ..pipeline.caching.encode import cost
from ..pipeline.caching.fill import fill
from ..pipeline.config.recipe import Recipe, stored_views
from ..pipeline.models.predictor import HeatmapPredictor
from ..pipeline.runtime.loader import make_loader
from ..pipeline.runtime.text import pluralize
from ..pipeline.store import (
    CachedHeatmaps,
    CompressedHeatmaps,
    Files,
    Layout,
    StoreReader,
    StoreWriter,
    check_canaries,
    check_manifest,
    coverage,
    make_manifest,
    read_manifest,
    served_layout,
    store_files,
)
from ..pipeline.store.compression import FAINT_PEAK
from ..pipeline.store.verify import (
    CheckedView,
    Damage,
    SampleView,
    Verification,
    damaged_metadata,
    examine,
    spread,
)
from ..pipeline.teachers import expected_entry, find_teacher
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

ROUNDING = 0.01
"""Allowed beyond the store's bound, as a share of the peak: convolutions round in other ways in
batches of another size (3e-6 at most, for a 2 x 64 hourglass on a CPU) and on devices that multiply
with fewer bits (6e-3, its factors rounded to TF32's 10 bits). Another answer is off by far more."""


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    cells: int = 64,
    deep: bool = False,
    repair: bool = False,
) -> Verification:
    """Check a store, and with `repair` have the teacher make again what is missing or damaged.

    Args:
        cells: views of single samples to compare with the live teacher.
        deep: read every byte; else only sizes are looked at, and what the cells need.

    Raises:
        ValueError: there is no store, it was made for something else or of other pictures, another
            process is writing it, or a repair needs a teacher that is not there.
        Interrupted: a repair was stopped; whole shards are kept.
    """
    files = store_files(work, recipe)
    samples = load(recipe.data, "train")
    layout = _fitting(files, work, recipe, samples)
    source = find_teacher(work.teacher, recipe, samples.skeleton)
    teacher = None if source is None else source.predictor(device)
    found = _look(files, layout, cells, deep)
    now = found
    if repair and found.broken:
        _mend(files, work, recipe, samples, found, teacher, device)
        now = _look(files, layout, cells, deep)
    return Verification(
        place=str(files),
        work=work.named(recipe),
        layout=layout,
        ids=tuple(samples.ids),
        metadata=sorted(found.metadata),
        damages=found.damages,
        repaired=found.broken and not now.broken,
        cells=None if teacher is None else _compare(now.cached, teacher, recipe, samples, device),
        bound=recipe.store.max_error + ROUNDING,
        deep=deep,
    )


def _fitting(files: Files, work: WorkDir, recipe: Recipe, samples: SampleSet) -> Layout:
    """The part of a store that serves a run, its manifest and canaries checked.

    Raises:
        ValueError: there is none, or it was made for something else.
    """
    if not files.exists():
        raise ValueError(f"{files} is missing: run `fpd cache-heatmaps -w {work.named(recipe)}`")
    try:
        found = read_manifest(files)
    except ValueError as error:
        raise ValueError(
            f"{error}; what it was made for is lost with its manifest: make it anew with "
            f"`fpd cache-heatmaps -w {work.named(recipe)} --overwrite`"
        ) from None
    expected = _manifest(work, recipe, samples, found)
    check_manifest(files, expected, found, work.named(recipe))
    layout = served_layout(expected, found, recipe.store.views)
    check_canaries(files, layout, stored_views(recipe, samples), found, work.named(recipe))
    return layout


def _manifest(
    work: WorkDir, recipe: Recipe, samples: SampleSet, found: dict[str, Any]
) -> dict[str, Any]:
    """What a store's manifest should be; without a teacher, that of the teacher it names."""
    return make_manifest(recipe, samples, expected_entry(work.teacher, recipe, found))


class _Found(NamedTuple):
    """What a look at a store finds.

    Attributes:
        metadata: what damaged objects that describe the arrays should contain, by name.
        cached: the chosen cells, as stored.
    """

    metadata: dict[str, bytes]
    damages: list[Damage]
    cached: dict[SampleView, CachedHeatmaps]

    @property
    def broken(self) -> bool:
        return bool(self.metadata or self.damages)


def _look(files: Files, layout: Layout, cells: int, deep: bool) -> _Found:
    metadata = damaged_metadata(files)
    tasks = layout.tasks()
    suspects = tasks if deep else coverage(files, layout).missing
    damages = [
        damage
        for view, shard in tqdm(suspects, "verify-cache", unit="shard", leave=False, disable=None)
        for damage in examine(files, layout, view, shard, decode=not metadata)
    ]
    if metadata:  # a reader goes by it
        return _Found(metadata, damages, {})
    damaged = {(damage.view, damage.shard) for damage in damages}
    reader, cached = StoreReader(files, layout), {}
    for view, index in spread(layout, [task for task in tasks if task not in damaged], cells):
        shard, _ = layout.locate(index)
        try:
            cached[view, index] = reader.read(view, index)
        except ValueError:
            if (view, shard) not in damaged:
                damaged.add((view, shard))
                damages += examine(files, layout, view, shard)
    return _Found(metadata, damages, cached)


def _mend(
    files: Files,
    work: WorkDir,
    recipe: Recipe,
    samples: SampleSet,
    found: _Found,
    teacher: HeatmapPredictor | None,
    device: torch.device,
) -> None:
    tasks = sorted({(damage.view, damage.shard) for damage in found.damages})
    if tasks and teacher is None:
        place = ", ".join(recipe.store.teachers) or work.teacher.path
        raise ValueError(
            f"{place} has no finished teacher to make "
            f"{pluralize(len(tasks), 'shard')} of {files} again: bring back the one that made them, "
            "and run this again"
        )
    with files.locked():
        for name, content in found.metadata.items():
            files.write(name, content)
        manifest = _manifest(work, recipe, samples, read_manifest(files))
        writer = StoreWriter(
            files, manifest, recipe.store.views, work.named(recipe), samples=samples
        )
        if teacher is not None and tasks:
            log.info("making %d of %d shards again", len(tasks), len(writer.layout.tasks()))
            fill(writer, tasks, teacher, recipe, samples, device)
        writer.finish()


def _compare(
    cached: dict[SampleView, CachedHeatmaps],
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
) -> list[CheckedView]:
    """Cells beside what the teacher says of them, the worst first."""
    keys, size = [(index, view) for view, index in cached], recipe.store.batch_size
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    loader = make_loader(
        stored_views(recipe, samples),
        batches,
        device,
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    )
    checked: list[CheckedView] = []
    with torch.inference_mode():
        for batch_keys, batch in zip(batches, loader, strict=True):
            stored = [cached[view, index] for index, view in batch_keys]
            cut = np.stack([cell.parameters for cell in stored]) == batch["parameters"].numpy()
            error_B, moved_B = _differences(stored, predictor(batch["crop"]))
            error_B[~torch.from_numpy(cut.all(axis=1))] = torch.inf
            checked += [
                CheckedView(view, samples.ids[index], error, moved)
                for (index, view), error, moved in zip(
                    batch_keys, error_B.tolist(), moved_B.tolist(), strict=True
                )
            ]
    return sorted(checked, key=lambda cell: -cell.error)


def _differences(stored: list[CachedHeatmaps], said_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Largest error (see `CheckedView`) and mean displacement, float (B,) each, on the CPU."""
    coded = CompressedHeatmaps(
        *(
            torch.from_numpy(np.stack([cell[i] for cell in stored])).to(said_BKHW.device)
            for i in range(3)
        )
    )
    costs_BK3 = cost(said_BKHW, coded)
    peaks_BK = said_BKHW.amax((-2, -1)).clamp_min(0)
    off_BK = (coded.peaks - peaks_BK).abs() / coded.peaks.float().clamp_min(FAINT_PEAK)
    error_B = torch.maximum(costs_BK3[..., 0], off_BK).amax(1)
    return error_B.cpu(), costs_BK3[..., 2].nanmean(1).cpu()
