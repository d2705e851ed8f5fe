"""Stage 4: score every model of the work directory on the test people, side by side.

    fpd evaluate -w work/demo

In: the data set, the models' folders. Out: `evaluation/` (report.json, pck_curve.png, report.html,
predictions/ with a file a model); docs/report.md says what is in them.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from ..data.readers import load
from ..data.samples import SampleSet
from ..data.views import Geometry
from ..pipeline.inference import Predicted, predict, predict_by
from ..pipeline.metrics import pck_where_labelled
from ..pipeline.models import parse_model
from ..pipeline.models.cost import count, count_gmacs, latency_ms, median_ms
from ..pipeline.oks import oks_row
from ..pipeline.recipe import Recipe
from ..pipeline.report.charts import draw_curves
from ..pipeline.report.files import read_history, write_predictions
from ..pipeline.report.gallery import STORE_TEACHER, TEACHER
from ..pipeline.report.page import render
from ..pipeline.report.scores import shares
from ..pipeline.store import read_manifest, shard_bytes, store_files, stored_layout
from ..pipeline.teachers import named_are_there, open_named
from ..pipeline.training.train import load_model
from ..pipeline.workdir import ModelDir, WorkDir, as_json, make_writable, together, versions

log = logging.getLogger("fpd")


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, tau: float | None = None
) -> dict[str, Any]:
    """Evaluate all finished models.

    Args:
        tau: the threshold of the means, as in `metrics.pck`.

    Returns:
        The content of `report.json`: "dataset", "models" by name, "testing", "store", "device",
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
        "testing": recipe.testing.model_dump(mode="json"),
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
    record = folder.record()
    settings = record["identity"]["settings"]
    geometry = Geometry.model_validate(settings["geometry"])
    network = load_model(folder, samples.skeleton.num_joints, device)
    model = parse_model(settings["training"]["model"])
    recipe = recipe.model_copy(update={"geometry": geometry})
    predicted = predict(network, recipe, samples, device, testing=recipe.testing)
    parameters, gmacs = count(model, samples.skeleton.num_joints, geometry.crop_px)
    row = {
        **_scores(recipe, samples, predicted, tau),
        "parameters": parameters,
        "gmacs": gmacs,
        "ms_per_image": latency_ms(network, geometry.crop_px, device),
        "record": record,
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
    if not named_are_there(recipe):
        log.warning("no row of the teacher(s) %s: expected them there, found none", names)
        return None
    try:
        teachers = open_named(recipe, samples.skeleton, averaged=recipe.testing.flip)
        taught = teachers.taught
    except ValueError as error:  # a package that is missing here, or none of the joints known
        log.warning("no row of the teacher(s) %s: %s", names, error)
        return None
    scales = recipe.testing.scales
    predicted = predict_by(teachers.ask(device), recipe, samples, device, scales=scales)
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
    score = pck_where_labelled(
        predicted.joints_NK2, labels_NK2, samples.normaliser_N, samples.skeleton, tau
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
        log.warning("report.html is left out: %s; `pip install -c constraints.txt -e .`", error)
    answers = {name: out / "predictions" / f"{name}.json" for name in predicted}
    paths = [*texts, *answers.values(), out / "pck_curve.png"]
    with together(*paths) as temporary:
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
    passes = 2 if manifest.get("mirror_averaged") else 1  # a view
    passes *= len(manifest["teacher"].get("sources", ())) or 1
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
