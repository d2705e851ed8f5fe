"""The check of a cluster's workers: a few cells (views of single samples) of every worker process
are compared with this machine's own teacher before that process writes a shard.

Digests of teacher, data set and packages, which each worker compares by itself, do not find a GPU
or a library that computes something else. So the first task of a process encodes some views as it
would for the store, and returns these cells instead of a shard (`Gate`, `encode_cells`). The driver
compares them with the teacher's output in its own process (`SpotChecker`), lets the process write,
and submits the shard again. Other tasks of the process wait in the meantime. The views are the same
for all workers, so the driver runs the teacher on them once.

Nothing of a process is in the store before it is approved: however the command ends, there is
nothing to remove.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from ...data.views import Views
from ..models.predictor import teacher_input
from ..runtime.loader import in_batches
from ..store import CachedHeatmaps, Layout
from ..store.verify import SampleView, spread
from .compare import ROUNDING, differences
from .encode import encode_batches
from .inputs import StoreInputs

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger("fpd")

APPROVAL_WAIT_S = 10.0
"""How long a task waits for the approval of its process before it sends the cells again: a worker
is free again this long after its driver was killed."""

CHECKING_THREADS = 8
"""Processes that are checked at a time. One that has just been lost may take its connection's
timeout."""

SKIP = "`--set cluster.spot_check_views=0` skips this check"


@dataclass(frozen=True)
class SpotCheck:
    """What a worker needs to know of the check.

    Attributes:
        command: identifies the command: each approves the processes for itself.
        views: to encode.
    """

    command: str
    views: tuple[SampleView, ...]


@dataclass(frozen=True)
class Cells:
    """What a task returns, instead of a receipt, if its process may not write yet.

    Attributes:
        process: what `approve` takes.
        address: of the worker.
        machine: its name.
        cells: the views of the check, in their order.
    """

    process: str
    address: str
    machine: str
    cells: list[CachedHeatmaps]


_approved: set[str] = set()
_approval = threading.Condition()


def approve(process: str) -> None:
    """Let this process write shards. The driver runs it on the worker."""
    with _approval:
        _approved.add(process)
        _approval.notify_all()


class Gate:
    """Holds back the shards that one loaded teacher would make until a driver approves it."""

    def __init__(self) -> None:
        self._id = uuid4().hex
        self._commands: set[str] = set()

    def process(self, check: SpotCheck) -> str:
        """What `approve` takes for one command."""
        return f"{check.command}-{self._id}"

    def admits(self, check: SpotCheck) -> bool:
        """Whether shards may be written; otherwise, the cells are to be sent.

        False at once for the first task of a command. Later ones wait for the approval.
        """
        process = self.process(check)
        with _approval:
            wait_s = APPROVAL_WAIT_S if check.command in self._commands else 0
            self._commands.add(check.command)
            return _approval.wait_for(lambda: process in _approved, wait_s)


def encode_cells(check: SpotCheck, process: str, inputs: StoreInputs) -> Cells:
    """Encode the views of a check as they would be stored. Called in a task of a Dask worker."""
    from distributed import get_worker

    cells: list[CachedHeatmaps] = []
    views, settings = inputs.views, inputs.recipe.store
    for keys in in_batches(check.views, settings.batch_size):
        (columns,) = encode_batches(inputs.predictor, [_batch(views, keys)], settings.max_error)
        names = ("heatmaps", "steps", "peaks", "parameters")
        cells += [
            CachedHeatmaps(*values)
            for values in zip(*(columns[name] for name in names), strict=True)
        ]
    machine = f"{socket.gethostname()}, process {os.getpid()}"
    return Cells(process, str(get_worker().address), machine, cells)


def _batch(views: Views, keys: Sequence[SampleView]) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = default_collate([views[index, view] for view, index in keys])
    return batch


class _Expected(NamedTuple):
    """The teacher's output in this process for the views of a check; B views."""

    heatmaps_BKHW: Tensor  # float32, on the CPU
    parameters_BP: NDArray[np.float64]


