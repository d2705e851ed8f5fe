"""Stage 4: score every model of the work directory on the test people, side by side.

    fpd evaluate -w work/demo

In: the data set, the models' folders. Out: `evaluation/` (report.json, pck_curve.png, report.html,
predictions/ with a file a model); docs/report.md says what is in them.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..data.datasets import load
from ..data.samples import SampleSet
from ..pipeline.config.recipe import Recipe
from ..pipeline.evaluation.inference import Predicted, check_skeleton, predict, predict_by
from ..pipeline.evaluation.oks import oks_row
from ..pipeline.evaluation.pck import pck_where_labeled
from ..pipeline.evaluation.report.charts import draw_curves
from ..pipeline.evaluation.report.files import read_history, write_predictions
from ..pipeline.evaluation.report.gallery import STORE_TEACHER, TEACHER
from ..pipeline.evaluation.report.page import render
from ..pipeline.evaluation.report.scores import shares
from ..pipeline.models.checkpoint import ModelDir, load_model
from ..pipeline.models.complexity import count, count_gmacs, latency_ms, median_ms
from ..pipeline.runtime.files import as_json, atomic_group, make_writable, versions
from ..pipeline.store import read_manifest, shard_bytes, store_files, stored_layout
from ..pipeline.teachers import external_teachers_exist, load_external_teachers
from ..pipeline.workdir import WorkDir

log = logging.getLogger("fpd")


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, tau: float | None = None
) -> dict[str, Any]:
    """Evaluate all finished models.

    Args:
        tau: the threshold of the means, as in `metrics.pck`.

    Returns:
        The content of `report.json`: "dataset", "models" by name, "evaluation", "store", "device",
        "versions".

    Raises:
        ValueError: there is no finished model, or the test people cannot be used, or the results
            cannot be written.
    """
    models = work.models()
    if not models:
        raise ValueError(f"{work.root} has no finished model: run `fpd run all -w {work.root}`")
    for out in (work.evaluation, work.evaluation / "predictions"):
        make_writable(out, "the folder of results", "make it so, or move it away")
    samples = load(recipe.data, "test")
    rows, predicted = {}, {}
    for name, folder in models.items():
        rows[name], predicted[name] = _evaluate(folder, recipe, samples, device, tau)
    if recipe.store.teachers:
        elsewhere = _evaluate_teachers(recipe, samples, device, tau)
        if elsewhere is not None:
            name = TEACHER if TEACHER not in models else STORE_TEACHER
            rows[name], predicted[name] = elsewhere
    report = {
        "dataset": samples.fingerprint(),
        "models": rows,
        "evaluation": recipe.evaluation.model_dump(mode="json"),
        "store": _bill(work, recipe, models),
        "device": str(device),
        "versions": versions(),
    }
    _write(work, report, samples, predicted, models)
    return report


def _evaluate(
    folder: ModelDir,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    tau: float | None,
) -> tuple[dict[str, Any], Predicted]:
    """One model's row of the report, and its joints of all test people."""
    model = load_model(folder, device)
    check_skeleton(model, samples)
    crop_px = model.geometry.crop_px
    recipe = recipe.with_geometry(model.geometry)
    predicted = predict(model.network, recipe, samples, device, tta=recipe.evaluation)
    parameters, gmacs = count(model.model, model.skeleton.num_joints, crop_px)
    row = {
        **_scores(recipe, samples, predicted, tau),
        "parameters": parameters,
        "gmacs": gmacs,
        "ms_per_image": latency_ms(model.network, crop_px, device),
        "record": folder.record(),
    }
    return row, predicted


