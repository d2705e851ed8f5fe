"""What `fpd export` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import pluralize


def describe(report: dict[str, Any]) -> str:
    """What was written and how near it is; of a quantized model, what it gained and cost."""
    compared = report["compared"]
    lines = [
        f"against PyTorch on {pluralize(compared['crops'], 'view')} of {compared['people']}: "
        f"heatmaps differ by at most {compared['heatmap']:.2g}, joints by "
        f"{compared['joint_px']:.2g} crop pixels"
    ]
    if "quantized" in report:
        lines += _describe_costs(report["quantized"])
    lines.append(f"written to {report['path']} ({report['bytes'] / 1e6:.2f} MB)")
    return "\n".join(lines)


def _describe_costs(costs: dict[str, Any]) -> list[str]:
    difference = costs["difference"]
    large = f"batch_{costs['timed_batch']}"
    lines = [
        f"int8 ({costs['method']}): heatmaps differ by at most {difference['heatmap']:.2g}, joints "
        f"by {difference['joint_px_mean']:.2g} crop pixels in the mean",
        f"{costs['metric']} on {pluralize(costs['people'], 'person', 'people')}, milliseconds with "
        f"{pluralize(costs['threads'], 'thread')} at batch 1 and a crop of {costs['timed_batch']}:",
    ]
    for kind in ("float32", "int8"):
        row = costs[kind]
        lines.append(
            f"  {kind:8}{100 * row['pck']:6.1f} %  {row['bytes'] / 1e6:6.2f} MB  "
            f"{row['batch_1']['median_ms']:7.2f} ms  "
            f"{row[large]['median_ms'] / costs['timed_batch']:7.2f} ms"
        )
    return lines
