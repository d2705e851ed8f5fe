"""What a worker does with one shard. Runs on any machine that sees the store and the images.

A task may run twice, even at once, after its worker was lost from sight: a shard that is whole is
left as it is, and one that is made again has the same bytes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import torch

from ...data.readers import load
from ...data.samples import SampleSet
from ..caching import ask_shards, next_shard
from ..compare import differences
from ..device import choose_device, loader_workers
from ..recipe import Recipe
from ..sections import Loader
from ..store import (
    Files,
    Layout,
    Receipt,
    check_manifest,
    files_at,
    read_manifest,
    served_layout,
    whole_receipt,
    write_shard,
)
from ..store.manifest import Manifest
from ..teachers import open_faculty, parse
from ..teaching import Ask
from ..workdir import ModelDir, WorkDir, versions
from .connection import Workers

RUNS_KEPT = 2
"""Teachers and data sets a worker keeps: a cluster may serve two commands in turn."""


class ShardFailed(Exception):
    """A shard that could not be made: on which machine, and why, in one sentence."""


@dataclass(frozen=True)
class Job:
    """What every task of a command is told: plain, small, and all that its shards depend on.

    Attributes:
        recipe, manifest: JSON; the manifest is the one the store must have.
        store, teacher: places as seen from any working directory: a folder or URL, a folder.
        device: as given to `--device`.
        share_gpus: worker number i takes GPU i, i + count, ... of its machine.
        work: what messages put after `-w`.
    """

    recipe: str
    manifest: str
    store: str
    teacher: str
    device: str
    share_gpus: bool
    work: str


def make_job(
    work: WorkDir, recipe: Recipe, files: Files, manifest: Manifest, workers: Workers
) -> Job:
    """The job of a command."""
    return Job(
        recipe=json.dumps(absolute_settings(recipe)),
        manifest=json.dumps(manifest),
        store=str(Path(str(files)).absolute()) if files.is_local else str(files),
        teacher=str(work.teacher.path.absolute()),
        device=workers.device,
        share_gpus=workers.start_here,
        work=work.named(recipe),
    )


def absolute_settings(recipe: Recipe) -> dict[str, Any]:
    """A recipe's tree, its paths absolute: workers have working directories of their own."""
    settings = recipe.model_dump(mode="json")
    settings["data"] = recipe.data.absolute().model_dump(mode="json")
    location = recipe.store.location
    if location is not None and files_at(location).is_local:
        settings["store"]["location"] = str(Path(location).absolute())
    if recipe.store.teachers:
        settings["store"]["teachers"] = [parse(name).absolute for name in recipe.store.teachers]
    return settings


def make(job: Job, view: int, shard: int) -> Receipt:
    """Make one shard, unless it is whole; the task.

    Raises:
        ShardFailed: whatever went wrong.
    """
    try:
        files, layout = _open(job)
        found = whole_receipt(files, layout, view, shard)
        return found or _make(job, layout, view, shard)
    except Exception as error:  # of any kind: a machine of many has to be named
        plain = isinstance(error, ValueError | OSError)
        reason = str(error) if plain else f"{type(error).__name__}: {error}"
        raise ShardFailed(f"{socket.gethostname()}: {reason}") from error


def _make(job: Job, layout: Layout, view: int, shard: int) -> Receipt:
    bench = _bench(job)
    said = ask_shards(
        layout,
        [(view, shard)],
        bench.ask,
        bench.recipe,
        bench.samples,
        bench.device,
        bench.reading_threads,
    )
    content = next_shard(said, layout, view, shard)
    # Looked at again: since then the command may have been stopped, and the store made anew.
    files, layout = _open(job)
    return whole_receipt(files, layout, view, shard) or write_shard(files, layout, content)


def _open(job: Job) -> tuple[Files, Layout]:
    """The store, and the part of it that the job is about.

    Raises:
        ValueError: this machine sees none, or another one.
    """
    files, expected = files_at(job.store), json.loads(job.manifest)
    if not files.exists():
        raise ValueError(
            f"expected the store at {files}, found none: workers need it on a disk that all of "
            "them share, or behind a URL (--store)"
        )
    found = read_manifest(files)
    check_manifest(files, expected, found, job.work)
    return files, served_layout(expected, found, json.loads(job.recipe)["store"]["views"])


@dataclass(frozen=True)
class _Bench:
    """What a worker keeps from shard to shard."""

    recipe: Recipe
    samples: SampleSet
    ask: Ask
    device: torch.device
    reading_threads: int


_loading = threading.Lock()


def _bench(job: Job) -> _Bench:
    with _loading:  # two threads of a worker share one
        return _load_bench(job)


@lru_cache(RUNS_KEPT)
def _load_bench(job: Job) -> _Bench:
    """Data set and teacher, checked against the manifest.

    Raises:
        ValueError: this machine has others, or other versions of what decides their bits.
    """
    recipe, manifest = Recipe.model_validate_json(job.recipe), json.loads(job.manifest)
    _check("versions of the packages", manifest["versions"], versions(), "install the same")
    samples = load(recipe.data, "train")
    teacher = ModelDir(Path(job.teacher))
    faculty = open_faculty(teacher, recipe, samples.skeleton)
    place = ", ".join(recipe.store.teachers) or str(teacher.weights)
    expected, found = manifest["teacher"]["sha256"], faculty.entry["sha256"]
    _check(f"teacher {place}", expected, found, "let all workers see the same files")
    advice = "let all workers see the same images and labels"
    _check("data set", manifest["datasets"][-1], samples.fingerprint(), advice)
    device = worker_device(job.device, share_gpus=job.share_gpus)
    ask = faculty.ask(device)
    # Beside a GPU reading has threads of its own; beside a CPU, other workers use the time.
    threads = loader_workers(recipe.loader, device) if device.type == "cuda" else 0
    recipe = recipe.model_copy(update={"loader": Loader(workers=0)})
    return _Bench(recipe, samples, ask, device, threads)


def _check(what: str, expected: object, found: object, advice: str) -> None:
    different = differences(expected, found)
    if different:
        raise ValueError(f"another {what} than the command's: {'; '.join(different)}; {advice}")


def worker_device(wanted: str, *, share_gpus: bool) -> torch.device:
    """The device of a worker, which then has one thread for PyTorch on a CPU (see `connection`).

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
    """One thread for a teacher on the CPU, as everywhere on a cluster (see `connection`)."""
    cv2.setNumThreads(0)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
