"""`fpd export`: write a finished model as one file that runs without this package.

    fpd export -w work/demo
    fpd export -w work/demo --format torch-export -o student.pt2
    fpd export -w work/demo --quantize static -o student-int8.onnx

Input: a model's folder; a few views of the data set (of synthetic samples, if the data set is not
available) on which the file is compared with PyTorch; all test samples, to score a quantized model.
Output: the file, and a JSON file beside it. docs/deploying.md describes how to use them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.datasets import Split, load
from ..data.readers.synthetic.people import synthetic_samples
from ..data.samples import SampleSet
from ..data.sections import STORE_READER
from ..data.views import CENTER_CROP
from ..pipeline.config.recipe import Recipe, fresh_views
from ..pipeline.evaluation.inference import score_exported
from ..pipeline.models.checkpoint import TrainedModel, load_model
from ..pipeline.models.export.deployable import Deployable, ModelRunner, in_pytorch
from ..pipeline.models.export.formats import (
    describe,
    export_program,
    onnx_bytes,
    onnx_packages,
    open_onnx,
    open_program,
    program_bytes,
)
from ..pipeline.models.export.parity import HEATMAP_TOLERANCE, JOINT_TOLERANCE_PX, compare
from ..pipeline.models.export.quantize import Method, quantize
from ..pipeline.models.model_dir import ModelDir
from ..pipeline.runtime.files import as_json, atomic_group, make_writable
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.runtime.timing import time_interleaved
from ..pipeline.store.dataset import load_samples
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}

COMPARED_VIEWS = 32
CALIBRATION_CROPS = 256
TIMED_BATCH = 32


def run(
    work: WorkDir,
    recipe: Recipe,
    name: str,
    *,
    kind: Format = "onnx",
    out: Path | None = None,
    method: Method | None = None,
) -> dict[str, Any]:
    """Export a model on the CPU, and check that the file's output matches PyTorch's.

    Args:
        name: name of the model's folder.
        out: path of the file; None: in the model's folder, named after it.
        method: quantize the model with this method, and score both versions.

    Returns:
        The content of the JSON file, and "path".

    Raises:
        ValueError: there is no such model, a package is missing, another process is writing the
            file, or the exported model's output differs from PyTorch's; nothing is written then.
    """
    if method is not None and kind != "onnx":
        raise ValueError("--quantize is done by onnxruntime: expected --format onnx with it")
    folder = work.model(name)
    out = out or folder.path / f"{name}{'-int8' if method else ''}{SUFFIXES[kind]}"
    check_request(kind, out)
    with writer_lock(out):
        return _export(work, recipe, folder, kind, out, method)


def _export(
    work: WorkDir,
    recipe: Recipe,
    folder: ModelDir,
    kind: Format,
    out: Path,
    method: Method | None,
) -> dict[str, Any]:
    trained = load_model(folder, torch.device("cpu"))
    log.info("exporting %s, and comparing the file's output with PyTorch's", trained.name)
    description = describe(trained)
    recipe = recipe.with_geometry(trained.geometry)
    content, compared = _exported(trained, recipe, kind, description)
    report = description | {"format": kind, "compared": compared, "bytes": len(content)}
    if method is not None:
        log.info("quantizing, and scoring both files on the test samples")
        content, costs = _quantized(work, recipe, content, method, description)
        report |= {"quantized": costs, "bytes": len(content)}
    report["file_sha256"] = hashlib.sha256(content).hexdigest()
    with atomic_group(out, out.with_name(out.name + ".json")) as (file, json_file):
        file.write_bytes(content)
        json_file.write_text(as_json(report), "utf-8")
    return report | {"path": str(out)}


def check_request(kind: Format, out: Path) -> None:
    """Refuse paths that cannot be written, and names that a work directory's own files have.

    Raises:
        ValueError: naming what is expected, or a package that is missing.
    """
    if kind == "onnx":
        onnx_packages()
    suffix = SUFFIXES[kind]
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"-o {out}: expected a file name in an existing folder")
    if out.suffix != suffix:
        raise ValueError(f"-o {out}: expected a name that ends in {suffix}")
    make_writable(out.parent, "the folder", "name a file in another with -o")


def _exported(
    trained: TrainedModel, recipe: Recipe, kind: Format, description: dict[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """The file's content, compared with PyTorch, and the result of that comparison."""
    program = export_program(trained)
    writers: dict[Format, Callable[..., bytes]] = {
        "onnx": onnx_bytes,
        "torch-export": program_bytes,
    }
    openers: dict[Format, Callable[[bytes], ModelRunner]] = {
        "onnx": open_onnx,
        "torch-export": open_program,
    }
    content = writers[kind](program, description)
    crops_NSS3, source = _some_views(recipe)
    difference = compare(in_pytorch(Deployable(trained)), openers[kind](content), crops_NSS3)
    difference.check()
    return content, asdict(difference) | {
        "people": source,
        "heatmap_tolerance": HEATMAP_TOLERANCE,
        "joint_tolerance_px": JOINT_TOLERANCE_PX,
    }


