"""Trains the students of a sweep on a Dask cluster: one task each, files on a shared disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ...config.recipe import Recipe, absolute_settings
from ...config.sections import Sweep
from ...runtime.dask_cluster import (
    POLL_INTERVAL_S,
    Workers,
    connected,
    describe_failure,
    worker_device,
)
from ...runtime.interrupt import Interrupted, Stop, stop_requested
from ...store.manifest import TeacherEntry
from ...workdir import WorkDir
from ..distill import init_path
from .variants import Variant, train_and_score

if TYPE_CHECKING:
    from distributed import Client, Future

INIT_FROM = "student.init_from"

STOPPED = "the sweep stopped; the same command continues from the students' last checkpoints"


@dataclass(frozen=True)
class StudentJob:
    """What all tasks of a sweep share. Paths are absolute.

    Attributes:
        recipe, sweep, teacher, callbacks: see `train_and_score`; the first three as JSON.
        name: of the sweep.
        work: the work directory.
        device, share_gpus: see `runtime.dask_cluster.worker_device`.
    """

    recipe: str
    sweep: str
    name: str
    work: str
    teacher: str
    callbacks: tuple[str, ...]
    device: str
    share_gpus: bool


def make_student_job(
    work: WorkDir,
    recipe: Recipe,
    name: str,
    sweep: Sweep,
    workers: Workers,
    teacher: TeacherEntry | None,
    callbacks: Sequence[str],
) -> StudentJob:
    """The part of a sweep that all its tasks share; see `train_and_score` for the arguments."""
    settings = absolute_settings(recipe)
    # Loader processes forked from a worker with several threads were seen to hang.
    settings["loader"]["workers"] = 0
    init_from = recipe.student.init_from
    if init_from is not None:
        settings["student"]["init_from"] = str(init_path(work, init_from).absolute())
    return StudentJob(
        recipe=json.dumps(settings),
        sweep=sweep.model_dump_json(),
        name=name,
        work=str(work.root.absolute()),
        teacher=json.dumps(teacher),
        callbacks=tuple(callbacks),
        device=workers.device,
        share_gpus=workers.starts_workers,
    )


def train_one(job: StudentJob, variant: Variant) -> dict[str, Any]:
    """The Dask task: train and score one student. Returns its row; see `train_and_score`."""
    return train_and_score(
        work=WorkDir(Path(job.work)),
        base=Recipe.model_validate_json(job.recipe),
        name=job.name,
        sweep=Sweep.model_validate_json(job.sweep),
        variant=variant,
        device=worker_device(job.device, share_gpus=job.share_gpus),
        teacher=json.loads(job.teacher),
        callbacks=job.callbacks,
    )


def train_on_cluster(
    workers: Workers, job: StudentJob, recipe: Recipe, variants: Sequence[Variant]
) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Train and score the students of a sweep on a cluster.

    Yields:
        Each variant with its row, as soon as it is ready.

    Raises:
        Interrupted: after a signal.
        ValueError: the cluster cannot be reached.
    """
    work = WorkDir(Path(job.work))
    with stop_requested() as stop, connected(workers, recipe.cluster, stop) as client:
        submitted = {}
        for variant in variants:
            future = _submit(client, job, recipe, with_absolute_paths(work, variant))
            submitted[future.key] = (future, variant)
        for future in _as_completed(client, [future for future, _ in submitted.values()], stop):
            # Forgotten once it is done, so that the cluster can release its result.
            _, variant = submitted.pop(future.key)
            yield variant, _row(future, variant)


def with_absolute_paths(work: WorkDir, variant: Variant) -> Variant:
    """The variant with `student.init_from` absolute: workers have other working directories."""
    settings = json.loads(variant.settings)
    init_from = settings.get(INIT_FROM)
    if init_from is None:
        return variant
    absolute = {INIT_FROM: str(init_path(work, init_from).absolute())}
    return replace(variant, settings=json.dumps(settings | absolute))


def _submit(client: Client, job: StudentJob, recipe: Recipe, variant: Variant) -> Future[Any]:
    return client.submit(
        train_one,
        job,
        variant,
        # Unique: with a key derived from the arguments, Dask could return an earlier command's row.
        key=f"student-{uuid4().hex}",
        retries=recipe.cluster.retries,
        resources=recipe.cluster.resources or None,
    )


def _as_completed(client: Client, futures: list[Future[Any]], stop: Stop) -> Iterator[Future[Any]]:
    """Yield futures as they complete, and look for signals in between."""
    from distributed import as_completed

    completed = as_completed(futures, loop=client.loop)
    for _ in futures:
        while not completed.has_ready():
            if stop.wait(POLL_INTERVAL_S):
                # Closing the client cancels the tasks that have not started.
                raise Interrupted(STOPPED, stop.signal)
        yield next(completed)


def _row(future: Future[Any], variant: Variant) -> dict[str, Any]:
    """The row of a completed task; that of a failed task has the reason in "error"."""
    if future.status == "finished":
        row: dict[str, Any] = future.result()
        return row
    error = (
        describe_failure(future.exception()) if future.status == "error" else "its worker was lost"
    )
    return {
        "point": variant.point,
        "seed": variant.seed,
        "fold": variant.fold,
        "error": error,
    }
