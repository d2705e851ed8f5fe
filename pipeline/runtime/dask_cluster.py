"""A Dask cluster to run tasks on: started here for the time of a command, or joined.

Workers that are started here are processes of one thread each. PyTorch's sums on a CPU may depend
on the number of threads (measured, docs/cluster.md), and the store's bytes must not depend on the
number of workers.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import torch
from pydantic import Field, field_validator

from ...data.settings import Settings
from .device import choose_device, usable_cores
from .interrupt import Interrupted, Stop
from .text import parse_bytes, pluralize

if TYPE_CHECKING:
    from distributed import Client

LOOK_EVERY_S = 0.1

NOT_CONNECTED = "stopped while waiting for a scheduler; nothing was started"

LOGGERS = ("distributed.client", "distributed.gc", "tornado.application", "asyncio")
"""Those that have levels of their own, or tell of connections that close."""


class Cluster(Settings):
    """Caching with many workers (docs/cluster.md). No byte of the store depends on it."""

    retries: int = Field(2, ge=0, le=100, description="how often a shard that failed is tried anew")
    worker_losses: int = Field(
        10,
        ge=0,
        le=1000,
        description="how often a shard may lose its worker (preempted, out of memory) before it "
        "counts as failed. Of clusters started here; a scheduler that is joined has its own "
        "distributed.scheduler.allowed-failures",
    )
    resources: dict[str, float] = Field(
        {},
        description="what a shard takes of its worker's declared resources while it is made; with "
        "GPU = 1, workers need `dask worker --resources GPU=1`",
    )
    memory_limit: str = Field(
        "auto",
        description="of a worker started here, such as 8GiB: beyond 95 % it is killed and started "
        "anew. auto: its share of the machine's; none: no limit",
    )
    connect_s: float = Field(30.0, gt=0, le=86400, description="how long to wait for a scheduler")

    @field_validator("resources")
    @classmethod
    def _amounts_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(amount > 0 for amount in value.values()):
            raise ValueError("expected amounts above zero, such as {GPU = 1}")
        return value

    @field_validator("memory_limit")
    @classmethod
    def _limit_is_a_size(cls, value: str) -> str:
        if value not in ("auto", "none"):
            parse_bytes(value)
        return value


@dataclass(frozen=True)
class Workers:
    """Which workers make the shards: a number started here, or those of a scheduler.

    Attributes:
        count: how many to start; 0: one a GPU, or one a core where there is no GPU.
        device: as given to `--device`; each worker takes it for itself.
    """

    count: int | None = None
    scheduler: str | None = None
    scheduler_file: Path | None = None
    device: str = "auto"

    @property
    def start_here(self) -> bool:
        return self.count is not None


def choose_workers(
    count: int | None, scheduler: str | None, scheduler_file: Path | None, device: str
) -> Workers | None:
    """What the options of the command line mean; None: no cluster.

    Raises:
        ValueError: they contradict each other.
    """
    given = {"--workers": count, "--scheduler": scheduler, "--scheduler-file": scheduler_file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(
            f"expected one of {', '.join(given)}, found {' and '.join(names)}: a cluster is either "
            "started here or joined"
        )
    if scheduler is not None and not scheduler.strip():
        raise ValueError("--scheduler: expected an address such as tcp://host:8786, found none")
    return Workers(count, scheduler, scheduler_file, device) if names else None


@contextmanager
def connected(workers: Workers, settings: Cluster, stop: Stop | None = None) -> Iterator[Client]:
    """A client of the cluster. One that was started here ends with the block, processes and all.

    Args:
        stop: ends the wait for a scheduler.

    Raises:
        ValueError: there is no scheduler to join, or it is of another version.
    """
    with _quiet():
        here = (
            _started(workers, settings) if workers.start_here else _joined(workers, settings, stop)
        )
        with here as client:
            yield client


def check_reachable(workers: Workers, settings: Cluster) -> None:
    """Look whether there is a scheduler to join.

    Raises:
        ValueError: there is none, or it is of another version.
    """
    if not workers.start_here:
        with connected(workers, settings):
            pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Have Dask say nothing here: what goes wrong is said by the driver, in a sentence."""
    import distributed  # its import sets these loggers' levels

    loggers = [logging.getLogger(name) for name in (distributed.__name__, *LOGGERS)]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _started(workers: Workers, settings: Cluster) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    gpus = torch.cuda.device_count() if choose_device(workers.device).type == "cuda" else 0
    losses = {"distributed.scheduler.allowed-failures": settings.worker_losses}
    with dask.config.set(losses), _spared_ctrl_c():
        cluster = LocalCluster(
            n_workers=workers.count or gpus or usable_cores(),
            # Beside a GPU a second thread compresses and writes while the first asks the teacher.
            threads_per_worker=2 if gpus else 1,
            memory_limit=_memory_limit(settings.memory_limit),
            resources=settings.resources,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _memory_limit(limit: str) -> str | int | None:
    if limit == "none":
        return None
    return limit if limit == "auto" else parse_bytes(limit)


@contextmanager
def _spared_ctrl_c() -> Iterator[None]:
    """Have processes that are started by threads made here, now or later, not be told of Ctrl-C.

    A terminal sends it to all of its processes. Workers end when their command does: when it closes
    them, or at once when it is killed. A blocked signal stays blocked in threads and processes made
    meanwhile, and their own; to ignore it in the worker would be too late while it still starts.
    """
    resource_tracker.ensure_running()  # started later, it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _joined(workers: Workers, settings: Cluster, stop: Stop | None) -> Iterator[Client]:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    address = workers.scheduler or read_address(workers.scheduler_file, settings.connect_s, stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # `_check_version` looks
            client = Client(address, timeout=settings.connect_s, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"expected a Dask scheduler at {address}, found none ({_first_line(error)}): start one "
            "with `dask scheduler`, or have the command make a cluster of its own: --workers N"
        ) from None
    with client:
        _check_version(client, address)
        yield client


def read_address(path: Path | None, timeout_s: float, stop: Stop | None = None) -> str:
    """The address in a scheduler file, which may still be about to be written.

    Raises:
        ValueError: there is none in time.
        Interrupted: `stop` was set.
    """
    assert path is not None
    stop, give_up = stop or Stop(), time.monotonic() + timeout_s
    while True:
        try:
            return str(json.loads(path.read_text("utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > give_up:
                raise ValueError(
                    f"expected a scheduler file at {path}, found none after {timeout_s:g} s "
                    f"({type(error).__name__}): start one with `dask scheduler --scheduler-file "
                    f"{path}`"
                ) from None
        if stop.wait(LOOK_EVERY_S):
            raise Interrupted(NOT_CONNECTED, stop.signal)


def _check_version(client: Client, address: str) -> None:
    """Refuse a scheduler of another version: they need not understand each other."""
    found: Any = client.get_versions()
    here, there = (found[side]["packages"]["distributed"] for side in ("client", "scheduler"))
    if here != there:
        raise ValueError(
            f"expected a scheduler of distributed {here} at {address}, found {there}: install the "
            "same version on both sides"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")


def worker_device(wanted: str, *, share_gpus: bool) -> torch.device:
    """The device of a worker, which then has one thread for PyTorch on a CPU (see above).

    Args:
        wanted: as given to `--device`.
        share_gpus: worker number i takes GPU i, i + count, ... of its machine.
    """
    name = wanted
    if share_gpus:
        from distributed import get_worker

        name = shared_device(wanted, int(get_worker().name), torch.cuda.device_count())
    device = choose_device(name)
    _use_one_thread(device)
    return device


def shared_device(wanted: str, worker: int, gpus: int) -> str:
    """The device of one of several workers that share a machine's GPUs."""
    any_gpu = wanted == "cuda" or (wanted == "auto" and gpus > 0)
    return f"cuda:{worker % gpus}" if any_gpu and gpus else wanted


def _use_one_thread(device: torch.device) -> None:
    """One thread for a teacher on the CPU, as everywhere on a cluster (see above)."""
    cv2.setNumThreads(0)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


class TaskFailed(Exception):
    """A task that failed: on which machine, and why, in one sentence."""


def describe_failure(error: BaseException | None) -> str:
    """Where a task failed, and why."""
    from distributed import KilledWorker

    if isinstance(error, TaskFailed):
        return str(error)
    if isinstance(error, KilledWorker):
        return (
            f"{error.last_worker.address}: {pluralize(error.allowed_failures + 1, 'worker')} "
            "died of it. If memory ran out, cluster.memory_limit or a smaller store.batch_size may "
            "help; if workers were preempted, a larger cluster.worker_losses"
        )
    return f"a worker: {type(error).__name__}: {error}"