def _some_views(recipe: Recipe) -> tuple[NDArray[np.uint8], str]:
    """Augmented views to compare on, uint8 (N, S, S, 3), and the name of their sample set."""
    try:
        samples = load(recipe.data, "train")
    except ValueError:  # exporting must not require the training data
        samples = synthetic_samples("test", COMPARED_VIEWS)
    views = fresh_views(recipe, samples, 0)
    keys = [(i % len(samples), i) for i in range(COMPARED_VIEWS)]
    return np.stack([views[key]["crop"] for key in keys]), samples.name


def _quantized(
    work: WorkDir, recipe: Recipe, content: bytes, method: Method, description: dict[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """The quantized file's content, and the size, PCK and time of both files."""
    test = load_samples(work, recipe, "test")
    # A portable store usually has no unaugmented crops of training samples.
    split: Split = "validation" if recipe.data.reader == STORE_READER else "train"
    crops_NSS3 = _plain_crops(recipe, load_samples(work, recipe, split))
    quantized = quantize(content, method, description | {"quantized": method}, crops_NSS3)
    contents = {"float32": content, "int8": quantized}
    runners = {kind: open_onnx(file) for kind, file in contents.items()}
    difference = compare(
        runners["float32"],
        runners["int8"],
        crops_NSS3[:COMPARED_VIEWS],
        joint_tolerance_px=None,
    )
    times = _times(runners, crops_NSS3)
    scores = {kind: score_exported(runner, recipe, test) for kind, runner in runners.items()}
    files = {
        kind: {"bytes": len(contents[kind]), "pck": score.mean, "auc": score.auc} | times[kind]
        for kind, score in scores.items()
    }
    return quantized, {
        "method": method,
        "calibration_crops": len(crops_NSS3) if method == "static" else 0,
        "people": len(test),
        "metric": scores["float32"].metric,
        "difference": asdict(difference),
        "threads": torch.get_num_threads(),
        "timed_batch": TIMED_BATCH,
        **files,
    }


def _plain_crops(recipe: Recipe, samples: SampleSet) -> NDArray[np.uint8]:
    """Unaugmented crops of samples spread over the set: uint8 (N, S, S, 3)."""
    views = fresh_views(recipe, samples, 0)
    indices = np.unique(np.linspace(0, len(samples) - 1, CALIBRATION_CROPS).astype(int))
    return np.stack([views[i, CENTER_CROP]["crop"] for i in indices.tolist()])


def _times(runners: dict[str, ModelRunner], crops_NSS3: NDArray[np.uint8]) -> dict[str, Any]:
    """Milliseconds of each file, at batch size 1 and at `TIMED_BATCH`."""
    batches = {"batch_1": crops_NSS3[:1], f"batch_{TIMED_BATCH}": crops_NSS3[:TIMED_BATCH]}
    times: dict[str, Any] = {kind: {} for kind in runners}
    for label, crops in batches.items():
        tasks = {kind: partial(runner, crops) for kind, runner in runners.items()}
        for kind, spread in time_interleaved(tasks).items():
            times[kind][label] = asdict(spread)
    return times
