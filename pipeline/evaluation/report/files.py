"""The files beside the report: predictions of each model (written), training histories (read)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.io.files import read_bytes
from ....data.samples import SampleSet
from ..inference import PredictedJoints

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
        result = report["models"][name].get("record", {}).get("result", {})
        content = {
            "model": name,
            "weights_sha256": result.get("weights_sha256"),
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


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, one per epoch; unreadable rows and files are skipped."""
    try:
        content = read_bytes(path, MAX_HISTORY_BYTES, "a history")
    except ValueError:
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
