"""The task of a Dask worker, run in this process."""

from __future__ import annotations

import json
import pickle
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fpd.data.samples import SampleSet
from fpd.pipeline.caching import worker
from fpd.pipeline.caching.worker import Job, make, make_job
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.dask_cluster import TaskFailed, Workers
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.store import make_manifest, open_storage, read_manifest
from fpd.pipeline.store.manifest import write_manifest
from fpd.pipeline.teachers import resolve
from fpd.pipeline.training.train import make_identity
from fpd.pipeline.workdir import WorkDir

HOST = socket.gethostname()
SHARD = (1, 2)


def modification_times(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}


def contents(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def delete_receipt(work: WorkDir, shard: tuple[int, int] = SHARD) -> None:
    (work.store / "heatmaps" / "receipts" / str(shard[0]) / f"{shard[1]}.json").unlink()


def test_a_job_is_small_and_has_absolute_paths(
    work: WorkDir, job: Job, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work.root.parent)
    relative, manifest = WorkDir(Path("work")), json.loads(job.manifest)
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), ["data.root=photos"])
    made = make_job(
        relative,
        recipe,
        open_storage(relative.store),
        manifest,
        Workers(count=1),
        allow_code=True,
    )
    assert made.allow_code
    assert (made.store, made.teacher) == (job.store, job.teacher)
    assert json.loads(made.recipe)["data"]["root"] == str(work.root.parent / "photos")
    assert made.share_gpus
    assert len(pickle.dumps(made)) < 16_384
    workers = Workers(scheduler="x")
    remote = make_job(
        relative, recipe, open_storage("memory://a/b"), manifest, workers, allow_code=False
    )
    assert remote.store == "memory://a/b"
    assert not remote.share_gpus


def test_manifest_and_identity_do_not_depend_on_the_cluster(
    toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    changes = ["cluster.retries=7", "cluster.memory_limit=4GiB", "cluster.resources.GPU=1"]
    other = apply_overrides(toy_recipe.model_dump(mode="json"), changes)
    assert other.cluster != toy_recipe.cluster
    assert make_manifest(other, toy_samples, "") == make_manifest(toy_recipe, toy_samples, "")
    assert make_identity(other, other.teacher, {}) == make_identity(
        toy_recipe, toy_recipe.teacher, {}
    )


def test_a_complete_shard_is_left_as_it_is(work: WorkDir, job: Job) -> None:
    before = modification_times(work.store)
    work.teacher.weights.unlink()  # nothing is loaded either
    receipt = make(job, *SHARD)
    assert (receipt["view"], receipt["shard"]) == SHARD
    assert modification_times(work.store) == before


def test_a_missing_shard_is_made_with_the_same_bytes_and_no_other_file_changes(
    work: WorkDir, job: Job
) -> None:
    expected, before = contents(work.store), modification_times(work.store)
    delete_receipt(work)
    make(job, *SHARD)
    assert contents(work.store) == expected
    after = modification_times(work.store)
    changed = {path for path in after if before[path] != after[path]}
    assert {path.name for path in changed} == {"0", "2.json"}
    assert len(changed) == 5


def test_reading_in_threads_gives_the_same_shards_and_the_teacher_is_loaded_once(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    loads = []
    load_model = resolve.load_model
    monkeypatch.setattr(resolve, "load_model", lambda *a: loads.append(1) or load_model(*a))
    assert worker._context(job) is worker._context(job)
    context = replace(worker._context(job), reading_threads=3)
    monkeypatch.setattr(worker, "_context", lambda _: context)
    expected = contents(work.store)
    for shard in (0, 1, 2):
        delete_receipt(work, (0, shard))
        make(job, 0, shard)
    assert contents(work.store) == expected
    assert len(loads) == 1


def assert_refused(job: Job, *parts: str) -> None:
    with pytest.raises(TaskFailed) as caught:
        make(job, *SHARD)
    for part in (HOST, *parts):
        assert part in str(caught.value)


def test_another_teacher_on_a_worker_is_named(work: WorkDir, job: Job) -> None:
    delete_receipt(work)
    expected = json.loads(job.manifest)["teacher"]["sha256"]
    work.teacher.weights.write_bytes(work.teacher.weights.read_bytes() + b"\0")
    assert_refused(job, "teacher", expected[:12], sha256(work.teacher.weights)[:12])


def test_another_data_set_on_a_worker_is_named(work: WorkDir, job: Job) -> None:
    delete_receipt(work)
    settings = json.loads(job.recipe)
    settings["data"]["synthetic"]["seed"] = 7
    other = replace(job, recipe=json.dumps(settings))
    assert_refused(other, "data set", "images: expected", "labels")


def test_other_packages_on_a_worker_are_named(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_receipt(work)
    installed = {**json.loads(job.manifest)["versions"], "cv2": "1"}
    monkeypatch.setattr(worker, "versions", lambda: installed)
    assert_refused(job, "cv2: expected", "found 1", "install the same")


def test_a_worker_that_cannot_see_the_store_is_named(work: WorkDir, job: Job) -> None:
    work.store.rename(work.root / "elsewhere.zarr")
    assert_refused(job, f"expected the store at {work.store}, found none", "share")


def test_a_task_of_an_earlier_command_does_not_write_to_a_replaced_store(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command was stopped and the store made for other settings while the task ran."""
    delete_receipt(work)
    collect_shard = worker.collect_shard

    def collect_slowly(*args: Any) -> Any:
        content, storage = collect_shard(*args), open_storage(work.store)
        write_manifest(storage, {**read_manifest(storage), "seed": 5})
        return content

    monkeypatch.setattr(worker, "collect_shard", collect_slowly)
    before = contents(work.store / "heatmaps")
    assert_refused(job, "seed: expected 0, found 5")
    assert contents(work.store / "heatmaps") == before


def test_unforeseen_errors_name_the_machine_too(
    work: WorkDir, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_receipt(work)
    monkeypatch.setattr(worker, "collect_shard", lambda *_: 1 / 0)
    assert_refused(job, "ZeroDivisionError")
