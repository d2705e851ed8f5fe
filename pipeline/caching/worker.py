"""The task of a Dask worker: it makes one shard. It runs on any machine that can read the images
and write the store.

A task may run twice, even at the same time, after its worker seemed lost. That is harmless: a
complete shard is left as it is, and a shard that is made again has the same bytes.
"""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ...data.datasets import load
from ..config.recipe import Recipe, absolute_settings
from ..config.sections import Loader
from ..models.model_dir import ModelDir
from ..runtime.dask_cluster import TaskFailed, Workers, worker_device
from ..runtime.device import loader_workers
from ..runtime.diff import differences
from ..runtime.files import versions
from ..store import (
    Layout,
    Receipt,
    Storage,
    check_manifest,
    complete_receipt,
    open_storage,
    read_manifest,
    served_layout,
    write_shard,
)
from ..store.manifest import Manifest
from ..teachers import load_teacher, parse
from ..workdir import WorkDir
from .fill import collect_shard, encode_shards
from .inputs import StoreInputs
from .spot_check import Cells, Gate, SpotCheck, encode_cells

CONTEXTS_KEPT = 2
"""Number of commands whose teacher and data set a worker keeps loaded."""


@dataclass(frozen=True)
class Job:
    """What all tasks of a command share: small, picklable, and everything its shards depend on.

    Attributes:
        recipe, manifest: JSON; the store must have this manifest.
        store: absolute path or URL.
        teacher: absolute path of its folder.
        device: as given to `--device`.
        share_gpus: see `runtime.dask_cluster.worker_device`.
        work_options: what follows `-w` in the commands of messages.
        allow_code: whether to run teachers that are Python code, as the command may.
    """

    recipe: str
    manifest: str
    store: str
    teacher: str
    device: str
    share_gpus: bool
    work_options: str
    allow_code: bool


def make_job(
    work: WorkDir,
    recipe: Recipe,
    storage: Storage,
    manifest: Manifest,
    workers: Workers,
    *,
    allow_code: bool,
) -> Job:
    """Make the job of a command; its paths are made absolute."""
    settings = absolute_settings(recipe)
    settings["store"]["teachers"] = [parse(name).absolute for name in recipe.store.teachers]
    return Job(
        recipe=json.dumps(settings),
        manifest=json.dumps(manifest),
        store=str(Path(str(storage)).absolute()) if storage.is_local else str(storage),
        teacher=str(work.teacher.path.absolute()),
        device=workers.device,
        share_gpus=workers.starts_workers,
        work_options=work.command_options(recipe),
        allow_code=allow_code,
    )


def make(job: Job, view: int, shard: int, check: SpotCheck | None = None) -> Receipt | Cells:
    """Make one shard, unless it is complete. This is the task.

    Args:
        check: that this process must pass before it makes a shard (see `spot_check`).

    Returns:
        The shard's receipt; or, if the shard was not made, the cells for the driver to check.

    Raises:
        TaskFailed: on any error.
    """
    try:
        storage, layout = _open_store(job)
        receipt = complete_receipt(storage, layout, view, shard)
        return receipt or _cells(job, check) or _encode_and_write(job, layout, view, shard)
    except Exception as error:  # of any kind, to report the machine
        is_sentence = isinstance(error, ValueError | OSError)
        reason = str(error) if is_sentence else f"{type(error).__name__}: {error}"
        raise TaskFailed(f"{socket.gethostname()}: {reason}") from error


def _cells(job: Job, check: SpotCheck | None) -> Cells | None:
    """The cells that the driver is to check first; None: shards may be made."""
    if check is None:
        return None
    context = _context(job)
    if context.gate.admits(check):
        return None
    process = context.gate.process(check)
    return encode_cells(check, process, context.inputs)


def _encode_and_write(job: Job, layout: Layout, view: int, shard: int) -> Receipt:
    context = _context(job)
    batches = encode_shards(layout, [(view, shard)], context.inputs, context.reading_threads)
    content = collect_shard(batches, layout, view, shard)
    # Opened again: the command may have been stopped in the meantime, and the store replaced.
    storage, layout = _open_store(job)
    return complete_receipt(storage, layout, view, shard) or write_shard(storage, layout, content)


def _open_store(job: Job) -> tuple[Storage, Layout]:
    """Open the store, and return the layout of the part that the job fills.

    Raises:
        ValueError: this machine cannot see the store, or sees another one.
    """
    storage, expected = open_storage(job.store), json.loads(job.manifest)
    if not storage.exists():
        raise ValueError(
            f"expected the store at {storage}, found none: workers need it on a disk that all of "
            "them share, or behind a URL (--store)"
        )
    manifest = read_manifest(storage)
    check_manifest(storage, expected, manifest, job.work_options)
    return storage, served_layout(expected, manifest, json.loads(job.recipe)["store"]["views"])


@dataclass(frozen=True)
class _Context:
    """What a worker keeps loaded from shard to shard."""

    inputs: StoreInputs
    reading_threads: int
    gate: Gate = field(default_factory=Gate)


_loading = threading.Lock()


def _context(job: Job) -> _Context:
    with _loading:  # the two threads of a GPU's worker share one context
        return _load_context(job)


@lru_cache(CONTEXTS_KEPT)
def _load_context(job: Job) -> _Context:
    """Load the data set and the teacher, and check them against the manifest.

    Raises:
        ValueError: this machine has another data set or teacher, or other versions of the packages
            that heatmaps depend on.
    """
    recipe, manifest = Recipe.model_validate_json(job.recipe), json.loads(job.manifest)
    _check("versions of the packages", manifest["versions"], versions(), "install the same")
    samples = load(recipe.data, "train")
    teacher = ModelDir(Path(job.teacher))
    source = load_teacher(teacher, recipe, samples.skeleton, allow_code=job.allow_code)
    teacher_files = ", ".join(recipe.store.teachers) or str(teacher.weights)
    _check(
        f"teacher {teacher_files}",
        manifest["teacher"]["sha256"],
        source.entry["sha256"],
        "let all workers see the same files",
    )
    _check(
        "data set",
        manifest["datasets"][-1],
        samples.fingerprint(),
        "let all workers see the same images and labels",
    )
    device = worker_device(job.device, share_gpus=job.share_gpus)
    # With a GPU, threads read ahead; on a CPU, other workers use the cores in the meantime.
    threads = loader_workers(recipe.loader.workers, device) if device.type == "cuda" else 0
    recipe = recipe.model_copy(update={"loader": Loader(workers=0)})
    inputs = StoreInputs(source, recipe, samples, device)
    _ = inputs.predictor  # loaded here, for all threads of the worker
    return _Context(inputs, threads)


def _check(what: str, expected: object, found: object, advice: str) -> None:
    different = differences(expected, found)
    if different:
        raise ValueError(f"expected the command's {what}: {'; '.join(different)}; {advice}")
