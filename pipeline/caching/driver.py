"""Distributes shards to the workers of a Dask cluster, and follows their progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future as ThreadFuture
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tqdm import tqdm

from ..runtime.dask_cluster import POLL_INTERVAL_S, Cluster, Workers, connected, describe_failure
from ..runtime.interrupt import Interrupted, Stop, stop_requested
from ..runtime.text import format_duration, pluralize
from ..store import Layout
from .fill import STOPPED
from .spot_check import SpotChecker
from .worker import Job, make

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("fpd")

Task = tuple[int, int]
"""(view, shard)."""

TASKS_IN_FLIGHT = 1024
"""Shards submitted to the scheduler at a time: enough for an adaptive cluster to scale up."""

SCHEDULER_LOST = (
    "the connection to the scheduler was lost; complete shards are kept, and the same command "
    "makes the rest once a scheduler is running"
)

LOG_EVERY_S = 30.0
COUNT_EVERY_S = 2.0


def fill_on_cluster(
    workers: Workers,
    settings: Cluster,
    job: Job,
    layout: Layout,
    tasks: Sequence[Task],
    checker: SpotChecker | None,
) -> None:
    """Make shards on a cluster.

    The caller holds the store's lock, and has removed its record of a finished audit.

    Args:
        tasks: the (view, shard) to make.
        checker: of every worker process; None: they are not checked. It is closed.

    Raises:
        Interrupted: after a signal; complete shards are kept.
        ValueError: there is no cluster, a worker did not pass the check, or some shards could not
            be made; the others are complete.
    """
    with (
        _closing(checker),
        stop_requested() as stop,
        connected(workers, settings, stop) as client,
    ):
        failed = Driver(client, settings, job, layout, tasks, checker).run(stop)
    if failed:
        (view, shard), reason = min(failed.items())
        raise ValueError(
            f"{len(failed)} of {len(tasks)} shards could not be made; the first is shard {shard} "
            f"of view {view}, on {reason}; the others are kept, and the same command makes the "
            "rest once the cause is removed"
        )


@contextmanager
def _closing(checker: SpotChecker | None) -> Iterator[None]:
    try:
        yield
    finally:
        if checker is not None:
            checker.close()


class Driver:
    """Submits shards, a bounded number at a time, and collects the results."""

    def __init__(
        self,
        client: Client,
        settings: Cluster,
        job: Job,
        layout: Layout,
        tasks: Sequence[Task],
        checker: SpotChecker | None = None,
    ) -> None:
        from distributed import as_completed

        self.client, self.settings, self.job, self.layout = client, settings, job, layout
        self.checker = checker
        self.waiting = iter(tasks)
        self.submitted: dict[Any, tuple[Future[Any], Task]] = {}
        self.finished = as_completed(loop=client.loop)
        self.checking: dict[Task, ThreadFuture[None]] = {}
        self.failed: dict[Task, str] = {}
        self.progress = Progress(sum(len(layout.rows(shard)) for _, shard in tasks))
        self.monitor = WorkerMonitor(client, settings)

    def run(self, stop: Stop) -> dict[Task, str]:
        """Make every shard.

        Returns:
            For each shard that could not be made, the machine and the reason.

        Raises:
            Interrupted: after a signal.
            ValueError: no worker has the resources of a task, a worker did not pass the check, or
                the scheduler was lost.
        """
        from distributed.client import ClosedClientError

        try:
            self._submit(islice(self.waiting, TASKS_IN_FLIGHT))
            while self.submitted or self.checking:
                if stop.is_set():
                    # The client, when it is closed, cancels the tasks that have not started.
                    raise Interrupted(STOPPED, stop.signal)
                self.progress.show(self.monitor.count())
                self._submit(self._checked())
                if self.finished.has_ready():
                    self._collect(next(self.finished))
                else:
                    stop.wait(POLL_INTERVAL_S)
        except (OSError, ClosedClientError):
            raise ValueError(SCHEDULER_LOST) from None
        finally:
            self.progress.close()
        return self.failed

    def _submit(self, tasks: Iterator[Task]) -> None:
        for view, shard in tasks:
            future = self.client.submit(
                make,
                self.job,
                view,
                shard,
                self.checker and self.checker.check,
                key=f"shard-{uuid4().hex}",  # so that no other command's result is reused
                retries=self.settings.retries,
                resources=self.settings.resources or None,
            )
            self.submitted[future.key] = future, (view, shard)
            self.finished.add(future)

    def _collect(self, future: Future[Any]) -> None:
        """Count a finished shard or record its failure, release its future, and submit the next.

        If the task returned cells instead, start their check, after which it is submitted again.
        """
        _, (view, shard) = self.submitted.pop(future.key)
        if future.status not in ("finished", "error"):
            raise ValueError(SCHEDULER_LOST)
        if self.checker is not None and future.status == "finished" and future.type is not dict:
            self.checking[view, shard] = self.checker.start(self.client, future)
            return
        if future.status == "finished":
            self.progress.add(len(self.layout.rows(shard)))
        else:
            self.failed[view, shard] = describe_failure(future.exception())
        self._submit(islice(self.waiting, 1))

    def _checked(self) -> Iterator[Task]:
        """The tasks of the checks that have ended; raises the error of a check that failed."""
        ended = [task for task, check in self.checking.items() if check.done()]
        for task in ended:
            self.checking.pop(task).result()
            yield task


class WorkerMonitor:
    """Counts the workers, and checks that one has the resources that tasks require."""

    def __init__(self, client: Client, settings: Cluster) -> None:
        self.client, self.resources = client, settings.resources
        self.workers = -1
        self.counted_at = -COUNT_EVERY_S
        self.resources_checked = not self.resources

    def count(self) -> int:
        """The number of workers, updated every `COUNT_EVERY_S`.

        Raises:
            ValueError: there are workers, but none has the resources, so that tasks would wait
                forever.
        """
        if time.monotonic() - self.counted_at > COUNT_EVERY_S:
            self.counted_at = time.monotonic()
            previous, self.workers = self.workers, len(self.client.nthreads())
            if not self.workers and previous:
                log.info("waiting for workers to join the scheduler")
            if self.workers and not self.resources_checked:
                self._check_resources()
        return self.workers

    def _check_resources(self) -> None:
        info: Any = self.client.scheduler_info(n_workers=-1)
        for worker in info["workers"].values():
            declared = worker["resources"]
            if all(declared.get(name, 0) >= amount for name, amount in self.resources.items()):
                self.resources_checked = True
                return
        needed = " ".join(f"{name}={amount:g}" for name, amount in self.resources.items())
        raise ValueError(
            f"expected workers that declare {needed} (cluster.resources), found {self.workers} "
            f'that do not: start them with `dask worker ADDRESS --resources "{needed}"`, or set '
            "cluster.resources={}"
        )


class Progress:
    """Shows finished views, the rate and the time left: a bar on a terminal, else log lines."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started_at = self.logged_at = time.monotonic()
        self.bar: tqdm[Any] = tqdm(
            total=total, desc="cache-heatmaps", unit="view", leave=False, disable=None
        )

    def add(self, views: int) -> None:
        """Count finished views."""
        self.done += views
        self.bar.update(views)

    def show(self, workers: int) -> None:
        """Update the bar, or log a line if the last one was `LOG_EVERY_S` ago."""
        self.bar.set_postfix_str(pluralize(workers, "worker"), refresh=False)
        if time.monotonic() - self.logged_at > LOG_EVERY_S:
            self.logged_at = time.monotonic()
            self._log(f", {pluralize(workers, 'worker')}")

    def close(self) -> None:
        """Close the bar, or log the last line."""
        self.bar.close()
        self._log("")

    def _log(self, suffix: str) -> None:
        if not self.bar.disable:
            return
        seconds = time.monotonic() - self.started_at
        rate = self.done / max(seconds, 1e-9)
        left = format_duration((self.total - self.done) / rate) if self.done else "unknown time"
        log.info(
            "%d of %d views, %.3g views/s, %s left%s", self.done, self.total, rate, left, suffix
        )
