"""Beside stage 3: train a grid of students on one store, several seeds each, and compare them.

    fpd sweep alpha -w work/lsp --grid student.alpha=0,0.25,0.5,1 --seeds 3

Reads what stage 3 reads. Writes `sweeps/NAME/`: a folder for each student, sweep.json, table.md and
sweep.png.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..pipeline.config.recipe import Recipe
from ..pipeline.config.sections import Sweep
from ..pipeline.evaluation.report.scores import percent
from ..pipeline.runtime.dask_cluster import Workers
from ..pipeline.runtime.files import as_json, atomic_group, versions
from ..pipeline.runtime.interrupt import Interrupted, stop_requested
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.store.dataset import load_samples, load_training_samples
from ..pipeline.store.manifest import TeacherEntry, read_manifest
from ..pipeline.store.match import existing_store
from ..pipeline.teachers import expected_entry
from ..pipeline.training.callbacks import check_callbacks
from ..pipeline.training.sweep.cluster import make_student_job, train_on_cluster
from ..pipeline.training.sweep.summary import draw, markdown, summarize
from ..pipeline.training.sweep.variants import Variant, train_and_score, variants
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

STOPPED = "the sweep stopped; finished students are kept, the same command trains the rest"


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    name: str,
    sweep: Sweep,
    workers: Workers | None = None,
    *,
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the sweep's missing students, score all of them, and compare them.

    A student that fails is recorded, and the others are trained; the same command tries it again.

    Args:
        name: of the sweep's folder.
        workers: train on a Dask cluster; None: in this process, one student after another.
        callbacks: of each student, as given to `--callback` (`training.callbacks`); some run the
            user's code, which is imported wherever students are trained.

    Returns:
        The content of `sweep.json`: "name", "sweep" (its settings), "runs" (one row a student, with
        "error" if it failed), "points" (see `summarize`), "device", "versions".

    Raises:
        ValueError: the sweep has contradictory or invalid settings, the data set or the store
            is missing, another process is running the sweep, or the Dask cluster cannot be reached.
        Interrupted: after SIGINT or SIGTERM; finished students are kept.
    """
    check_callbacks(callbacks)
    with writer_lock(work.sweep(name)):
        return _run(work, recipe, device, name, sweep, workers, callbacks)


def _run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    name: str,
    sweep: Sweep,
    workers: Workers | None,
    callbacks: Sequence[str],
) -> dict[str, Any]:
    students = variants(sweep)
    teacher_entry = _check_inputs(work, recipe, sweep, students)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    inputs = (work, recipe, device, name, sweep)
    for student, row in _train(*inputs, students, workers, teacher_entry, callbacks):
        rows[student.point, student.run] = row
        outcome = row.get("error") or f"PCK {percent(row['mean'])}"
        log.info(
            "%d of %d: %s, %s: %s", len(rows), len(students), student.point, student.run, outcome
        )
    runs = [rows[student.point, student.run] for student in students]
    report = {
        "name": name,
        "sweep": sweep.model_dump(mode="json"),
        "runs": runs,
        "points": summarize(runs),
        "device": str(device),
        "versions": versions(),
    }
    _write(work, name, report)
    return report


def _check_inputs(
    work: WorkDir, recipe: Recipe, sweep: Sweep, students: list[Variant]
) -> TeacherEntry | None:
    """Check once, before the first student is trained, what all of them need.

    Returns:
        What the store's manifest must state of its teacher; None: no student uses the store.

    Raises:
        ValueError: a student's settings are invalid, or the data set or the store is missing.
    """
    any_uses_store = False
    for student in students:
        try:
            any_uses_store |= student.recipe(recipe, sweep.folds).student.alpha > 0
        except ValueError as error:
            raise ValueError(f"{student.point}: {error}") from None
    load_training_samples(work, recipe, with_unlabeled=any_uses_store)
    load_samples(work, recipe, "test")
    if not any_uses_store:
        return None
    manifest = read_manifest(existing_store(work, recipe))
    return expected_entry(work.teacher, recipe, manifest)


def _train(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    name: str,
    sweep: Sweep,
    students: list[Variant],
    workers: Workers | None,
    teacher_entry: TeacherEntry | None,
    callbacks: Sequence[str],
) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Each student and its row, as soon as it is trained and scored."""
    if workers is not None:
        job = make_student_job(work, recipe, name, sweep, workers, teacher_entry, callbacks)
        yield from train_on_cluster(workers, job, recipe, students)
        return
    with stop_requested() as stop:  # training and scoring look at it, too
        for student in students:
            row = train_and_score(
                work, recipe, name, sweep, student, device, teacher_entry, callbacks
            )
            yield student, row
            if stop.is_set():
                raise Interrupted(STOPPED, stop.signal)


def _write(work: WorkDir, name: str, report: dict[str, Any]) -> None:
    """Write the comparison's three files, together."""
    paths = [work.sweep(name) / file for file in ("sweep.json", "table.md", "sweep.png")]
    with atomic_group(*paths) as (json_file, table_file, chart_file):
        json_file.write_text(as_json(report), "utf-8")
        table_file.write_text(markdown(report), "utf-8", "backslashreplace")
        draw(report, chart_file)
