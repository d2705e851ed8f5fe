"""Handing shards out to a cluster's workers, and counting what comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tqdm import tqdm

from ..runtime.dask_cluster import LOOK_EVERY_S, Cluster, Workers, connected, describe_failure
from ..runtime.interrupt import Interrupted, Stop, stop_requested
from ..runtime.text import format_duration, pluralize
from ..store import Layout
from .fill import STOPPED
from .worker import Job, make

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("fpd")

Task = tuple[int, int]
"""(view, shard)."""

TASKS_IN_FLIGHT = 1024
"""Shards a scheduler knows of at a time: enough for an adaptive cluster to see its work."""

LOST = (
    "the scheduler was lost; whole shards are kept, and the same command makes the rest once there "
    "is one"
)

TELL_EVERY_S = 30.0
COUNT_EVERY_S = 2.0


def fill_on_cluster(
    workers: Workers, settings: Cluster, job: Job, layout: Layout, tasks: Sequence[Task]
) -> None:
    """Make shards on a cluster; the caller has ended the store's audit, and holds its lock.

    Raises:
        Interrupted: after a signal; whole shards are kept.
        ValueError: there is no cluster, or some shards could not be made; the others are.
    """
    with stop_requested() as stop, connected(workers, settings, stop) as client:
        failed = Driver(client, settings, job, layout, tasks).run(stop)
    if failed:
        (view, shard), reason = min(failed.items())
        raise ValueError(
            f"{len(failed)} of {len(tasks)} shards could not be made, the first of them shard "
            f"{shard} of view {view}, on {reason}; the others are kept, and the same command makes "
            "the rest once that is mended"
        )


class Driver:
    """Shards on their way: a bounded number in the scheduler's hands, the others waiting here."""

    def __init__(
        self, client: Client, settings: Cluster, job: Job, layout: Layout, tasks: Sequence[Task]
    ) -> None:
        from distributed import as_completed

        self.client, self.settings, self.job, self.layout = client, settings, job, layout
        self.waiting = iter(tasks)
        self.begun: dict[Any, tuple[Future[Any], Task]] = {}
        self.finished = as_completed(loop=client.loop)
        self.failed: dict[Task, str] = {}
        self.progress = Progress(sum(len(layout.rows(shard)) for _, shard in tasks))
        self.crew = WorkerMonitor(client, settings)

    def run(self, stop: Stop) -> dict[Task, str]:
        """Have every shard made.

        Returns:
            Of shards that could not be made: on which machine, and why.

        Raises:
            Interrupted: after a signal.
            ValueError: no worker has what a task takes, or the scheduler was lost.
        """
        from distributed.client import ClosedClientError

        try:
            self._submit(TASKS_IN_FLIGHT)
            while self.begun:
                if stop.is_set():
                    # Closing, the client takes back what is not begun.
                    raise Interrupted(STOPPED, stop.signal)
                self.progress.tell(self.crew.count())
                if self.finished.has_ready():
                    self._take(next(self.finished))
                    self._submit(1)
                else:
                    stop.wait(LOOK_EVERY_S)
        except (OSError, ClosedClientError):
            raise ValueError(LOST) from None
        finally:
            self.progress.close()
        return self.failed

    def _submit(self, count: int) -> None:
        for view, shard in islice(self.waiting, count):
            future = self.client.submit(
                make,
                self.job,
                view,
                shard,
                key=f"shard-{uuid4().hex}",  # a command's own: what another one did is no answer
                retries=self.settings.retries,
                resources=self.settings.resources or None,
            )
            self.begun[future.key] = future, (view, shard)
            self.finished.add(future)

    def _take(self, future: Future[Any]) -> None:
        """Take note of a shard that is made, or is not; letting go of its future forgets it."""
        _, (view, shard) = self.begun.pop(future.key)
        if future.status == "finished":
            self.progress.add(len(self.layout.rows(shard)))
        elif future.status == "error":
            self.failed[view, shard] = describe_failure(future.exception())
        else:
            raise ValueError(LOST)


class WorkerMonitor:
    """How many workers there are, and whether they have what tasks take."""

    def __init__(self, client: Client, settings: Cluster) -> None:
        self.client, self.resources = client, settings.resources
        self.workers = -1
        self.looked_at = -COUNT_EVERY_S
        self.checked = not self.resources

    def count(self) -> int:
        """The number of workers, from time to time looked at anew.

        Raises:
            ValueError: there are workers, and a task would wait for ever for what they lack.
        """
        if time.monotonic() - self.looked_at > COUNT_EVERY_S:
            self.looked_at = time.monotonic()
            before, self.workers = self.workers, len(self.client.nthreads())
            if not self.workers and before:
                log.info("waiting for workers to join the scheduler")
            if self.workers and not self.checked:
                self._check_resources()
        return self.workers

    def _check_resources(self) -> None:
        info: Any = self.client.scheduler_info(n_workers=-1)
        for worker in info["workers"].values():
            has = worker["resources"]
            if all(has.get(name, 0) >= amount for name, amount in self.resources.items()):
                self.checked = True
                return
        needed = " ".join(f"{name}={amount:g}" for name, amount in self.resources.items())
        raise ValueError(
            f"expected workers that declare {needed} (cluster.resources), found {self.workers} "
            f'that do not: start them with `dask worker ADDRESS --resources "{needed}"`, or set '
            "cluster.resources={}"
        )


class Progress:
    """Views that are done, the rate and the time left: a bar on a terminal, lines elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = self.told_at = time.monotonic()
        self.bar: tqdm[Any] = tqdm(
            total=total, desc="cache-heatmaps", unit="view", leave=False, disable=None
        )

    def add(self, views: int) -> None:
        """Count views."""
        self.done += views
        self.bar.update(views)

    def tell(self, workers: int) -> None:
        """Say how it goes."""
        self.bar.set_postfix_str(pluralize(workers, "worker"), refresh=False)
        if time.monotonic() - self.told_at > TELL_EVERY_S:
            self.told_at = time.monotonic()
            self._log(f", {pluralize(workers, 'worker')}")

    def close(self) -> None:
        """Say how it went."""
        self.bar.close()
        self._log("")

    def _log(self, more: str) -> None:
        if not self.bar.disable:
            return
        seconds = time.monotonic() - self.started
        rate = self.done / max(seconds, 1e-9)
        left = format_duration((self.total - self.done) / rate) if self.done else "unknown time"
        log.info("%d of %d views, %.3g views/s, %s left%s", self.done, self.total, rate, left, more)
