"""Stage 4: score all models of the work directory on the test set, side by side.

    fpd evaluate -w work/demo
    fpd evaluate -w work/demo --model student.onnx

In: the data set, the models' folders, exported files. Out: `evaluation/` with report.json,
report.html, pck_curve.png, and predictions/ with one file per model; docs/report.md describes them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.readers import coco
from ..data.samples import SampleSet
from ..pipeline.config.recipe import Recipe
from ..pipeline.evaluation.agreement import agreement
from ..pipeline.evaluation.inference import (
    NO_TTA,
    PredictedJoints,
    in_model_order,
    predict,
    predict_exported,
    predict_with,
)
from ..pipeline.evaluation.oks import oks_fields
from ..pipeline.evaluation.pck import pck_or_nan
from ..pipeline.evaluation.report.charts import draw_curves
from ..pipeline.evaluation.report.files import read_history, write_predictions
from ..pipeline.evaluation.report.page import render
from ..pipeline.evaluation.report.scores import STORE_TEACHER, TEACHER, pck_fields
from ..pipeline.evaluation.report.tables import at, is_number
from ..pipeline.models.checkpoint import load_model
from ..pipeline.models.complexity import count, count_gmacs, latency_ms
from ..pipeline.models.model_dir import ModelDir
from ..pipeline.prediction.exported import ExportedModel, read_exported
from ..pipeline.runtime.files import as_json, atomic_group, make_writable, versions
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.runtime.timing import median_ms
from ..pipeline.store import open_storage, read_manifest, shard_bytes, stored_layout
from ..pipeline.store.dataset import load_samples
from ..pipeline.store.manifest import has_shards
from ..pipeline.teachers import external_teachers_exist, load_external_teachers
from ..pipeline.teachers.passes import count_passes
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    tau: float | None = None,
    *,
    exported: Sequence[Path] = (),
    allow_code: bool = False,
) -> dict[str, Any]:
    """Evaluate all finished models, and exported files beside them.

    Args:
        exported: files that `fpd export` wrote; their rows have the files' names.
        tau: the threshold of the means, as in `evaluation.pck.pck`.
        allow_code: run teachers that the recipe names as Python code (`package.module:factory`).

    Returns:
        The content of `report.json`: "dataset", "models" (by name), "evaluation" (test-time
        augmentation), "store" (None if there is none), "device" and "versions".

    Raises:
        ValueError: there is no finished model, the test set or a file cannot be used, or the
            results cannot be written, for example because another process is writing them.
    """
    models = work.models()
    files = {path.name: read_exported(path) for path in exported}
    if len(files) < len(exported) or files.keys() & models.keys():
        raise ValueError(
            f"expected exported files with different names, which are those of their rows, found "
            f"{', '.join(map(str, exported))}: rename one"
        )
    if not models and not files:
        raise ValueError(f"{work.root} has no finished model: run `fpd run all -w {work.root}`")
    with writer_lock(work.evaluation):
        return _evaluate(work, models, files, recipe, device, tau, allow_code=allow_code)


def _evaluate(
    work: WorkDir,
    models: dict[str, ModelDir],
    files: dict[str, ExportedModel],
    recipe: Recipe,
    device: torch.device,
    tau: float | None,
    *,
    allow_code: bool,
) -> dict[str, Any]:
    for folder in (work.evaluation, work.evaluation / "predictions"):
        make_writable(folder, "the folder of results", "make it so, or move it away")
    store_summary = _store_summary(work, recipe, models)  # first: the store may be damaged
    samples = load_samples(work, recipe, "test")
    rows, predicted = {}, {}
    for name, model_dir in models.items():
        rows[name], predicted[name] = _evaluate_model(model_dir, recipe, samples, device, tau)
    if recipe.store.teachers:
        evaluated = _evaluate_teachers(recipe, samples, device, tau, allow_code=allow_code)
        if evaluated is not None:
            name = TEACHER if TEACHER not in models else STORE_TEACHER
            rows[name], predicted[name] = evaluated
    for name, exported in files.items():
        rows[name], predicted[name] = _evaluate_exported(exported, recipe, samples, tau, rows)
    _add_agreement(rows, samples, predicted)
    report = {
        "dataset": samples.fingerprint(),
        "models": rows,
        "evaluation": recipe.evaluation.model_dump(mode="json"),
        "store": store_summary,
        "device": str(device),
        "versions": versions(),
    }
    _write(work, report, samples, predicted, models)
    return report


def _add_agreement(
    rows: dict[str, Any], samples: SampleSet, predicted: dict[str, PredictedJoints]
) -> None:
    """Where no label counts, compare all models with the teacher."""
    if TEACHER not in rows or any(row.get("joints", 1) for row in rows.values()):
        return
    for name in rows.keys() - {TEACHER}:
        rows[name]["agreement"] = agreement(samples, predicted[name], predicted[TEACHER])


def _evaluate_model(
    model_dir: ModelDir,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    tau: float | None,
) -> tuple[dict[str, Any], PredictedJoints]:
    """A model's row of the report, and its predictions for all test samples."""
    model = load_model(model_dir, device)
    ordered, order = in_model_order(model, samples)
    coco.check_sigmas(recipe.data.coco, order)
    crop_px = model.geometry.crop_px
    recipe = recipe.with_geometry(model.geometry)
    predicted = predict(model.network, recipe, ordered, device, tta=recipe.evaluation)
    predicted = predicted.reordered(order)
    parameters, gmacs = count(model.model, model.skeleton.num_joints, crop_px)
    row = {
        **_scores(recipe, samples, predicted, tau),
        "parameters": parameters,
        "gmacs": gmacs,
        "ms_per_image": latency_ms(model.network, crop_px, device),
        "record": model_dir.record(),
    }
    return row, predicted


