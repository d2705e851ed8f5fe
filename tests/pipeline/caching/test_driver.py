"""Tasks, connections and the driver, one by one; workers are threads of this process here."""

from __future__ import annotations

import json
import logging
import os
import pickle
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
from fpd.pipeline.caching import driver
from fpd.pipeline.caching import worker as task
from fpd.pipeline.caching.worker import Job, make, make_job
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime import dask_cluster as connection
from fpd.pipeline.runtime.dask_cluster import Cluster, TaskFailed, Workers, choose_workers
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.runtime.interrupt import Interrupted, Stop
from fpd.pipeline.store import Layout, files_at, make_manifest, read_manifest, stored_layout
from fpd.pipeline.store.manifest import write_manifest
from fpd.pipeline.teachers import resolve as source
from fpd.pipeline.training.train import make_identity
from fpd.pipeline.workdir import WorkDir

HOST = socket.gethostname()
SHARD = (1, 2)


@pytest.fixture
def job(work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet) -> Job:
    manifest = make_manifest(toy_recipe, toy_samples, sha256(work.teacher.weights))
    workers = Workers(count=1, device="cpu")
    return replace(
        make_job(work, toy_recipe, files_at(work.store), manifest, workers), share_gpus=False
    )


@pytest.fixture
def layout(work: WorkDir) -> Layout:
    return stored_layout(files_at(work.store))


