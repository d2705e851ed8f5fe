"""What `fpd inspect-cache` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import align, pluralize

ROWS_SHOWN = 8
"""Partly written views that are printed one by one."""


DIGEST_SHOWN = 12


def describe(found: dict[str, Any]) -> str:
    """What `run` returns, as text."""
    manifest = {k: v for k, v in found["manifest"].items() if k != "encoding_error"}
    rows = [[key, _plain(value)] for key, value in manifest.items()]
    width = max(map(len, (key for key, _ in rows)), default=0)
    return "\n".join(
        [
            found["location"],
            *(f"  {key.ljust(width)}  {value}" for key, value in rows),
            "",
            *_describe_coverage(found["coverage"], found["layout"]),
            "",
            *_describe_bytes(found),
        ]
    )


def _plain(value: Any) -> str:
    """A value of the manifest on one line; digests cut short."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(below)}" for key, below in value.items())
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    text = str(value)
    digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:DIGEST_SHOWN]}…" if digest else text


def _describe_coverage(found: dict[str, Any], layout: dict[str, int]) -> list[str]:
    partial = found["partial_views"]
    shown = [
        f"  view {view}: {row['present']} of {layout['shards']} shards, missing {row['missing']}"
        for view, row in list(partial.items())[:ROWS_SHOWN]
    ]
    if len(partial) > ROWS_SHOWN:
        more = pluralize(len(partial) - ROWS_SHOWN, "more view", "more views")
        shown.append(f"  and {more} there in part")
    return [
        f"{found['present']} of {found['shards']} shards are there: "
        f"{pluralize(layout['views'], 'view')} of {pluralize(layout['samples'], 'sample')}, "
        f"{pluralize(layout['shards'], 'shard')} a view",
        f"  whole views: {found['whole_views'] or 'none'}",
        *shown,
        *([f"  not begun: {found['empty_views']}"] if found["empty_views"] else []),
    ]


def _describe_bytes(found: dict[str, Any]) -> list[str]:
    size, measured = found["bytes"], found["encoding_error"]
    if not size["total"]:
        return ["nothing is written yet"]
    views = size["total"] / size["a_view"]
    rows = [["array", "bytes a view", "MB"]]
    rows += [[k, f"{n / views:.1f}", f"{n / 1e6:.2f}"] for k, n in size["arrays"].items()]
    rows.append(["all", f"{size['a_view']:.1f}", f"{size['total'] / 1e6:.2f}"])
    rows.append(
        ["raw float16", f"{size['float16_a_view']}", f"{size['float16_a_view'] * views / 1e6:.2f}"]
    )
    return [
        *align(rows).splitlines(),
        f"{size['times_smaller']:.1f} x smaller than raw float16",
        "",
        f"error: at most {100 * measured['max_error']:.3g} % of a peak (bound "
        f"{100 * found['manifest'].get('max_error', float('nan')):.3g} %), root mean square "
        f"{100 * measured['mean_squared_error'] ** 0.5:.2g} %",
        f"decoded joints moved by {measured['mean_displacement_px']:.3f} heatmap pixels in the "
        f"mean, {measured['max_displacement_px']:.2f} at most; mean peak "
        f"{measured['mean_peak']:.2f}",
        f"canaries: {pluralize(found['canaries'], 'crop')} to be made again",
    ]