def _evaluate_exported(
    exported: ExportedModel,
    recipe: Recipe,
    samples: SampleSet,
    tau: float | None,
    rows: dict[str, Any],
) -> tuple[dict[str, Any], PredictedJoints]:
    """An exported file's row of the report, and its predictions for all test samples.

    It runs one pass per sample, and decodes it itself. Its cost is that of the model that it was
    exported from, if that is among the rows.
    """
    ordered, order = in_model_order(exported, samples)
    coco.check_sigmas(recipe.data.coco, order)
    if recipe.evaluation != NO_TTA:
        log.warning("%s is scored with one pass: no flip test, no scales", exported.path.name)
    recipe = recipe.with_geometry(exported.geometry)
    predicted = predict_exported(exported.run, recipe, ordered).reordered(order)
    weights_sha256 = exported.description.weights_sha256
    same = [row for row in rows.values() if _weights_sha256(row) == weights_sha256]
    cost = same[0] if same else dict.fromkeys(("parameters", "gmacs"))
    crop_px = exported.geometry.crop_px
    one_crop = partial(exported.run, np.zeros((1, crop_px, crop_px, 3), np.uint8))
    row = {
        **_scores(recipe, samples, predicted, tau),
        "parameters": cost["parameters"],
        "gmacs": cost["gmacs"],
        "ms_per_image": median_ms(one_crop, torch.device("cpu")),
        "exported": {
            "file": exported.path.name,
            "file_sha256": exported.sha256,
            **asdict(exported.description),
        },
    }
    return row, predicted


def _weights_sha256(row: dict[str, Any]) -> str | None:
    """Of the weights of a trained model's row; None: the row is another's."""
    digest = at(row, "record.result.weights_sha256")
    return digest if isinstance(digest, str) else None


