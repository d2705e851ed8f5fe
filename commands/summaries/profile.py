"""The text that `fpd profile` prints."""

from __future__ import annotations

import statistics
from typing import Any

from ...pipeline.runtime.text import align, format_bytes, pluralize


def describe(report: dict[str, Any]) -> str:
    """A table of the models; times are the median and, in parentheses, the quartiles.

    Args:
        report: what `stages.profile.run` returns.
    """
    batch = report["batch"]
    header = ["model", "params", "GMACs", "weights", "peak at 1", "ms at 1", ""]
    header += [f"peak at {batch}", f"ms a crop at {batch}", ""]
    rows = [_row(name, model, batch) for name, model in report["models"].items()]
    runs = statistics.median(model["batches"]["1"]["runs"] for model in report["models"].values())
    is_cuda = report["device"].startswith("cuda")
    return "\n".join(
        [
            f"on {report['device']}, {pluralize(report['threads'], 'thread')}: from crops to "
            f"joints, median (and quartiles) of {runs:g} runs, models interleaved",
            align([header, *rows]),
            "peak: weights and the largest memory of a pass"
            + ("" if is_cuda else ", without the workspace of convolutions"),
        ]
    )


def _row(name: str, model: dict[str, Any], batch: int) -> list[str]:
    single, batched = model["batches"]["1"], model["batches"][str(batch)]
    return [
        name,
        f"{model['parameters'] / 1e6:.2f} M",
        f"{model['gmacs']:.3f}",
        format_bytes(model["weights_bytes"]),
        format_bytes(single["peak_bytes"]),
        *_time_per_crop(single, 1),
        format_bytes(batched["peak_bytes"]),
        *_time_per_crop(batched, batch),
    ]


def _time_per_crop(times: dict[str, Any], batch: int) -> list[str]:
    median, lower, upper = (times[key] / batch for key in ("median_ms", "lower_ms", "upper_ms"))
    return [f"{median:.2f}", f"({lower:.2f}-{upper:.2f})"]
