"""Stage 2: run the teacher once over every view, and keep what it says.

    fpd cache-heatmaps -w work/demo

In: the data set, `teacher/`. Out: `heatmaps.zarr`. Only shards that are missing are made.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Any

import torch

from ..data.readers import load
from ..pipeline.caching import fill
from ..pipeline.planning import check_space
from ..pipeline.recipe import Recipe
from ..pipeline.store import StoreWriter, make_manifest, store_files
from ..pipeline.training.train import load_model
from ..pipeline.workdir import WorkDir, sha256

log = logging.getLogger("fpd")


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    overwrite: bool = False,
    only_views: Container[int] | None = None,
) -> dict[str, Any]:
    """Fill the store, or what is missing of it.

    Args:
        overwrite: remove a store that is there first.
        only_views: leave other view numbers to somebody else.

    Returns:
        Sizes and errors: "views", "samples", "written" (shards), "bytes", "float16_bytes",
        "bytes_per_view", "measured".

    Raises:
        ValueError: there is no finished teacher, the store was made for something else, another
            process is writing it, or there is not enough free space.
        Interrupted: after a signal; whole shards are kept.
    """
    work.check_teacher()
    samples = load(recipe.data, "train")
    manifest = make_manifest(recipe, samples, sha256(work.teacher.weights))
    files = store_files(work, recipe)
    with files.locked():
        check_space(
            work, recipe, samples, manifest, device, overwrite=overwrite, only_views=only_views
        )
        if overwrite and files.exists():
            files.remove()
        writer = StoreWriter(
            files, manifest, recipe.store.views, work.named(recipe), samples=samples
        )
        missing = [
            task
            for task in writer.coverage().missing
            if only_views is None or task[0] in only_views
        ]
        if missing:
            log.info("caching %d of %d shards", len(missing), len(writer.layout.tasks()))
            network = load_model(work.teacher, writer.layout.joints, device)
            fill(writer, missing, network, recipe, samples, device)
        found = writer.finish()
    return {
        "views": recipe.store.views,
        "samples": len(samples),
        "written": len(missing),
        "bytes": found.bytes(),
        "bytes_per_view": found.bytes() / max(1, found.samples()),
        "float16_bytes": writer.layout.float16_bytes
        * found.samples()
        // (recipe.store.views * len(samples)),
        "measured": found.measured(),
    }
