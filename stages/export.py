"""`fpd export`: write a finished model as one file that runs without this package.

    fpd export -w work/demo
    fpd export -w work/demo --format torch-export -o student.pt2
    fpd export -w work/demo --quantize static -o student-int8.onnx

Input: a model's folder; a few views of the data set (of synthetic samples, if the data set is not
available) on which the file is compared with PyTorch; all test samples, to score a quantized model;
`evaluation/report.json`, if there is one, for the model card.
Output: the file, and beside it a JSON file and the card; with `--push-to-hub` they are uploaded.
docs/deploying.md describes how to use them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

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
from ..pipeline.evaluation.model_card import model_card
from ..pipeline.models.checkpoint import TrainedModel, load_model
from ..pipeline.models.complexity import count
from ..pipeline.models.export.deployable import Deployable, ModelRunner, in_pytorch
from ..pipeline.models.export.formats import describe, open_onnx
from ..pipeline.models.export.parity import HEATMAP_TOLERANCE, JOINT_TOLERANCE_PX, compare
from ..pipeline.models.export.quantize import Method, quantize
from ..pipeline.models.export.registry import FORMATS, Kind
from ..pipeline.models.export.upload import HubTarget, check_target, upload
from ..pipeline.models.model_dir import ModelDir
from ..pipeline.runtime.files import as_json, atomic_group, make_writable, read_json, versions
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.runtime.timing import time_interleaved
from ..pipeline.store.dataset import load_samples
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")

COMPARED_VIEWS = 32
CALIBRATION_CROPS = 256
TIMED_BATCH = 32


def run(
    work: WorkDir,
    recipe: Recipe,
    name: str,
    *,
    kind: Kind = "onnx",
    out: Path | None = None,
    method: Method | None = None,
    license_name: str | None = None,
    hub: HubTarget | None = None,
) -> dict[str, Any]:
    """Export a model on the CPU, and check that the file's output matches PyTorch's.

    Args:
        name: name of the model's folder.
        out: path of the file; None: in the model's folder, named after it.
        method: quantize the model with this method, and score both versions.
        license_name: of the model, for its card, such as "apache-2.0"; None: the card says that
            none is stated.
        hub: upload the files there; None: do not.

    Returns:
        The content of the JSON file, and "path", "card" and, if it was uploaded, "url".

    Raises:
        ValueError: there is no such model, a package is missing, another process is writing the
            file, or the exported model's output differs from PyTorch's: nothing is written then.
            Or the upload failed, after the files were written.
    """
    if method is not None and kind != "onnx":
        raise ValueError("--quantize is done by onnxruntime: expected --format onnx with it")
    folder = work.model(name)
    suffix = FORMATS[kind].suffixes[0]
    out = out or folder.path / f"{name}{'-int8' if method else ''}{suffix}"
    check_request(kind, out)
    if hub is not None:
        check_target(hub)
    with writer_lock(out):
        report = _export(work, recipe, folder, kind, out, method, license_name)
        if hub is not None:
            report["url"] = _upload(hub, out, report)
    return report


def _export(
    work: WorkDir,
    recipe: Recipe,
    folder: ModelDir,
    kind: Kind,
    out: Path,
    method: Method | None,
    license_name: str | None,
) -> dict[str, Any]:
    evaluation, record = _evaluation(work), folder.record()  # first: they may be damaged
    trained = load_model(folder, torch.device("cpu"))
    log.info("exporting %s, and comparing the file's output with PyTorch's", trained.name)
    description = describe(trained, FORMATS[kind].batch)
    recipe = recipe.with_geometry(trained.geometry)
    contents, facts = _exported(trained, recipe, kind, description)
    report = description | {"format": kind} | facts
    if method is not None:
        log.info("quantizing, and scoring both files on the test samples")
        quantized, costs = _quantized(work, recipe, contents[0], method, description)
        contents = (quantized,)
        report["quantized"] = costs
        report["times"]["exported"] = costs["int8"]["batch_1"]
    paths = [out.with_suffix(suffix) for suffix in FORMATS[kind].suffixes]
    report |= _sizes(paths, contents)
    card = model_card(report, record, evaluation, license_name)
    texts = {_beside(out, "json"): as_json(report), _beside(out, "md"): card}
    with atomic_group(*paths, *texts) as files:
        for file, content in zip(files, contents, strict=False):
            file.write_bytes(content)
        for file, text in zip(files[len(contents) :], texts.values(), strict=True):
            file.write_text(text, "utf-8", "backslashreplace")
    return report | {"path": str(out), "card": str(_beside(out, "md"))}


def _beside(out: Path, suffix: str) -> Path:
    """The path of a file that belongs to an exported one: student.onnx.json, student.onnx.md."""
    return out.with_name(f"{out.name}.{suffix}")


def _sizes(paths: Sequence[Path], contents: Sequence[bytes]) -> dict[str, Any]:
    """Sizes and digests of the model's files."""
    files = {
        path.name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in zip(paths, contents, strict=True)
    }
    return {"bytes": sum(map(len, contents)), "files": files}


