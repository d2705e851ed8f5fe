"""The text that `fpd export` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import pluralize


def describe(report: dict[str, Any]) -> str:
    """The file and its differences from PyTorch; of a quantized model also accuracy, size and time.

    Args:
        report: what `stages.export.run` returns.
    """
    compared = report["compared"]
    lines = [
        f"against PyTorch on {pluralize(compared['crops'], 'view')} of {compared['people']}: "
        f"heatmaps differ by at most {compared['heatmap']:.2g}, "
        f"{_describe_joints(compared, 'joint_px', 'at most ')}"
    ]
    if "quantized" in report:
        lines += _describe_costs(report["quantized"])
    else:
        lines.append(_describe_times(report["times"]))
    lines.append(
        f"written to {report['path']} ({report['bytes'] / 1e6:.2f} MB), with its model card "
        f"{report['card']}"
    )
    if "url" in report:
        lines.append(f"uploaded to {report['url']}")
    return "\n".join(lines)


def _describe_times(times: dict[str, Any]) -> str:
    exported, pytorch = (times[key]["median_ms"] for key in ("exported", "pytorch"))
    return (
        f"milliseconds a crop at batch {times['batch']}, with "
        f"{pluralize(times['threads'], 'thread')}: {exported:.2f}, in PyTorch {pytorch:.2f}"
    )


def _describe_joints(difference: dict[str, Any], key: str, statistic: str) -> str:
    """One of the joints' differences, and how many joints it is computed from."""
    count = f"{difference['joints_compared']} of {difference['joints']} have an unambiguous peak"
    if difference[key] is None:
        return f"joints not compared ({count})"
    return f"joints by {statistic}{difference[key]:.2g} crop pixels ({count})"


def _describe_costs(costs: dict[str, Any]) -> list[str]:
    difference = costs["difference"]
    large = f"batch_{costs['timed_batch']}"
    lines = [
        f"int8 ({costs['method']}): heatmaps differ by at most {difference['heatmap']:.2g}, "
        f"{_describe_joints(difference, 'joint_px_mean', 'an average of ')}",
        f"{costs['metric']} on {pluralize(costs['people'], 'sample')}, milliseconds with "
        f"{pluralize(costs['threads'], 'thread')} at batch 1, and a crop at batch "
        f"{costs['timed_batch']}:",
    ]
    for kind in ("float32", "int8"):
        row = costs[kind]
        lines.append(
            f"  {kind:8}{100 * row['pck']:6.1f} %  {row['bytes'] / 1e6:6.2f} MB  "
            f"{row['batch_1']['median_ms']:7.2f} ms  "
            f"{row[large]['median_ms'] / costs['timed_batch']:7.2f} ms"
        )
    return lines
