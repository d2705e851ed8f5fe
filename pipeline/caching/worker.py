"""What a worker does with one shard. Runs on any machine that sees the store and the images.

A task may run twice, even at once, after its worker was lost from sight: a shard that is whole is
left as it is, and one that is made again has the same bytes.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ...data.datasets import load
from ...data.samples import SampleSet
from ..config.recipe import Recipe, absolute_settings
from ..config.sections import Loader
from ..models.checkpoint import ModelDir
from ..models.predictor import HeatmapPredictor
from ..runtime.dask_cluster import TaskFailed, Workers, worker_device
from ..runtime.device import loader_workers
from ..runtime.diff import differences
from ..runtime.files import versions
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
from ..teachers import load_teacher, parse
from ..workdir import WorkDir
from .fill import encode_shards, next_shard

RUNS_KEPT = 2
"""Teachers and data sets a worker keeps: a cluster may serve two commands in turn."""


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
    settings = absolute_settings(recipe)
    settings["store"]["teachers"] = [parse(name).absolute for name in recipe.store.teachers]
    return Job(
        recipe=json.dumps(settings),
        manifest=json.dumps(manifest),
        store=str(Path(str(files)).absolute()) if files.is_local else str(files),
        teacher=str(work.teacher.path.absolute()),
        device=workers.device,
        share_gpus=workers.start_here,
        work=work.named(recipe),
    )


def make(job: Job, view: int, shard: int) -> Receipt:
    """Make one shard, unless it is whole; the task.

    Raises:
        TaskFailed: whatever went wrong.
    """
    try:
        files, layout = _open(job)
        found = whole_receipt(files, layout, view, shard)
        return found or _make(job, layout, view, shard)
    except Exception as error:  # of any kind: a machine of many has to be named
        plain = isinstance(error, ValueError | OSError)
        reason = str(error) if plain else f"{type(error).__name__}: {error}"
        raise TaskFailed(f"{socket.gethostname()}: {reason}") from error


def _make(job: Job, layout: Layout, view: int, shard: int) -> Receipt:
    bench = _bench(job)
    said = encode_shards(
        layout,
        [(view, shard)],
        bench.predictor,
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
    predictor: HeatmapPredictor
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
    source = load_teacher(teacher, recipe, samples.skeleton)
    place = ", ".join(recipe.store.teachers) or str(teacher.weights)
    expected, found = manifest["teacher"]["sha256"], source.entry["sha256"]
    _check(f"teacher {place}", expected, found, "let all workers see the same files")
    advice = "let all workers see the same images and labels"
    _check("data set", manifest["datasets"][-1], samples.fingerprint(), advice)
    device = worker_device(job.device, share_gpus=job.share_gpus)
    predictor = source.predictor(device)
    # Beside a GPU reading has threads of its own; beside a CPU, other workers use the time.
    threads = loader_workers(recipe.loader.workers, device) if device.type == "cuda" else 0
    recipe = recipe.model_copy(update={"loader": Loader(workers=0)})
    return _Bench(recipe, samples, predictor, device, threads)


def _check(what: str, expected: object, found: object, advice: str) -> None:
    different = differences(expected, found)
    if different:
        raise ValueError(f"another {what} than the command's: {'; '.join(different)}; {advice}")
