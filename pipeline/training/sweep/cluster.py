"""A sweep's students on a cluster: a task each, trained from the shared disk and onto it."""

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
    LOOK_EVERY_S,
    Workers,
    connected,
    describe_failure,
    worker_device,
)
from ...runtime.interrupt import Interrupted, Stop, stop_requested
from ...store.manifest import TeacherEntry
from ...workdir import WorkDir
from ..distill import start_path
from .variants import Variant, train_and_score

if TYPE_CHECKING:
    from distributed import Client, Future

INIT_FROM = "student.init_from"

STOPPED = "the sweep stopped; the same command goes on from the students' last checkpoints"


@dataclass(frozen=True)
class StudentJob:
    """What every task of a sweep is told; paths are as seen from any working directory.

    Attributes:
        recipe, sweep, teacher: JSON; see `train_and_score`.
        name: the sweep's.
        device, share_gpus: see `task.worker_device`.
    """

    recipe: str
    sweep: str
    name: str
    work: str
    teacher: str
    device: str
    share_gpus: bool


def make_student_job(
    work: WorkDir,
    recipe: Recipe,
    name: str,
    sweep: Sweep,
    workers: Workers,
    teacher: TeacherEntry | None,
) -> StudentJob:
    """The job of a command."""
    settings = absolute_settings(recipe)
    # A loader's processes, forked in a worker of several threads, were seen to hang.
    settings["loader"]["workers"] = 0
    start = recipe.student.init_from
    if start is not None:
        settings["student"]["init_from"] = str(start_path(work, start).absolute())
    return StudentJob(
        recipe=json.dumps(settings),
        sweep=sweep.model_dump_json(),
        name=name,
        work=str(work.root.absolute()),
        teacher=json.dumps(teacher),
        device=workers.device,
        share_gpus=workers.start_here,
    )


def train_one(job: StudentJob, variant: Variant) -> dict[str, Any]:
    """Train and score one student; the task. See `sweeping.train_and_score`."""
    recipe, sweep = Recipe.model_validate_json(job.recipe), Sweep.model_validate_json(job.sweep)
    device = worker_device(job.device, share_gpus=job.share_gpus)
    work, teacher = WorkDir(Path(job.work)), json.loads(job.teacher)
    return train_and_score(work, recipe, job.name, sweep, variant, device, teacher)


def train_on_cluster(
    workers: Workers, job: StudentJob, recipe: Recipe, variants: Sequence[Variant]
) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Have a cluster train a sweep's students.

    Yields:
        Each with its row, as it becomes ready.

    Raises:
        Interrupted: after a signal.
        ValueError: there is no cluster.
    """
    work = WorkDir(Path(job.work))
    with stop_requested() as stop, connected(workers, recipe.cluster, stop) as client:
        begun = {
            future.key: (future, variant)
            for variant in variants
            for future in [_submit(client, job, recipe, from_anywhere(work, variant))]
        }
        for future in _as_ready(client, [future for future, _ in begun.values()], stop):
            _, variant = begun.pop(future.key)
            yield variant, _row(future, variant)


def from_anywhere(work: WorkDir, variant: Variant) -> Variant:
    """The same, its path absolute: workers have working directories of their own."""
    settings = json.loads(variant.settings)
    start = settings.get(INIT_FROM)
    if start is None:
        return variant
    absolute = {INIT_FROM: str(start_path(work, start).absolute())}
    return replace(variant, settings=json.dumps(settings | absolute))


def _submit(client: Client, job: StudentJob, recipe: Recipe, variant: Variant) -> Future[Any]:
    return client.submit(
        train_one,
        job,
        variant,
        key=f"student-{uuid4().hex}",  # a command's own: what another one did is no answer
        retries=recipe.cluster.retries,
        resources=recipe.cluster.resources or None,
    )


def _as_ready(client: Client, futures: list[Future[Any]], stop: Stop) -> Iterator[Future[Any]]:
    from distributed import as_completed

    finished = as_completed(futures, loop=client.loop)
    for _ in futures:
        while not finished.has_ready():
            if stop.wait(LOOK_EVERY_S):
                # Closing, the client takes back what is not begun.
                raise Interrupted(STOPPED, stop.signal)
        yield next(finished)


def _row(future: Future[Any], variant: Variant) -> dict[str, Any]:
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
