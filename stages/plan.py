"""Before stage 2: measure a few views to predict the size and time of a whole store.

    fpd cache-heatmaps -w work/demo --plan
    fpd cache-heatmaps -w work/demo --budget 20GB

Reads the data set and the teacher. Writes nothing, except that a budget sets the number of views in
the work directory's `recipe.json`.
"""

from __future__ import annotations

import torch

from ..data.datasets import load
from ..pipeline.caching.inputs import StoreInputs
from ..pipeline.caching.plan import Plan, keep_views, make_plan
from ..pipeline.caching.space import check_fits
from ..pipeline.config.recipe import Recipe, apply_overrides
from ..pipeline.store import make_manifest, open_storage
from ..pipeline.teachers import load_teacher
from ..pipeline.teachers.resolve import check_teacher
from ..pipeline.workdir import WorkDir


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    overwrite: bool = False,
    allow_code: bool = False,
) -> Plan:
    """Run a pilot: a few dozen views through teacher, encoder and compression, in memory.

    Args:
        overwrite: plan for a new store, as if an existing one were removed first.
        allow_code: run teachers that the recipe names as Python code (`package.module:factory`).

    Returns:
        The pilot's measurements, and size and time of a store by its number of views.

    Raises:
        ValueError: there is no finished teacher, or the existing store was made for another run.
    """
    check_teacher(work, recipe, allow_code=allow_code)
    samples = load(recipe.data, "train")
    teacher = load_teacher(work.teacher, recipe, samples.skeleton, allow_code=allow_code)
    manifest = make_manifest(recipe, samples, teacher.entry)
    inputs = StoreInputs(teacher, recipe, samples, device)
    return make_plan(work, inputs, manifest, overwrite=overwrite)


def adopt(work: WorkDir, recipe: Recipe, plan: Plan, views: int) -> Recipe:
    """Set the number of views, in the returned recipe and in the work directory's `recipe.json`.

    Args:
        views: chosen from `plan`, by its `choose`.

    Returns:
        `recipe` with `store.views = views`.

    Raises:
        ValueError: the disk has too little free space for them.
    """
    needed_bytes = plan.row(views).added_bytes
    check_fits(
        open_storage(work.store_location(recipe)),
        needed_bytes,
        plan.free_bytes,
        work.command_options(recipe),
    )
    work.keep(recipe)
    keep_views(work, views)
    return apply_overrides(recipe.model_dump(mode="json"), [f"store.views={views}"])