def _evaluate_teachers(
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    tau: float | None,
    *,
    allow_code: bool,
) -> tuple[dict[str, Any], PredictedJoints] | None:
    """The row and the predictions of the recipe's external teachers, as one ensemble.

    They run as they do to fill the store, except that flip averaging follows the evaluation's
    setting, as it does for all models. Joints that no teacher covers do not count. None, with a
    warning, if a teacher cannot be loaded here, or is Python code that is not allowed.
    """
    names = ", ".join(recipe.store.teachers)
    if not external_teachers_exist(recipe):
        log.warning("no row for the teacher(s) %s: expected their files, found none", names)
        return None
    try:
        teachers = load_external_teachers(
            recipe,
            samples.skeleton,
            averaged=recipe.evaluation.flip_test,
            allow_code=allow_code,
        )
        covered_joints = teachers.covered_joints
    except ValueError as error:  # a package is not installed, or no joint is covered
        log.warning("no row for the teacher(s) %s: %s", names, error)
        return None
    predicted = predict_with(
        teachers.predictor(device), recipe, samples, device, scales=recipe.evaluation.scales
    )
    joints = samples.skeleton.joints
    predicted = predicted.without_joints(
        tuple(k for k, joint in enumerate(joints) if joint not in covered_joints)
    )
    one_pass = teachers.one_pass(device)
    row = {
        **_scores(recipe, samples, predicted, tau),
        "parameters": teachers.parameters,
        "gmacs": count_gmacs(one_pass) or None,  # 0: computed outside PyTorch, so not counted
        "ms_per_image": median_ms(one_pass, device),
        "teacher": teachers.entry,
        "uncovered_joints": [joints[k] for k in predicted.uncovered],
    }
    return row, predicted


def _scores(
    recipe: Recipe, samples: SampleSet, predicted: PredictedJoints, tau: float | None
) -> dict[str, Any]:
    """The scores in a row of the report, and the number of samples."""
    labels_NK2 = predicted.comparable_labels(samples.joints_NK2)
    score = pck_or_nan(
        predicted.joints_NK2, labels_NK2, samples.normalizer_N, samples.skeleton, tau
    )
    return {
        **pck_fields(score, samples.skeleton),
        **oks_fields(recipe.data, samples, predicted),
        "samples": len(samples),
    }


def _write(
    work: WorkDir,
    report: dict[str, Any],
    samples: SampleSet,
    predicted: dict[str, PredictedJoints],
    models: dict[str, ModelDir],
) -> None:
    """Write the files of `evaluation/`; none is replaced before all are written."""
    out = work.evaluation
    histories = {name: read_history(model_dir) for name, model_dir in models.items()}
    texts = {
        out / "report.json": as_json(report),
        out / "report.html": render(report, samples, predicted, histories),
    }
    curve_path = out / "pck_curve.png"
    prediction_paths = {name: out / "predictions" / f"{name}.json" for name in predicted}
    paths = [*texts, *prediction_paths.values(), curve_path]
    with atomic_group(*paths) as temporary_paths:
        temporary = dict(zip(paths, temporary_paths, strict=True))
        for path, text in texts.items():
            # Names may have halves of characters, which JSON can state and no file can hold.
            temporary[path].write_text(text, "utf-8", "backslashreplace")
        write_predictions(
            {name: temporary[path] for name, path in prediction_paths.items()},
            report,
            samples,
            predicted,
        )
        draw_curves(report, temporary[curve_path])


def _distilled_epochs(record: dict[str, Any]) -> int:
    """Epochs of a student with a teacher; 0: of another model, or its record does not state them.

    Records may come from other machines, and a model is loaded without this part of them.
    """
    alpha, epochs = (at(record, f"identity.settings.training.{key}") for key in ("alpha", "epochs"))
    return epochs if is_number(alpha) and alpha > 0 and type(epochs) is int else 0


def _store_summary(
    work: WorkDir, recipe: Recipe, models: dict[str, ModelDir]
) -> dict[str, Any] | None:
    """The store's size, its teacher passes, and those that online distillation would have taken."""
    storage = open_storage(work.store_location(recipe))
    if not storage.exists() and not has_shards(storage):
        return None
    layout = stored_layout(storage, work.command_options(recipe))
    student_epochs = [
        epochs for model in models.values() if (epochs := _distilled_epochs(model.record()))
    ]
    manifest = read_manifest(storage)
    passes_per_view = 2 if manifest.get("flip_averaged") else 1
    passes_per_view *= count_passes(manifest["teacher"])
    return {
        "views": layout.views,
        "samples": layout.samples,
        "bytes": shard_bytes(storage, layout),
        "float16_bytes": layout.float16_bytes,
        "teacher_passes": passes_per_view * layout.views * layout.samples,
        "teacher_passes_online": passes_per_view * layout.samples * sum(student_epochs),
        "distilled_students": len(student_epochs),
        "manifest": manifest,
    }
