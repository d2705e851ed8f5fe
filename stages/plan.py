"""Before stage 2: what the store will take and whether it pays, from a pilot.

    fpd cache-heatmaps -w work/demo --plan
    fpd cache-heatmaps -w work/demo --budget 20GB

In: the data set, `teacher/`. Out: nothing; with a budget, the number of views in `recipe.json`.
"""

from __future__ import annotations

import torch

from ..data.datasets import load
from ..pipeline.caching.plan import Plan, keep_views, make_plan, refuse_too_much
from ..pipeline.config.recipe import Recipe, apply_overrides
from ..pipeline.store import make_manifest, store_files
from ..pipeline.teachers import load_teacher
from ..pipeline.teachers.resolve import check_teacher
from ..pipeline.workdir import WorkDir


def run(work: WorkDir, recipe: Recipe, device: torch.device, *, overwrite: bool = False) -> Plan:
    """Measure a pilot; write nothing.

    Args:
        overwrite: plan for a store made anew.

    Raises:
        ValueError: there is no finished teacher, or the store was made for something else.
    """
    check_teacher(work, recipe)
    samples = load(recipe.data, "train")
    source = load_teacher(work.teacher, recipe, samples.skeleton)
    manifest = make_manifest(recipe, samples, source.entry)
    return make_plan(work, recipe, samples, manifest, source, device, overwrite=overwrite)


def adopt(work: WorkDir, recipe: Recipe, plan: Plan, views: int) -> Recipe:
    """Choose a number of views, for this command and, in the work directory's recipe, later ones.

    Raises:
        ValueError: there is not enough free space for them.
    """
    needed = plan.row(views).added_bytes
    refuse_too_much(store_files(work, recipe), needed, plan.free_bytes, work.named(recipe))
    work.keep(recipe)
    keep_views(work, views)
    return apply_overrides(recipe.model_dump(mode="json"), [f"store.views={views}"])
