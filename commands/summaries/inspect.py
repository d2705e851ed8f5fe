"""The text that `fpd inspect-cache` prints."""

from __future__ import annotations

from typing import Any

from ...pipeline.runtime.text import align, pluralize, printable

PARTIAL_VIEWS_SHOWN = 8
"""Partly written views that are listed; the rest are counted."""

NOT_SHOWN = ("encoding_error", "recipe", "skeleton")
"""Entries of the manifest that are shown below, or too long to be read here (`--json` has them)."""

DIGEST_CHARACTERS = 12
"""Of a SHA-256 digest, as many as distinguish it for a reader."""


def describe(report: dict[str, Any]) -> str:
    """The manifest, which shards are present, and their sizes and errors.

    Args:
        report: what `stages.inspect.run` returns.
    """
    manifest = {key: v for key, v in report["manifest"].items() if key not in NOT_SHOWN}
    key_width = max(map(len, manifest), default=0)
    return "\n".join(
        [
            report["location"],
            *(
                printable(f"  {key.ljust(key_width)}  {_one_line(value)}")
                for key, value in manifest.items()
            ),
            "",
            *_coverage_lines(report["coverage"], report["layout"]),
            *_split_lines(report["splits"]),
            "",
            *_size_lines(report),
        ]
    )


def describe_drawing(drawing: dict[str, Any], out: object) -> str:
    """Where a figure was written, and how far the stored view is from the teacher's output.

    Args:
        drawing: what `stages.inspect.draw` returns.
        out: the figure's file.
    """
    if drawing["error"] is None:
        return f"written to {out} ({drawing['not_compared']})"
    return (
        f"written to {out}: differs from the live teacher by at most "
        f"{100 * drawing['error']:.3g} % of a peak (bound {100 * drawing['bound']:.3g} %)"
    )


def _one_line(value: Any) -> str:
    """A value of the manifest on one line; digests are shortened."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_one_line(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_one_line, value))
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:DIGEST_CHARACTERS]}…" if is_digest else text


def _coverage_lines(coverage: dict[str, Any], layout: dict[str, int]) -> list[str]:
    partial_views = coverage["partial_views"]
    lines = [
        f"{coverage['present']} of {coverage['shards']} shards are present: "
        f"{pluralize(layout['views'], 'view')} of {pluralize(layout['samples'], 'sample')}, "
        f"{pluralize(layout['shards'], 'shard')} a view",
        f"  complete views: {coverage['complete_views'] or 'none'}",
    ]
    for view, shards in list(partial_views.items())[:PARTIAL_VIEWS_SHOWN]:
        lines.append(
            f"  view {view}: {shards['present']} of {layout['shards']} shards, missing "
            f"{shards['missing']}"
        )
    not_shown = len(partial_views) - PARTIAL_VIEWS_SHOWN
    if not_shown > 0:
        lines.append(f"  and {pluralize(not_shown, 'more partial view')}")
    if coverage["empty_views"]:
        lines.append(f"  empty views: {coverage['empty_views']}")
    return lines


def _split_lines(splits: dict[str, Any]) -> list[str]:
    """What a portable store has besides its views; nothing for another."""
    if not splits:
        return []
    lines = ["portable: students need nothing but this store (their settings are in it, too)"]
    for name, split in splits.items():
        missing = split["samples"] - split["present"]
        lines.append(
            f"  {name}: {pluralize(split['samples'], 'sample')}, labels"
            f"{' and unaugmented crops' if split['crops'] else ', no unaugmented crops'}, "
            f"{split['bytes'] / 1e6:.2f} MB, " + (f"{missing:,} missing" if missing else "complete")
        )
    return lines


def _size_lines(report: dict[str, Any]) -> list[str]:
    sizes, error = report["bytes"], report["encoding_error"]
    if not sizes["total"]:
        return ["no shard is written yet"]
    views = sizes["total"] / sizes["per_view"]
    rows = [["array", "bytes a view", "MB"]]
    rows += [
        [name, f"{count / views:.1f}", f"{count / 1e6:.2f}"]
        for name, count in sizes["arrays"].items()
    ]
    rows.append(["all", f"{sizes['per_view']:.1f}", f"{sizes['total'] / 1e6:.2f}"])
    float16_megabytes = sizes["float16_per_view"] * views / 1e6
    rows.append(["raw float16", f"{sizes['float16_per_view']}", f"{float16_megabytes:.2f}"])
    bound = report["manifest"].get("max_error", float("nan"))
    return [
        *align(rows).splitlines(),
        f"{sizes['compression_ratio']:.1f} x smaller than raw float16",
        "",
        f"encoding error: at most {100 * error['max_error']:.3g} % of a peak (bound "
        f"{100 * bound:.3g} %), root mean square {100 * error['mean_squared_error'] ** 0.5:.2g} %",
        f"displacement of decoded joints: mean {error['mean_displacement_px']:.3f} heatmap pixels, "
        f"at most {error['max_displacement_px']:.2f}; mean peak {error['mean_peak']:.2f}",
        f"canaries: {pluralize(report['canaries'], 'view')} with recorded pixels",
    ]