def _evaluate_teachers(
    recipe: Recipe, samples: SampleSet, device: torch.device, tau: float | None
) -> tuple[dict[str, Any], Predicted] | None:
    """The row of the teachers that the recipe names, as one, if they are there.

    Asked as the store asks them, but mirrored only where every model is. Joints that none of them
    knows have no answer, and do not count.
    """
    names = ", ".join(recipe.store.teachers)
    if not external_teachers_exist(recipe):
        log.warning("no row of the teacher(s) %s: expected them there, found none", names)
        return None
    try:
        teachers = load_external_teachers(
            recipe, samples.skeleton, averaged=recipe.evaluation.flip_test
        )
        taught = teachers.covered_joints
    except ValueError as error:  # a package that is missing here, or none of the joints known
        log.warning("no row of the teacher(s) %s: %s", names, error)
        return None
    scales = recipe.evaluation.scales
    predicted = predict_by(teachers.predictor(device), recipe, samples, device, scales=scales)
    joints = samples.skeleton.joints
    predicted = predicted.without(tuple(k for k, name in enumerate(joints) if name not in taught))
    one_pass = teachers.one_pass(device)
    row = {
        **_scores(recipe, samples, predicted, tau),
        "parameters": teachers.parameters,
        "gmacs": count_gmacs(one_pass) or None,  # PyTorch's; a function may compute elsewhere
        "ms_per_image": median_ms(one_pass, device),
        "teacher": teachers.entry,
        "unknown": [joints[k] for k in predicted.silent],
    }
    return row, predicted


def _scores(
    recipe: Recipe, samples: SampleSet, predicted: Predicted, tau: float | None
) -> dict[str, Any]:
    """A row's scores, and of how many people they are."""
    labels_NK2 = predicted.labels(samples.joints_NK2)
    score = pck_where_labeled(
        predicted.joints_NK2, labels_NK2, samples.normalizer_N, samples.skeleton, tau
    )
    return {
        **shares(score, samples.skeleton),
        **oks_row(recipe.data, samples, predicted),
        "people": len(samples),
    }


def _write(
    work: WorkDir,
    report: dict[str, Any],
    samples: SampleSet,
    predicted: dict[str, Predicted],
    models: dict[str, ModelDir],
) -> None:
    """All files or none; the page alone may be left out."""
    out = work.evaluation
    histories = {name: read_history(model.metrics) for name, model in models.items()}
    texts = {out / "report.json": as_json(report)}
    try:
        texts[out / "report.html"] = render(report, samples, predicted, histories)
    except ModuleNotFoundError as error:  # an environment set up before there was a page
        log.warning("report.html is left out: %s; `pip install fast-pose-distillation` installs what it needs", error)
    answers = {name: out / "predictions" / f"{name}.json" for name in predicted}
    paths = [*texts, *answers.values(), out / "pck_curve.png"]
    with atomic_group(*paths) as temporary:
        place = dict(zip(paths, temporary, strict=True))
        for path, text in texts.items():
            place[path].write_text(text, "utf-8")
        write_predictions({n: place[p] for n, p in answers.items()}, report, samples, predicted)
        draw_curves(report, place[out / "pck_curve.png"])


def _bill(work: WorkDir, recipe: Recipe, models: dict[str, ModelDir]) -> dict[str, Any] | None:
    """What the store takes and what it saved: bytes, and passes of the teacher."""
    files = store_files(work, recipe)
    if not files.exists():
        return None
    layout = stored_layout(files)
    students = (folder.record()["identity"]["settings"]["training"] for folder in models.values())
    epochs = [student["epochs"] for student in students if student.get("alpha", 0) > 0]
    manifest = read_manifest(files)
    passes = 2 if manifest.get("flip_averaged") else 1  # a view
    passes *= len(manifest["teacher"].get("teachers", ())) or 1
    return {
        "views": layout.views,
        "samples": layout.samples,
        "bytes": shard_bytes(files, layout),
        "float16_bytes": layout.float16_bytes,
        "teacher_passes": passes * layout.views * layout.samples,
        "teacher_passes_online": passes * layout.samples * sum(epochs),
        "distilled_students": len(epochs),
        "manifest": manifest,
    }
