"""`fpd cache-heatmaps` on a Dask cluster: the same bytes, whichever workers join or are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.pipeline.caching import driver
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.dask_cluster import Workers
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps

CPU = torch.device("cpu")
MANY = "store.views=20"
RECEIPTS = "heatmaps/receipts/*/*.json"


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def times(path: Path) -> dict[str, int]:
    return {str(f.relative_to(path)): f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def many(toy_work: Path, toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with 60 shards, made by one process."""
    torch.set_num_threads(1)
    work = Path(shutil.copytree(toy_work, tmp_path_factory.mktemp("many") / "work"))
    heatmaps.run(WorkDir(work), apply_overrides(toy_recipe.model_dump(mode="json"), [MANY]), CPU)
    return work


def worker_processes(of: int) -> list[psutil.Process]:
    """The worker processes that a process started."""
    below = psutil.Process(of).children(recursive=True)
    return [process for process in below if "spawn_main" in " ".join(process.cmdline())]


def are_gone(processes: list[psutil.Process]) -> bool:
    """Whether they ended; a process without a parent that waits for it stays as a zombie."""
    return all(
        not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        for process in processes
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_workers_writes_the_same_bytes(work: WorkDir, count: int) -> None:
    undisturbed = content(work.store)
    shutil.rmtree(work.store)
    result = fpd("cache-heatmaps", "-w", work.root, "--workers", str(count))
    assert result.exit_code == 0, result.output
    assert content(work.store) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["all", "views", "samples"])
def test_workers_write_the_same_bytes_of_a_portable_store(
    portable_work: WorkDir, missing: str
) -> None:
    """Their shards hold crops and labels; the driver writes the samples of the splits."""
    store = portable_work.store
    undisturbed = content(store)
    if missing == "all":
        shutil.rmtree(store)
    for receipts in {"views": ["heatmaps"], "samples": ["train/ids", "test/ids"]}.get(missing, []):
        shutil.rmtree(store / receipts / "receipts")
    result = fpd("cache-heatmaps", "-w", portable_work.root, "--workers", "2")
    assert result.exit_code == 0, result.output
    assert content(store) == undisturbed


@pytest.mark.slow
def test_a_killed_worker_loses_its_own_shards_only(
    many: Path, work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(work.store)
    before: dict[str, int] = {}
    collect = driver.Driver._collect

    def kill_one_at_first(self: driver.Driver, future: Any) -> None:
        if not before and list(work.store.glob(RECEIPTS)):
            before.update(times(work.store))
            worker_processes(os.getpid())[0].kill()
        collect(self, future)

    monkeypatch.setattr(driver.Driver, "_collect", kill_one_at_first)
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), [MANY])
    heatmaps.run(work, recipe, CPU, workers=Workers(count=2, device="cpu"))
    assert content(work.store) == content(many / "heatmaps.zarr")
    kept = [name for name in before if "/receipts/" in name and name.endswith(".json")]
    assert 0 < len(kept) < 60
    after = times(work.store)
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert not worker_processes(os.getpid())


