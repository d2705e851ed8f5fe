"""Beside stage 3: a grid of students on one store, several seeds each, in one table.

    fpd sweep alpha -w work/lsp --grid student.alpha=0,0.25,0.5,1 --seeds 3

In: what stage 3 takes. Out: `sweeps/NAME/` (a folder a student, sweep.json, table.md, sweep.png).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from ..data.datasets import load, load_training
from ..pipeline.config.recipe import Recipe
from ..pipeline.config.sections import Sweep
from ..pipeline.evaluation.report.scores import percent
from ..pipeline.runtime.dask_cluster import Workers
from ..pipeline.runtime.files import as_json, atomic_group, versions
from ..pipeline.runtime.interrupt import Interrupted, stop_requested
from ..pipeline.store.manifest import TeacherEntry, read_manifest
from ..pipeline.store.match import existing_store
from ..pipeline.teachers import expected_entry
from ..pipeline.training.sweep.cluster import make_student_job, train_on_cluster
from ..pipeline.training.sweep.summary import draw, markdown, summarize
from ..pipeline.training.sweep.variants import Variant, train_and_score, variants
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

STOPPED = "the sweep stopped; what is trained and scored is kept, the same command goes on"


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    name: str,
    sweep: Sweep,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Train what is missing of a sweep's students, score them all, and compare them.

    A student that fails is noted and the others go on; the same command tries it again.

    Args:
        workers: train on a Dask cluster; None: in this process, one after another.

    Returns:
        The content of `sweep.json`: "name", "sweep", "runs" (a row a student, "error" where it
        failed), "points" (see `summarize`), "device", "versions".

    Raises:
        Interrupted: after a signal; what is trained is kept.
        ValueError: the sweep contradicts itself or has a setting that cannot be, the data set or
            the store is missing, or there is no cluster.
    """
    wanted = variants(sweep)
    teacher = _refuse_what_none_can_use(work, recipe, sweep, wanted)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for variant, row in _train(work, recipe, device, name, sweep, wanted, workers, teacher):
        rows[variant] = row
        outcome = row.get("error") or f"PCK {percent(row['mean'])}"
        log.info("%d of %d: %s, %s: %s", len(rows), len(wanted), *variant, outcome)
    runs = [rows[variant.point, variant.run] for variant in wanted]
    found = {
        "name": name,
        "sweep": sweep.model_dump(mode="json"),
        "runs": runs,
        "points": summarize(runs),
        "device": str(device),
        "versions": versions(),
    }
    names = [work.sweep(name) / file for file in ("sweep.json", "table.md", "sweep.png")]
    with atomic_group(*names) as (numbers, text, picture):
        numbers.write_text(as_json(found), "utf-8")
        text.write_text(markdown(found), "utf-8")
        draw(found, picture)
    return found


def _refuse_what_none_can_use(
    work: WorkDir, recipe: Recipe, sweep: Sweep, wanted: list[Variant]
) -> TeacherEntry | None:
    """Check once, before the first student is trained, what all of them need.

    Returns:
        What the store's manifest must state of its teacher; None: no student uses a store.
    """
    distils = False
    for variant in wanted:
        try:
            distils |= variant.recipe(recipe, sweep.folds).student.alpha > 0
        except ValueError as error:
            raise ValueError(f"{variant.point}: {error}") from None
    load_training(recipe.data, with_unlabeled=distils)
    load(recipe.data, "test")
    if not distils:
        return None
    manifest = read_manifest(existing_store(work, recipe))
    return expected_entry(work.teacher, recipe, manifest)


def _train(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    name: str,
    sweep: Sweep,
    wanted: list[Variant],
    workers: Workers | None,
    teacher: TeacherEntry | None,
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """(point, run) and row of each student, as it becomes ready."""
    if workers is None:
        with stop_requested() as stop:  # training has its own; this is for scoring
            for variant in wanted:
                row = train_and_score(work, recipe, name, sweep, variant, device, teacher)
                yield (variant.point, variant.run), row
                if stop.is_set():
                    raise Interrupted(STOPPED, stop.signal)
        return
    job = make_student_job(work, recipe, name, sweep, workers, teacher)
    for variant, row in train_on_cluster(workers, job, recipe, wanted):
        yield (variant.point, variant.run), row
