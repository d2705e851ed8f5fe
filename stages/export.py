"""Beside the stages: a finished model as one file that needs nothing of this package.

    fpd export -w work/demo
    fpd export -w work/demo --format torch-export -o student.pt2
    fpd export -w work/demo --quantize static -o student-int8.onnx

In: a model's folder; a few views of the data set to compare on (of drawn people, where the data set
is not at hand), and all of its test people to score a quantized model. Out: the file, and a JSON
beside it. docs/deploying.md has how to use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.datasets import load
from ..data.readers.synthetic.people import synthetic_people
from ..data.samples import SampleSet
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
from ..pipeline.runtime.files import as_json, atomic_group, make_writable
from ..pipeline.runtime.timing import interleaved
from ..pipeline.workdir import WorkDir

Format = Literal["onnx", "torch-export"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}

COMPARED_VIEWS = 32
CALIBRATION_CROPS = 256
TIMED_BATCH = 32
WARM_UP, ROUNDS, RUNS = 3, 6, 10


def run(
    work: WorkDir,
    recipe: Recipe,
    name: str,
    *,
    kind: Format = "onnx",
    out: Path | None = None,
    method: Method | None = None,
) -> dict[str, Any]:
    """Export a model, on the CPU, and see that the file says what PyTorch says.

    Args:
        name: the model's folder.
        out: the file; none given: in the model's folder, under its name.
        method: quantize it, and score both.

    Returns:
        The content of the JSON beside the file, and "path".

    Raises:
        ValueError: there is no such model, a package is missing, or the exported model differs
            from the original; nothing is written then.
    """
    if method is not None and kind != "onnx":
        raise ValueError("--quantize is onnxruntime's: expected --format onnx with it")
    if kind == "onnx":
        onnx_packages()
    folder = work.model(name)
    out = out or folder.path / f"{name}{'-int8' if method else ''}{SUFFIXES[kind]}"
    _check_out(out, SUFFIXES[kind])
    trained = load_model(folder, torch.device("cpu"))
    description = describe(trained)
    recipe = recipe.with_geometry(trained.geometry)
    content, compared = _exported(trained, recipe, kind, description)
    report = description | {"format": kind, "compared": compared, "bytes": len(content)}
    if method is not None:
        content, costs = _quantized(trained, recipe, content, method, description)
        report |= {"quantized": costs, "bytes": len(content)}
    report["file_sha256"] = hashlib.sha256(content).hexdigest()
    with atomic_group(out, out.with_name(out.name + ".json")) as (file, beside):
        file.write_bytes(content)
        beside.write_text(as_json(report), "utf-8")
    return report | {"path": str(out)}


def _check_out(out: Path, suffix: str) -> None:
    """Refuse what cannot be written, and names that may be a work directory's own files."""
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"-o {out}: expected a file's name in a folder that is there")
    if out.suffix != suffix:
        raise ValueError(f"-o {out}: expected a name that ends in {suffix}")
    make_writable(out.parent, "the folder", "name a file in another with -o")


def _exported(
    trained: TrainedModel, recipe: Recipe, kind: Format, description: dict[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """The file's content, once it has said what PyTorch says; and how nearly."""
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
    crops_NSS3, people = _some_views(recipe)
    expected = in_pytorch(Deployable(trained))
    difference = compare(expected, openers[kind](content), crops_NSS3)
    difference.check()
    return content, asdict(difference) | {
        "people": people,
        "heatmap_tolerance": HEATMAP_TOLERANCE,
        "joint_tolerance_px": JOINT_TOLERANCE_PX,
    }


def _some_views(recipe: Recipe) -> tuple[NDArray[np.uint8], str]:
    """Views to compare on, augmented as in training, and whose: uint8 (N, S, S, 3)."""
    try:
        people = load(recipe.data, "train")
    except ValueError:  # who ships a model need not have what it was trained on
        people = synthetic_people("test", COMPARED_VIEWS)
    views = fresh_views(recipe, people, 0)
    keys = [(i % len(people), i) for i in range(COMPARED_VIEWS)]
    return np.stack([views[key]["crop"] for key in keys]), people.name


def _quantized(
    trained: TrainedModel,
    recipe: Recipe,
    content: bytes,
    method: Method,
    description: dict[str, Any],
) -> tuple[bytes, dict[str, Any]]:
    """The quantized file's content, and both files' size, PCK and time."""
    test = load(recipe.data, "test")
    crops_NSS3 = _plain_crops(recipe, load(recipe.data, "train"))
    quantized = quantize(content, method, description | {"quantized": method}, crops_NSS3)
    contents = {"float32": content, "int8": quantized}
    answerers = {kind: open_onnx(file) for kind, file in contents.items()}
    difference = compare(answerers["float32"], answerers["int8"], crops_NSS3[:COMPARED_VIEWS])
    times = _times(answerers, crops_NSS3)
    rows = {}
    for kind, answer in answerers.items():
        found = score_exported(answer, recipe, test)
        rows[kind] = {"bytes": len(contents[kind]), "pck": found.mean, "auc": found.auc}
        rows[kind] |= times[kind]
    return quantized, {
        "method": method,
        "calibration_crops": len(crops_NSS3) if method == "static" else 0,
        "people": len(test),
        "metric": found.metric,
        "difference": asdict(difference),
        "threads": torch.get_num_threads(),
        "timed_batch": TIMED_BATCH,
        **rows,
    }


def _plain_crops(recipe: Recipe, people: SampleSet) -> NDArray[np.uint8]:
    """Crops of training people, spread over the set: uint8 (N, S, S, 3)."""
    views = fresh_views(recipe, people, 0)
    chosen = np.unique(np.linspace(0, len(people) - 1, CALIBRATION_CROPS).astype(int))
    return np.stack([views[i, CENTER_CROP]["crop"] for i in chosen.tolist()])


def _times(answerers: dict[str, ModelRunner], crops_NSS3: NDArray[np.uint8]) -> dict[str, Any]:
    """Milliseconds of each file at batch 1 and at a large one."""
    batches = {"batch_1": crops_NSS3[:1], f"batch_{TIMED_BATCH}": crops_NSS3[:TIMED_BATCH]}
    found: dict[str, Any] = {kind: {} for kind in answerers}
    for label, crops in batches.items():
        tasks = {kind: _asking(answer, crops) for kind, answer in answerers.items()}
        spreads = interleaved(tasks, warmup_fraction=WARM_UP, rounds=ROUNDS, runs=RUNS)
        for kind, spread in spreads.items():
            found[kind][label] = asdict(spread)
    return found


def _asking(answer: ModelRunner, crops_BSS3: NDArray[np.uint8]) -> Callable[[], object]:
    return lambda: answer(crops_BSS3)
