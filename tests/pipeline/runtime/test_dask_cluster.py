"""Choosing and joining a Dask cluster, without starting one."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from fpd.pipeline.config.recipe import apply_overrides
from fpd.pipeline.runtime import dask_cluster
from fpd.pipeline.runtime.dask_cluster import (
    Cluster,
    Workers,
    choose_workers,
    describe_failure,
    shared_device,
)
from fpd.pipeline.runtime.interrupt import Interrupted, Stop


@pytest.mark.parametrize(
    ("name", "worker", "gpus", "device"),
    [
        ("auto", 0, 0, "auto"),
        ("auto", 5, 4, "cuda:1"),
        ("cuda", 3, 4, "cuda:3"),
        ("cuda:1", 3, 4, "cuda:1"),
        ("cpu", 3, 4, "cpu"),
    ],
)
def test_workers_take_gpus_in_turn(name: str, worker: int, gpus: int, device: str) -> None:
    assert shared_device(name, worker, gpus) == device


def test_a_command_has_one_way_to_a_cluster(tmp_path: Path) -> None:
    assert choose_workers(None, None, None, "cpu") is None
    assert choose_workers(0, None, None, "cpu") == Workers(count=0, device="cpu")
    with pytest.raises(ValueError, match="found --workers and --scheduler-file"):
        choose_workers(2, None, tmp_path, "cpu")
    with pytest.raises(ValueError, match="--scheduler: expected an address"):
        choose_workers(None, " ", None, "cpu")


@pytest.mark.parametrize("setting", ["memory_limit=much", "resources.GPU=0", "retries=-1"])
def test_settings_are_validated(setting: str) -> None:
    with pytest.raises(
        ValueError, match=r"cluster\." + setting.partition(".GPU")[0].partition("=")[0]
    ):
        apply_overrides({}, [f"cluster.{setting}"])


def test_a_worker_on_the_cpu_uses_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    dask_cluster._use_one_thread(torch.device("cpu"))
    assert threads == []  # OMP_NUM_THREADS takes precedence
    monkeypatch.delenv("OMP_NUM_THREADS")
    dask_cluster._use_one_thread(torch.device("cuda"))
    assert threads == []
    dask_cluster._use_one_thread(torch.device("cpu"))
    assert threads == [1]


def test_a_scheduler_out_of_reach_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with (
        pytest.raises(ValueError, match=f"expected a Dask scheduler at {address}, found none"),
        dask_cluster.connected(Workers(scheduler=address), Cluster(connect_s=0.2)),
    ):
        pass


def test_a_scheduler_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    with pytest.raises(ValueError, match=r"expected a scheduler file at .* after 0.01 s"):
        dask_cluster.read_address(path, 0.01)
    path.write_text("{")
    writer = threading.Timer(0.1, path.write_text, ['{"address": "tcp://host:1"}'])
    writer.start()
    assert dask_cluster.read_address(path, 60) == "tcp://host:1"
    writer.join()


def test_waiting_for_a_scheduler_file_can_be_stopped(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        dask_cluster.read_address(tmp_path / "scheduler.json", 60, stop)


def test_a_scheduler_of_another_version_is_refused() -> None:
    class OldClient:
        def get_versions(self) -> dict[str, Any]:
            sides = {"client": "2026.8.0", "scheduler": "2024.1.0"}
            return {side: {"packages": {"distributed": v}} for side, v in sides.items()}

    with pytest.raises(ValueError, match=r"distributed 2026.8.0 at host, found 2024.1.0"):
        dask_cluster._check_version(OldClient(), "host")  # type: ignore[arg-type]


def test_dask_is_silenced_only_inside_the_block() -> None:
    logger = logging.getLogger("distributed.client")
    before = logger.level
    with dask_cluster._dask_silenced():
        assert logger.level == logging.CRITICAL
    assert logger.level == before


def test_failures_of_any_kind_are_described() -> None:
    assert describe_failure(dask_cluster.TaskFailed("host: no space left")) == "host: no space left"
    assert describe_failure(RuntimeError("x")) == "a worker: RuntimeError: x"
