"""Files beside the page: every model's predictions going out, training histories coming in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....data.io.files import read_bytes
from ....data.samples import SampleSet
from ..inference import Predicted

MAX_HISTORY_BYTES = 1 << 26


def write_predictions(
    paths: Mapping[str, Path],
    report: Mapping[str, Any],
    samples: SampleSet,
    predicted: Mapping[str, Predicted],
) -> None:
    """A JSON file a model, at the path that goes by its name: docs/report.md has its keys.

    `fpd evaluate --predictions FILE --zero-based` reads them, too.
    """
    for name, found in predicted.items():
        result = report["models"][name].get("record", {}).get("result", {})
        content = {
            "model": name,
            "weights_sha256": result.get("weights_sha256"),
            "dataset": report["dataset"],
            "evaluation": report["evaluation"],
            "joint_names": list(samples.skeleton.joints),
            "ids": list(samples.ids),
            "joints": _lists(found.joints_NK2),
            "peaks": _lists(found.peaks_NK),
        }
        paths[name].write_text(json.dumps(content, allow_nan=False) + "\n", "utf-8")


def _lists(values: NDArray[np.float64]) -> Any:
    """Nested lists, as JSON can hold them: None for NaN and inf."""
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, an epoch each; those that can be read, none if none can."""
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