class SpotChecker:
    """The driver's side. It works in threads of its own, so that shards are collected meanwhile.

    Attributes:
        check: what tasks are given.
    """

    def __init__(self, inputs: StoreInputs, views: Sequence[SampleView]) -> None:
        """Run the teacher on some views, in a thread.

        Args:
            views: to compare.
        """
        self.check = SpotCheck(uuid4().hex, tuple(views))
        self.inputs = inputs
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(CHECKING_THREADS, "spot-check")
        self._expected = self._threads.submit(self._run_teacher)

    def start(self, client: Client, future: Future[Any]) -> ThreadFuture[None]:
        """Check the process that returned cells, and approve it.

        Args:
            future: of a task that returned `Cells`.

        Returns:
            Its result is None in any case in which the shard is to be submitted again. Otherwise
            it raises a ValueError: the process encoded other heatmaps than this one's teacher, or
            the teacher cannot be run here.
        """
        return self._threads.submit(self._check, client, future)

    def close(self) -> None:
        """End the threads, without waiting for them."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, client: Client, future: Future[Any]) -> None:
        expected = self._expected.result()
        try:
            cells = future.result()
        except Exception:  # its worker was lost: whichever makes the shard is checked
            return
        if not isinstance(cells, Cells):
            return  # made again elsewhere, by a process that was approved
        self._compare(cells, expected)
        try:
            client.run(approve, cells.process, workers=[cells.address])
        except OSError as error:  # the process sends its cells again, if it still exists
            log.debug("no connection to %s: %s", cells.address, error)

    def _compare(self, cells: Cells, expected: _Expected) -> None:
        """Raise a ValueError if cells are not this teacher's output."""
        with torch.inference_mode():
            error_B = differences(cells.cells, expected.heatmaps_BKHW)[0].numpy()
        stored_BP = np.stack([cell.parameters for cell in cells.cells])
        other_crop_B = (stored_BP != expected.parameters_BP).any(axis=1)
        error_B = np.where(other_crop_B, np.inf, error_B)
        worst = int(error_B.argmax())  # NaN is the largest
        recipe, samples = self.inputs.recipe, self.inputs.samples
        error, allowed = float(error_B[worst]), recipe.store.max_error + ROUNDING
        if not error <= allowed:
            view, index = self.check.views[worst]
            raise ValueError(
                f"the worker {cells.address} ({cells.machine}) is refused: its heatmaps of view "
                f"{view} of sample {samples.ids[index]} differ from the teacher's output on "
                f"this machine by {error:.3g} of a map's peak, allowed is {allowed:.3g}. It wrote "
                "no shard; those of other workers are kept. Find out what is wrong with that "
                "machine's GPU or libraries, or stop its workers; the same command then makes the "
                f"rest. {SKIP}"
            )

    def _run_teacher(self) -> _Expected:
        """Run the teacher on one view at a time: the memory of one is enough.

        Raises:
            ValueError: it cannot be run.
        """
        try:
            predictor, views = self.inputs.predictor, self.inputs.views
            heatmaps, parameters = [], []
            for view in self.check.views:
                if self._closed.is_set():
                    break
                batch = _batch(views, [view])
                with torch.inference_mode():
                    heatmaps.append(predictor(*teacher_input(batch)).float().cpu())
                parameters.append(batch["parameters"].numpy())
            return _Expected(torch.cat(heatmaps), np.concatenate(parameters))
        except Exception as error:  # of any kind: a teacher may be the user's code
            raise ValueError(
                "expected to run the teacher here, to compare the workers' heatmaps with its "
                f"output, but it failed ({type(error).__name__}: {error}). {SKIP}"
            ) from error


def make_spot_checker(
    inputs: StoreInputs, layout: Layout, tasks: list[SampleView]
) -> SpotChecker | None:
    """A checker of some views among the (view, shard) to make; None: the recipe wants no check."""
    views = spread(layout, tasks, inputs.recipe.cluster.spot_check_views)
    return SpotChecker(inputs, views) if views else None
