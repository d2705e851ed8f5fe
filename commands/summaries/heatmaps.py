"""The text that `fpd cache-heatmaps` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import format_bytes, pluralize


def describe(report: dict[str, Any]) -> str:
    """Size and encoding error of the store, in one line, and what else a portable one has.

    Args:
        report: what `stages.heatmaps.run` returns.
    """
    error = report["encoding_error"]
    ratio = report["float16_bytes"] / report["bytes"]
    content = "heatmaps and crops" if report["portable"] else "heatmaps"
    views, complete = pluralize(report["views"], "view"), report["complete_views"]
    return (
        f"{content}: {views if complete == report['views'] else f'{complete} of {views}'} of "
        f"{pluralize(report['samples'], 'sample')}, {format_bytes(report['bytes'])} "
        f"({report['bytes_per_view']:.0f} bytes a view; raw float16: "
        f"{format_bytes(report['float16_bytes'])}, {ratio:.0f} x); "
        f"encoding error: at most {100 * error['max_error']:.2g} % of a peak, decoded joints "
        f"displaced by {error['mean_displacement_px']:.3f} heatmap pixels on average"
        f"{_portable_line(report['portable'])}"
    )


def _portable_line(portable: dict[str, int]) -> str:
    """What a portable store has besides heatmaps; "" for another.

    Args:
        portable: number of samples by split.
    """
    if not portable:
        return ""
    splits = ", ".join(f"{count:,} {name}" for name, count in portable.items())
    return (
        f"\nportable: with crops, labels and samples ({splits}); `fpd run student -w NEW --store "
        "STORE` needs nothing else; README.md in it is the data card"
    )
