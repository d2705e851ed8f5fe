"""What `fpd profile` prints."""

from __future__ import annotations

import statistics
from typing import Any

from ...pipeline.runtime.text import align, format_bytes, pluralize


def describe(report: dict[str, Any]) -> str:
    """The models side by side; times as the median and, in brackets, the quartiles."""
    batch = report["batch"]
    rows = [
        [
            *("model", "params", "GMACs", "weights", "peak at 1", "ms at 1", ""),
            *(f"peak at {batch}", f"ms a crop at {batch}", ""),
        ]
    ]
    for name, row in report["models"].items():
        one, many = row["batches"]["1"], row["batches"][str(batch)]
        rows.append(
            [
                name,
                f"{row['parameters'] / 1e6:.2f} M",
                f"{row['gmacs']:.3f}",
                format_bytes(row["weights_bytes"]),
                format_bytes(one["peak_bytes"]),
                *_time(one, 1),
                format_bytes(many["peak_bytes"]),
                *_time(many, batch),
            ]
        )
    runs = statistics.median(r["batches"]["1"]["runs"] for r in report["models"].values())
    return "\n".join(
        [
            f"on {report['device']}, {pluralize(report['threads'], 'thread')}: crops to joints, "
            f"median (and quartiles) of {runs:g} runs, the models in turn",
            align(rows),
            "peak: weights and what a pass holds at once"
            + ("" if report["device"].startswith("cuda") else ", without convolutions' workspace"),
        ]
    )


def _time(spread: dict[str, Any], batch: int) -> list[str]:
    median, lower, upper = (spread[key] / batch for key in ("median_ms", "lower_ms", "upper_ms"))
    return [f"{median:.2f}", f"({lower:.2f}-{upper:.2f})"]