@pytest.fixture
def crew() -> Iterator[LocalCluster]:
    """A cluster of no workers yet."""
    with LocalCluster(
        n_workers=0, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(crew: LocalCluster) -> Iterator[Client]:
    """Of a cluster with one worker."""
    crew.scale(1)
    with Client(crew, set_as_default=False) as client:
        client.wait_for_workers(1)
        yield client


def times(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def contents(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def lose(work: WorkDir, shard: tuple[int, int] = SHARD) -> None:
    (work.store / "heatmaps" / "receipts" / str(shard[0]) / f"{shard[1]}.json").unlink()


# Choices


@pytest.mark.parametrize(
    ("wanted", "worker", "gpus", "device"),
    [
        ("auto", 0, 0, "auto"),
        ("auto", 5, 4, "cuda:1"),
        ("cuda", 3, 4, "cuda:3"),
        ("cuda", 1, 1, "cuda:0"),
        ("cuda:1", 3, 4, "cuda:1"),
        ("cpu", 3, 4, "cpu"),
    ],
)
def test_workers_share_gpus_in_turn(wanted: str, worker: int, gpus: int, device: str) -> None:
    assert task.shared_device(wanted, worker, gpus) == device


def test_one_way_to_a_cluster_at_a_time(tmp_path: Path) -> None:
    assert choose_workers(None, None, None, "cpu") is None
    assert choose_workers(0, None, None, "cpu") == Workers(count=0, device="cpu")
    with pytest.raises(ValueError, match="found --workers and --scheduler-file"):
        choose_workers(2, None, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cluster.memory_limit=much", "expected a size"),
        ("cluster.resources.GPU=0", "amounts above zero"),
        ("cluster.retries=-1", "greater than or equal to 0"),
    ],
)
def test_settings_are_checked(setting: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        apply_overrides({}, [setting])


def test_no_byte_depends_on_the_cluster(toy_recipe: Recipe, toy_samples: SampleSet) -> None:
    changes = ["cluster.retries=7", "cluster.memory_limit=4GiB", "cluster.resources.GPU=1"]
    other = apply_overrides(toy_recipe.model_dump(mode="json"), changes)
    assert other.cluster != toy_recipe.cluster
    assert make_manifest(other, toy_samples, "") == make_manifest(toy_recipe, toy_samples, "")
    identities = (make_identity(recipe, recipe.teacher, {}) for recipe in (other, toy_recipe))
    assert len({json.dumps(identity) for identity in identities}) == 1


# The task


def test_a_job_is_small_and_leads_to_the_same_places_from_anywhere(
    work: WorkDir, job: Job, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.root.parent)
    here, manifest = WorkDir(Path("work")), json.loads(job.manifest)
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), ["data.root=photos"])
    found = make_job(here, recipe, files_at(here.store), manifest, Workers(count=1))
    assert (found.store, found.teacher) == (job.store, job.teacher)
    assert json.loads(found.recipe)["data"]["root"] == str(work.root.parent / "photos")
    assert found.share_gpus
    assert len(pickle.dumps(found)) < 16_384
    url = make_job(here, recipe, files_at("memory://a/b"), manifest, Workers(scheduler="x"))
    assert url.store == "memory://a/b"
    assert not url.share_gpus


def test_a_whole_shard_is_left_as_it_is(work: WorkDir, job: Job) -> None:
    before = times(work.store)
    work.teacher.weights.unlink()  # nor is anything loaded
    receipt = make(job, *SHARD)
    assert (receipt["view"], receipt["shard"]) == SHARD
    assert times(work.store) == before


def test_a_missing_shard_is_made_with_the_same_bytes_and_nothing_else_is_touched(
    work: WorkDir, job: Job
) -> None:
    whole, before = contents(work.store), times(work.store)
    lose(work)
    make(job, *SHARD)
    assert contents(work.store) == whole
    changed = {path for path, time in times(work.store).items() if before[path] != time}
    assert {path.name for path in changed} == {"0", "2.json"}
    assert len(changed) == 5


def test_the_teacher_is_loaded_once_a_process(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = source.load_model
    monkeypatch.setattr(source, "load_model", lambda *given: loaded.append(1) or load(*given))
    for shard in (0, 1, 2):
        lose(work, (0, shard))
        make(job, 0, shard)
    assert len(loaded) == 1


def refused(job: Job, *parts: str) -> None:
    with pytest.raises(TaskFailed) as found:
        make(job, *SHARD)
    for part in (HOST, *parts):
        assert part in str(found.value)


def test_another_teacher_on_a_worker_is_named(work: WorkDir, job: Job) -> None:
    lose(work)
    expected = json.loads(job.manifest)["teacher"]["sha256"]
    work.teacher.weights.write_bytes(work.teacher.weights.read_bytes() + b"\0")
    refused(job, "another teacher", expected[:12], sha256(work.teacher.weights)[:12])


def test_another_data_set_on_a_worker_is_named(work: WorkDir, job: Job) -> None:
    lose(work)
    other = json.loads(job.recipe)
    other["data"]["figures"]["seed"] = 7
    refused(
        replace(job, recipe=json.dumps(other)), "another data set", "images: expected", "labels"
    )


def test_other_packages_on_a_worker_are_named(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(work)
    monkeypatch.setattr(
        task, "versions", lambda: {**json.loads(job.manifest)["versions"], "cv2": "1"}
    )
    refused(job, "cv2: expected", "found 1", "install the same")


def test_a_worker_without_the_store_is_named(work: WorkDir, job: Job) -> None:
    work.store.rename(work.root / "elsewhere.zarr")
    refused(job, f"expected the store at {work.store}, found none", "share")


def test_a_task_left_over_from_another_run_does_not_write(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was stopped, and the store made for another teacher, while it was at it."""
    lose(work)
    put_together = task.next_shard

    def slow(*given: Any) -> Any:
        content, files = put_together(*given), files_at(work.store)
        write_manifest(files, {**read_manifest(files), "seed": 5})
        return content

    monkeypatch.setattr(task, "next_shard", slow)
    before = contents(work.store / "heatmaps")
    refused(job, "seed: expected 0, found 5")
    assert contents(work.store / "heatmaps") == before


def test_unforeseen_errors_name_the_machine_too(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(work)
    monkeypatch.setattr(task, "next_shard", lambda *_: 1 / 0)
    refused(job, "ZeroDivisionError")


def test_a_worker_on_the_cpu_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    task._use_one_thread(torch.device("cpu"))
    assert taken == []  # OMP_NUM_THREADS is obeyed
    monkeypatch.delenv("OMP_NUM_THREADS")
    task._use_one_thread(torch.device("cuda"))
    assert taken == []
    task._use_one_thread(torch.device("cpu"))
    assert taken == [1]


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_in_threads_brings_the_same_shard(
    work: WorkDir, job: Job, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside a GPU."""
    bench = replace(task._bench(job), reading_threads=threads)
    monkeypatch.setattr(task, "_bench", lambda _: bench)
    whole = contents(work.store)
    for shard in (0, 1, 2):
        lose(work, (0, shard))
        make(job, 0, shard)
    assert contents(work.store) == whole


# Connections


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{port}", "nonsense://x", "127.0.0.1:{port}"])
def test_a_scheduler_out_of_reach_is_named(address: str) -> None:
    place = address.format(port=free_port())
    found = Workers(scheduler=place)
    with (
        pytest.raises(ValueError, match=f"expected a Dask scheduler at {place}, found none"),
        connection.connected(found, Cluster(connect_s=0.5)),
    ):
        pass


def test_a_scheduler_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    with pytest.raises(ValueError, match=r"expected a scheduler file at .* after 0.01 s"):
        connection.read_address(path, 0.01)
    path.write_text("{")
    writer = threading.Timer(0.2, path.write_text, ['{"address": "tcp://there:1"}'])
    writer.start()
    assert connection.read_address(path, 60) == "tcp://there:1"
    writer.join()


def test_waiting_for_a_scheduler_file_can_be_stopped(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        connection.read_address(tmp_path / "scheduler.json", 60, stop)


def test_a_scheduler_of_another_version_is_refused() -> None:
    class Old:
        def get_versions(self) -> dict[str, Any]:
            sides = {"client": "2026.8.0", "scheduler": "2024.1.0"}
            return {side: {"packages": {"distributed": v}} for side, v in sides.items()}

    with pytest.raises(ValueError, match=r"distributed 2026.8.0 at there, found 2024.1.0"):
        connection._check_version(Old(), "there")  # type: ignore[arg-type]


def test_dask_is_quiet_for_the_time_being_only() -> None:
    logger = logging.getLogger("distributed.client")
    before = logger.level
    with connection._quiet():
        assert logger.level == logging.CRITICAL
    assert logger.level == before


# The driver


def drive(
    client: Client, job: Job, layout: Layout, settings: Cluster | None = None
) -> dict[tuple[int, int], str]:
    crew = driver.Driver(client, settings or Cluster(), job, layout, layout.tasks())
    return crew.run(Stop())


def test_a_few_tasks_at_a_time_make_them_all(
    work: WorkDir, job: Job, layout: Layout, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TASKS_IN_FLIGHT", 2)
    whole = contents(work.store)
    for shard in layout.tasks():
        lose(work, shard)
    assert drive(client, job, layout) == {}
    assert contents(work.store) == whole


def test_a_failing_shard_is_tried_again_and_the_others_are_made(
    work: WorkDir, job: Job, layout: Layout, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[int, int]] = []

    make_any = task._make

    def make_most(job: Job, layout: Layout, view: int, shard: int) -> Any:
        tried.append((view, shard))
        if (view, shard) == (0, 1):
            raise OSError("no space left")
        if (view, shard) == (1, 0) and tried.count((1, 0)) == 1:
            raise RuntimeError("once")
        return make_any(job, layout, view, shard)

    monkeypatch.setattr(task, "_make", make_most)
    for shard in layout.tasks():
        lose(work, shard)
    assert drive(client, job, layout, Cluster(retries=1)) == {(0, 1): f"{HOST}: no space left"}
    assert tried.count((0, 1)) == 2
    assert tried.count((1, 0)) == 2


def test_what_no_worker_declares_is_not_waited_for(
    job: Job, layout: Layout, client: Client
) -> None:
    with pytest.raises(ValueError, match=r"declare GPU=1 .* 1 that do not: .*--resources"):
        drive(client, job, layout, Cluster(resources={"GPU": 1}))


def test_workers_are_waited_for_once_said(
    job: Job,
    layout: Layout,
    crew: LocalCluster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on an adaptive cluster: workers come when there is work."""
    monkeypatch.setattr(driver, "COUNT_EVERY_S", 0.01)
    counts: list[int] = []
    tell = driver.Progress.tell

    def told(self: driver.Progress, workers: int) -> None:
        counts.append(workers)
        if len(counts) == 5:
            crew.scale(1)
        tell(self, workers)

    monkeypatch.setattr(driver.Progress, "tell", told)
    with Client(crew, set_as_default=False) as client, caplog.at_level(logging.INFO, "fpd"):
        assert drive(client, job, layout) == {}
    assert counts[:5] == [0] * 5
    assert caplog.text.count("waiting for workers") == 1


def test_waiting_for_workers_can_be_stopped(job: Job, layout: Layout, crew: LocalCluster) -> None:
    """A scheduler that was joined then has none of the tasks left."""
    stop = Stop()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with Client(crew, set_as_default=False) as client, pytest.raises(Interrupted):
        driver.Driver(client, Cluster(), job, layout, layout.tasks()).run(stop)
    timer.join()
    while crew.scheduler.tasks:
        time.sleep(0.01)


def test_a_scheduler_that_is_lost_is_said(
    job: Job, layout: Layout, crew: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = driver.Progress.tell

    def told(self: driver.Progress, workers: int) -> None:
        crew.close()
        tell(self, workers)

    monkeypatch.setattr(driver.Progress, "tell", told)
    monkeypatch.setattr(driver, "COUNT_EVERY_S", 0.0)
    with (
        Client(crew, set_as_default=False, timeout=1) as client,
        pytest.raises(ValueError, match=r"the scheduler was lost; .* the same command"),
    ):
        drive(client, job, layout)


def test_progress_is_told_from_time_to_time_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(driver.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "fpd"):
        progress = driver.Progress(1000)
        for _ in range(10):
            now[0] += 4.0
            progress.add(40)
            progress.tell(3)
        progress.close()
    assert [record.getMessage() for record in caplog.records] == [
        "320 of 1000 views, 10 views/s, 1 min 8 s left, 3 workers",
        "400 of 1000 views, 10 views/s, 1 min left",
    ]


def test_the_environment_of_the_tests_has_one_thread() -> None:
    assert os.environ["OMP_NUM_THREADS"] == "1"  # else nothing here could be compared
