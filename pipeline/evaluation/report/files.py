"""The files beside the report: predictions of each model (written), training histories (read)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.io.files import read_bytes
from ....data.samples import SampleSet
from ...models.model_dir import ModelDir
from ..inference import PredictedJoints

log = logging.getLogger("fpd")

MAX_HISTORY_BYTES = 1 << 26


def write_predictions(
    paths: Mapping[str, Path],
    report: Mapping[str, Any],
    samples: SampleSet,
    predicted: Mapping[str, PredictedJoints],
) -> None:
    """Write a JSON file of predictions for each model; docs/report.md describes its keys.

    `fpd evaluate --predictions FILE --zero-based` reads these files.

    Args:
        paths: by model, the file to write.
        report: the content of `report.json`.
        predicted: by model.
    """
    for name, model_predictions in predicted.items():
        row = report["models"][name]
        source = row.get("exported") or row.get("record", {}).get("result", {})
        content = {
            "model": name,
            "weights_sha256": source.get("weights_sha256"),
            "dataset": report["dataset"],
            "evaluation": report["evaluation"],
            "joint_names": list(samples.skeleton.joints),
            "ids": list(samples.ids),
            "joints": _finite_lists(model_predictions.joints_NK2),
            "peaks": _finite_lists(model_predictions.peaks_NK),
        }
        paths[name].write_text(json.dumps(content, allow_nan=False) + "\n", "utf-8")


def _finite_lists(values: NDArray[np.float64]) -> Any:
    """Nested lists for JSON: None for NaN and infinity."""
    objects = values.astype(object)
    objects[~np.isfinite(values)] = None
    return objects.tolist()


def read_history(model: ModelDir) -> list[dict[str, Any]]:
    """The rows of a finished model's `metrics.jsonl`, one per epoch.

    Empty, with a warning, if the file is not the one that the model's record describes.
    """
    try:
        content = read_bytes(model.metrics, MAX_HISTORY_BYTES, "a history")
    except ValueError as error:
        log.warning("no training curves of %s: %s", model.name, error)
        return []
    if hashlib.sha256(content).hexdigest() != model.facts().result.metrics_sha256:
        log.warning(
            "no training curves of %s: %s is not the file that %s describes, it was damaged or "
            "changed; restore it",
            model.name,
            model.metrics,
            model.record_path.name,
        )
        return []
    rows = []
    for line in content.decode("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
