"""The driver hands shards to workers, which are threads of this process here."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import Client, LocalCluster

from fpd.data.samples import SampleSet
from fpd.pipeline.caching import driver, spot_check, worker
from fpd.pipeline.caching.inputs import StoreInputs
from fpd.pipeline.caching.spot_check import SpotChecker
from fpd.pipeline.caching.worker import Job
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.runtime.dask_cluster import Cluster
from fpd.pipeline.runtime.interrupt import Interrupted, Stop
from fpd.pipeline.store import Layout
from fpd.pipeline.teachers import load_teacher
from fpd.pipeline.workdir import WorkDir

from .answering import AnsweringTeacher

HOST = socket.gethostname()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A cluster that has no workers yet."""
    with LocalCluster(
        n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client of a cluster with one worker."""
    cluster.scale(1)
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(1)
        yield client


def contents(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def delete_receipts(work: WorkDir) -> None:
    for path in (work.store / "heatmaps" / "receipts").glob("*/*.json"):
        path.unlink()


def drive(
    client: Client, job: Job, layout: Layout, settings: Cluster | None = None
) -> dict[tuple[int, int], str]:
    return driver.Driver(client, settings or Cluster(), job, layout, layout.tasks()).run(Stop())


@pytest.mark.slow
def test_two_shards_in_flight_at_a_time_make_all(
    work: WorkDir, job: Job, layout: Layout, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TASKS_IN_FLIGHT", 2)
    expected = contents(work.store)
    delete_receipts(work)
    assert drive(client, job, layout) == {}
    assert contents(work.store) == expected


@pytest.mark.slow
def test_a_failing_shard_is_tried_again_and_the_others_are_made(
    work: WorkDir, job: Job, layout: Layout, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[int, int]] = []
    encode_and_write = worker._encode_and_write

    def fail_twice(job: Job, layout: Layout, view: int, shard: int) -> Any:
        tries.append((view, shard))
        if (view, shard) == (0, 1):
            raise OSError("no space left")
        if (view, shard) == (1, 0) and tries.count((1, 0)) == 1:
            raise RuntimeError("once")
        return encode_and_write(job, layout, view, shard)

    monkeypatch.setattr(worker, "_encode_and_write", fail_twice)
    delete_receipts(work)
    assert drive(client, job, layout, Cluster(retries=1)) == {(0, 1): f"{HOST}: no space left"}
    assert tries.count((0, 1)) == 2
    assert tries.count((1, 0)) == 2


@pytest.fixture
def checker(work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet) -> Iterator[SpotChecker]:
    source = load_teacher(work.teacher, toy_recipe, toy_samples.skeleton, allow_code=False)
    inputs = StoreInputs(source, toy_recipe, toy_samples, torch.device("cpu"))
    checker = SpotChecker(inputs, [(0, 3), (1, 17)])
    yield checker
    checker.close()


@pytest.mark.slow
def test_a_worker_that_passes_the_check_makes_all(
    work: WorkDir,
    job: Job,
    layout: Layout,
    client: Client,
    checker: SpotChecker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if its approval takes longer than its tasks wait."""
    monkeypatch.setattr(spot_check, "APPROVAL_WAIT_S", 0.01)
    expected = contents(work.store)
    delete_receipts(work)
    checks: list[Any] = []
    start = checker.start
    monkeypatch.setattr(checker, "start", lambda *args: checks.append(args) or start(*args))
    tasks = layout.tasks()
    assert driver.Driver(client, Cluster(), job, layout, tasks, checker).run(Stop()) == {}
    assert contents(work.store) == expected
    assert checks


@pytest.mark.slow
def test_a_worker_whose_teacher_answers_zeros_writes_nothing(
    work: WorkDir,
    job: Job,
    layout: Layout,
    client: Client,
    checker: SpotChecker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = worker._context(job)
    zeros = AnsweringTeacher(lambda crop: good.inputs.predictor(crop) * 0)
    bad = replace(good, inputs=replace(good.inputs, teacher=zeros))
    monkeypatch.setattr(worker, "_context", lambda _: bad)
    delete_receipts(work)
    before = contents(work.store)
    with pytest.raises(ValueError, match=f"the worker inproc://.* \\({HOST}, .* is refused"):
        driver.Driver(client, Cluster(), job, layout, layout.tasks(), checker).run(Stop())
    assert contents(work.store) == before


@pytest.mark.slow
def test_resources_that_no_worker_declares_are_not_waited_for(
    job: Job, layout: Layout, client: Client
) -> None:
    with pytest.raises(ValueError, match=r"declare GPU=1 .* 1 that do not: .*--resources"):
        drive(client, job, layout, Cluster(resources={"GPU": 1}))


@pytest.mark.slow
def test_waiting_for_workers_is_logged_once(
    job: Job,
    layout: Layout,
    cluster: LocalCluster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on an adaptive cluster: workers join once there are tasks."""
    monkeypatch.setattr(driver, "COUNT_EVERY_S", 0.01)
    counts: list[int] = []
    show = driver.Progress.show

    def show_and_scale(self: driver.Progress, workers: int) -> None:
        counts.append(workers)
        if len(counts) == 5:
            cluster.scale(1)
        show(self, workers)

    monkeypatch.setattr(driver.Progress, "show", show_and_scale)
    with Client(cluster, set_as_default=False) as client, caplog.at_level(logging.INFO, "fpd"):
        assert drive(client, job, layout) == {}
    assert counts[:5] == [0] * 5
    assert caplog.text.count("waiting for workers") == 1


@pytest.mark.slow
def test_waiting_for_workers_can_be_stopped(
    job: Job, layout: Layout, cluster: LocalCluster
) -> None:
    """Afterwards, the scheduler has none of the tasks left."""
    stop = Stop()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with Client(cluster, set_as_default=False) as client, pytest.raises(Interrupted):
        driver.Driver(client, Cluster(), job, layout, layout.tasks()).run(stop)
    timer.join()
    while cluster.scheduler.tasks:
        time.sleep(0.01)


@pytest.mark.slow
def test_a_lost_scheduler_is_reported(
    job: Job, layout: Layout, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = driver.Progress.show

    def close_and_show(self: driver.Progress, workers: int) -> None:
        cluster.close()
        show(self, workers)

    monkeypatch.setattr(driver.Progress, "show", close_and_show)
    monkeypatch.setattr(driver, "COUNT_EVERY_S", 0.0)
    with (
        Client(cluster, set_as_default=False, timeout=1) as client,
        pytest.raises(ValueError, match=r"the scheduler was lost; .* the same command"),
    ):
        drive(client, job, layout)


def test_without_a_terminal_progress_is_logged_from_time_to_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(driver.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "fpd"):
        progress = driver.Progress(1000)
        for _ in range(10):
            now[0] += 4.0
            progress.add(40)
            progress.show(3)
        progress.close()
    assert [record.getMessage() for record in caplog.records if record.name == "fpd"] == [
        "320 of 1000 views, 10 views/s, 1 min 8 s left, 3 workers",
        "400 of 1000 views, 10 views/s, 1 min left",
    ]