@contextmanager
def caching(work: WorkDir, *options: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The running command, after its first complete shard."""
    arguments = [sys.executable, "-m", "fpd", "cache-heatmaps", "-w", work.root, *options]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while not list(work.store.glob(RECEIPTS)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_a_store_to_resume_and_no_process(
    many: Path, work: WorkDir, number: signal.Signals
) -> None:
    """As from a terminal, the signal goes to all processes; SIGKILL to the command alone."""
    shutil.rmtree(work.store)
    with caching(work, "--workers", "2", "--set", "store.views=400") as process:
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        _, errors = process.communicate()
    while not are_gone(started):
        time.sleep(0.01)
    if number != signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75}[number], errors
        assert "the same command makes the rest" in errors
        assert len(errors.splitlines()) <= 3, errors
    assert "Traceback" not in errors
    assert 0 < len(list(work.store.glob(RECEIPTS))) < 1200
    again = fpd("cache-heatmaps", "-w", work.root, "--set", MANY)
    assert again.exit_code == 0, again.output
    undisturbed, written = content(many / "heatmaps.zarr"), content(work.store)
    for name in undisturbed:  # except for metadata, which is for 400 views
        assert name.endswith("zarr.json") or written[name] == undisturbed[name]


@pytest.mark.slow
def test_a_shard_that_cannot_be_made_is_named_and_the_others_are_made(work: WorkDir) -> None:
    undisturbed = content(work.store)
    shutil.rmtree(work.store)
    obstacle = work.store / "peaks" / "c" / "1" / "1" / "0"
    fpd("cache-heatmaps", "-w", work.root, "--only-views", "0")
    obstacle.mkdir(parents=True)
    (obstacle / "somebody's").touch()  # an empty folder would be removed
    command = ["cache-heatmaps", "-w", work.root, "--workers", "2", "--set", "cluster.retries=1"]
    failed = fpd(*command)
    assert failed.exit_code == 1
    assert "1 of 3 shards could not be made" in failed.output
    assert f"shard 1 of view 1, on {socket.gethostname()}: " in failed.output
    assert "found a folder that is not empty" in failed.output
    assert len(list(work.store.glob(RECEIPTS))) == 5
    shutil.rmtree(obstacle)
    again = fpd(*command)
    assert again.exit_code == 0, again.output
    assert content(work.store) == undisturbed


@contextmanager
def dask(*arguments: str | Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_running_cluster_is_used_and_left_running(work: WorkDir, tmp_path: Path) -> None:
    """Through a scheduler file that does not exist yet; the worker serves a second command, too."""
    undisturbed, file = content(work.store), tmp_path / "scheduler.json"
    shutil.rmtree(work.store)
    join = ["--scheduler-file", file, "--set", "cluster.resources.GPU=1"]
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"]
    worker = ["worker", "--nthreads", "1", "--resources", "GPU=1", "--no-dashboard"]
    with (
        dask(*scheduler, "--scheduler-file", file) as first,
        dask(*worker, "--scheduler-file", file, "--local-directory", tmp_path) as second,
    ):
        for _ in range(2):
            result = fpd("cache-heatmaps", "-w", work.root, "--overwrite", *join)
            assert result.exit_code == 0, result.output
            assert content(work.store) == undisturbed
        assert first.poll() is None
        assert second.poll() is None


MODULE = """
import os
import torch
from fpd.pipeline.teachers import TeacherSpec

class Brightness:
    spec = TeacherSpec(input=(32, 32), joints=("neck", "head top"), stride_px=2)
    digest = "brightness, version 1"

    def __call__(self, crops):
        gray = torch.nn.functional.avg_pool2d(crops.mean(1, keepdim=True), 2)
        return torch.cat([gray, -gray], dim=1).sigmoid() * ("BROKEN" not in os.environ)
"""


@pytest.mark.slow
def test_a_worker_whose_teacher_answers_zeros_is_refused(
    work: WorkDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, and when it joins later; the other worker's shards are kept."""
    monkeypatch.chdir(tmp_path)
    Path("bright.py").write_text(MODULE)
    teacher, file = ["--teacher", "bright:Brightness"], tmp_path / "scheduler.json"
    made = fpd("cache-heatmaps", "-w", work.root, *teacher, "--overwrite")
    assert made.exit_code == 0, made.output
    undisturbed = content(work.store)
    shutil.rmtree(work.store)
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"]
    worker = ["worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", file]
    good, bad = ([*worker, "--local-directory", tmp_path / name] for name in ("good", "bad"))
    join = [*teacher, "--scheduler-file", file]
    refusal = f"({socket.gethostname()}, process "
    with dask(*scheduler, "--scheduler-file", file):
        with dask(*bad, BROKEN="1"):
            alone = fpd("cache-heatmaps", "-w", work.root, *join)
        assert alone.exit_code == 1
        assert refusal in alone.output
        assert not list(work.store.glob(RECEIPTS))
        assert not list(work.store.glob("heatmaps/c/*"))
        with dask(*good):
            again = fpd("cache-heatmaps", "-w", work.root, *join)
            assert again.exit_code == 0, again.output
            assert content(work.store) == undisturbed
            shutil.rmtree(work.store)
            many_views = ["--set", "store.views=4000"]
            with caching(work, *join, *many_views) as process, dask(*bad, BROKEN="1"):
                _, errors = process.communicate()
    assert process.returncode == 1
    assert refusal in errors
    assert "Traceback" not in errors
    written = content(work.store)
    kept = [name for name in written if name in undisturbed and not name.endswith("zarr.json")]
    assert any("/receipts/" in name for name in kept)
    assert all(written[name] == undisturbed[name] for name in kept)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--workers", "2", "--scheduler", "tcp://x:1"], "found --workers and --scheduler"),
        (["--scheduler", ""], "--scheduler: expected an address"),
        (["--workers", "2", "--plan"], "--plan measures this process"),
        (["--scheduler", "tcp://127.0.0.1:1"], "expected a Dask scheduler at tcp://127.0.0.1:1"),
        (["--scheduler-file", "nowhere.json"], "expected a scheduler file at nowhere.json"),
    ],
)
def test_wrong_options_are_one_message(work: WorkDir, options: list[str], part: str) -> None:
    (work.store / "heatmaps" / "receipts" / "0" / "0.json").unlink()
    settings = ["--set", "cluster.connect_s=0.2"]
    result = fpd("cache-heatmaps", "-w", work.root, *options, *settings)
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if "Error: " in line] == [
        line for line in result.output.splitlines() if part in line
    ]


@pytest.mark.slow
def test_dask_is_not_imported_without_a_cluster() -> None:
    code = "import sys, fpd.stages.heatmaps as s; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_store_is_not_overwritten_before_a_scheduler_is_reached(work: WorkDir) -> None:
    before = content(work.store)
    options = ["--overwrite", "--scheduler", "tcp://127.0.0.1:9", "--set", "cluster.connect_s=0.5"]
    result = fpd("cache-heatmaps", "-w", work.root, *options)
    assert result.exit_code == 1
    assert "expected a Dask scheduler at tcp://127.0.0.1:9" in result.output
    assert content(work.store) == before