def _evaluation(work: WorkDir) -> dict[str, Any]:
    """The content of `evaluation/report.json`; empty if there is none."""
    path = work.evaluation / "report.json"
    return read_json(path, "run `fpd evaluate` again") if path.is_file() else {}


def _upload(hub: HubTarget, out: Path, report: dict[str, Any]) -> str:
    """Upload the files of an export; the card becomes the repository's README.md."""
    files = {name: out.with_name(name) for name in report["files"]}
    files |= {f"{out.name}.json": _beside(out, "json"), "README.md": _beside(out, "md")}
    log.info("%s is written; uploading it to %s", out, hub.repository)
    return upload(hub, files)


def check_request(kind: Kind, out: Path) -> None:
    """Refuse paths that cannot be written, and names that a work directory's own files have.

    Raises:
        ValueError: naming what is expected, or a package that is missing.
    """
    FORMATS[kind].check()
    suffix, *others = FORMATS[kind].suffixes
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"-o {out}: expected a file name in an existing folder")
    if out.suffix != suffix:
        raise ValueError(f"-o {out}: expected a name that ends in {suffix}")
    make_writable(out.parent, "the folder", "name a file in another with -o")
    for path in map(out.with_suffix, others):
        if path.exists() and not out.exists():
            raise ValueError(
                f"-o {out}: {path.name} would be written beside it, and is there already, of "
                "something else: name another file"
            )


def _exported(
    trained: TrainedModel, recipe: Recipe, kind: Kind, description: dict[str, Any]
) -> tuple[tuple[bytes, ...], dict[str, Any]]:
    """The files' contents, which were compared with PyTorch, and the facts that were measured."""
    contents = FORMATS[kind].write(trained, description)
    crops_NSS3, source = _some_views(recipe)
    runners = {
        "pytorch": in_pytorch(Deployable(trained)),
        "exported": FORMATS[kind].open(*contents),
    }
    difference = compare(runners["pytorch"], runners["exported"], crops_NSS3)
    difference.check()
    crop_px = trained.geometry.crop_px
    parameters, gmacs = count(trained.model, trained.skeleton.num_joints, crop_px)
    spreads = time_interleaved({n: partial(run, crops_NSS3[:1]) for n, run in runners.items()})
    return contents, {
        "compared": asdict(difference)
        | {
            "people": source,
            "heatmap_tolerance": HEATMAP_TOLERANCE,
            "joint_tolerance_px": JOINT_TOLERANCE_PX,
        },
        "parameters": parameters,
        "gmacs": gmacs,
        "times": {n: asdict(spread) for n, spread in spreads.items()}
        | {"batch": 1, "threads": torch.get_num_threads()},
        "versions": versions(),
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
        "dataset": test.name,
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
