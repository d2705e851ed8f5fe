"""A Dask cluster to run tasks on: one that the command starts, or a running one that it joins.

Workers that the command starts on a CPU are processes of one thread each. PyTorch's sums on a CPU
may depend on the number of threads (measured, docs/cluster.md), and the store's bytes must not
depend on the number of workers.
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

from pydantic import Field, field_validator

from ...data.settings import Settings
from .interrupt import Interrupted, Stop
from .launch import usable_cores
from .text import parse_bytes, pluralize

if TYPE_CHECKING:
    import torch
    from distributed import Client

POLL_INTERVAL_S = 0.1

NOT_CONNECTED = "stopped while waiting for a scheduler; nothing was started"

SILENCED_LOGGERS = (
    "distributed",
    "distributed.client",
    "distributed.gc",
    "tornado.application",
    "asyncio",
)
"""Those with levels of their own, and those that log closed connections."""


class Cluster(Settings):
    """Caching with many workers (docs/cluster.md). No byte of the store depends on it."""

    retries: int = Field(2, ge=0, le=100, description="how often a failed shard is tried again")
    worker_losses: int = Field(
        10,
        ge=0,
        le=1000,
        description="how often a shard may lose its worker (preempted, out of memory) before it "
        "counts as failed. For clusters that the command starts; a scheduler that it joins has its "
        "own distributed.scheduler.allowed-failures",
    )
    resources: dict[str, float] = Field(
        {},
        description="worker resources that a shard occupies while it is made; with GPU = 1, "
        "workers need `dask worker --resources GPU=1`",
    )
    memory_limit: str = Field(
        "auto",
        description="memory of a worker that the command starts, such as 8GiB: beyond 95 % of it, "
        "the worker is restarted. auto: its share of the machine's memory; none: no limit",
    )
    spot_check_views: int = Field(
        4,
        ge=0,
        le=64,
        description="views of single samples that every worker process encodes first, and that the "
        "command compares with its own teacher's output before the worker writes a shard; 0: "
        "workers are not checked",
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
    """The workers to use: a number that the command starts, or those of a running scheduler.

    Exactly one of `count`, `scheduler` and `scheduler_file` is given.

    Attributes:
        count: how many workers to start; 0: one per GPU, or one per core without a GPU.
        scheduler: address of a scheduler to join, such as tcp://host:8786.
        scheduler_file: file with that address, as `dask scheduler --scheduler-file` writes it.
        device: as given to `--device`; each worker chooses its device by it.
    """

    count: int | None = None
    scheduler: str | None = None
    scheduler_file: Path | None = None
    device: str = "auto"

    @property
    def starts_workers(self) -> bool:
        return self.count is not None


def choose_workers(
    count: int | None, scheduler: str | None, scheduler_file: Path | None, device: str
) -> Workers | None:
    """The workers that the command's options name; None: no cluster.

    Raises:
        ValueError: several ways to a cluster are given, or the address is empty.
    """
    given = {"--workers": count, "--scheduler": scheduler, "--scheduler-file": scheduler_file}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(
            f"expected one of {', '.join(given)}, found {' and '.join(names)}: a command either "
            "starts a cluster or joins one"
        )
    if scheduler is not None and not scheduler.strip():
        raise ValueError("--scheduler: expected an address such as tcp://host:8786, found none")
    return Workers(count, scheduler, scheduler_file, device) if names else None


@contextmanager
def connected(workers: Workers, settings: Cluster, stop: Stop | None = None) -> Iterator[Client]:
    """Yield a client of the cluster. A cluster that is started here ends with the block.

    Args:
        stop: ends the wait for a scheduler.

    Raises:
        ValueError: there is no scheduler to join, or its version differs.
        Interrupted: `stop` was set while waiting for a scheduler file.
    """
    with _dask_silenced():
        if workers.starts_workers:
            opened = _start_cluster(workers, settings)
        else:
            opened = _join_cluster(workers, settings, stop)
        with opened as client:
            yield client


def check_reachable(workers: Workers, settings: Cluster) -> None:
    """Check that the scheduler to join, if any, can be reached.

    Raises:
        ValueError: it cannot, or its version differs.
    """
    if not workers.starts_workers:
        with connected(workers, settings):
            pass


@contextmanager
def _dask_silenced() -> Iterator[None]:
    """Silence Dask's loggers: the driver reports failures, each in a sentence."""
    import distributed  # noqa: F401  its import sets these loggers' levels

    loggers = [logging.getLogger(name) for name in SILENCED_LOGGERS]
    old_levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, old_levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _start_cluster(workers: Workers, settings: Cluster) -> Iterator[Client]:
    import dask
    import torch
    from distributed import Client, LocalCluster

    from .device import choose_device

    gpus = torch.cuda.device_count() if choose_device(workers.device).type == "cuda" else 0
    dask_settings = {"distributed.scheduler.allowed-failures": settings.worker_losses}
    with dask.config.set(dask_settings), _ctrl_c_blocked():
        cluster = LocalCluster(
            n_workers=workers.count or gpus or usable_cores(),
            # With a GPU, a second thread compresses and writes while the first runs the teacher.
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
def _ctrl_c_blocked() -> Iterator[None]:
    """Block Ctrl-C in the threads started in this block, and in the processes that they start.

    A terminal sends Ctrl-C to all of its processes, but workers end when their command does: it
    closes them, and they exit if it is killed. Threads and processes inherit a blocked signal. A
    worker that ignored the signal by itself would not do so yet while it starts.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


@contextmanager
def _join_cluster(workers: Workers, settings: Cluster, stop: Stop | None) -> Iterator[Client]:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    address = workers.scheduler or read_address(workers.scheduler_file, settings.connect_s, stop)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # see `_check_version`
            client = Client(address, timeout=settings.connect_s, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(
            f"expected a Dask scheduler at {address}, found none ({_first_line(error)}): start one "
            "with `dask scheduler`, or let the command start a cluster of its own with --workers N"
        ) from None
    with client:
        _check_version(client, address)
        yield client


def read_address(path: Path | None, timeout_s: float, stop: Stop | None = None) -> str:
    """Read the address in a scheduler file, and wait for the file if it does not exist yet.

    Raises:
        ValueError: there is none within `timeout_s`.
        Interrupted: `stop` was set.
    """
    assert path is not None
    stop, deadline = stop or Stop(), time.monotonic() + timeout_s
    while True:
        try:
            return str(json.loads(path.read_text("utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"expected a scheduler file at {path}, found none after {timeout_s:g} s "
                    f"({type(error).__name__}): start one with `dask scheduler --scheduler-file "
                    f"{path}`"
                ) from None
        if stop.wait(POLL_INTERVAL_S):
            raise Interrupted(NOT_CONNECTED, stop.signal)


def _check_version(client: Client, address: str) -> None:
    """Refuse a scheduler of another version, whose protocol may differ."""
    versions: Any = client.get_versions()
    own, other = (versions[side]["packages"]["distributed"] for side in ("client", "scheduler"))
    if own != other:
        raise ValueError(
            f"expected a scheduler of distributed {own} at {address}, found {other}: install the "
            "same version on both sides"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")


def worker_device(name: str, *, share_gpus: bool) -> torch.device:
    """Choose this worker's device; on a CPU, also limit PyTorch to one thread (see above).

    Args:
        name: as given to `--device`.
        share_gpus: whether workers of this machine take its GPUs in turn.
    """
    from .device import choose_device

    if share_gpus:
        import torch
        from distributed import get_worker

        name = shared_device(name, int(get_worker().name), torch.cuda.device_count())
    device = choose_device(name)
    _use_one_thread(device)
    return device


def shared_device(name: str, worker: int, gpus: int) -> str:
    """The device of worker number `worker` among those that share a machine's `gpus` GPUs."""
    is_any_gpu = name in ("cuda", "auto")
    return f"cuda:{worker % gpus}" if is_any_gpu and gpus else name


def _use_one_thread(device: torch.device) -> None:
    """Limit PyTorch to one thread on a CPU (see above); `OMP_NUM_THREADS` takes precedence."""
    import cv2
    import torch

    cv2.setNumThreads(0)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


class TaskFailed(Exception):
    """A failed task; the message is one sentence with the machine and the reason."""


def describe_failure(error: BaseException | None) -> str:
    """Describe a task's error: the machine or worker, and the reason."""
    from distributed import KilledWorker

    if isinstance(error, TaskFailed):
        return str(error)
    if isinstance(error, KilledWorker):
        return (
            f"{error.last_worker.address}: {pluralize(error.allowed_failures + 1, 'worker')} "
            "died while running it. If memory ran out, cluster.memory_limit or a smaller "
            "store.batch_size may help; if workers were preempted, a larger cluster.worker_losses"
        )
    return f"a worker: {type(error).__name__}: {error}"
