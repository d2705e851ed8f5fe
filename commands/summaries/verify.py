"""The text that `fpd verify-cache` prints."""

from __future__ import annotations

import math
import statistics

from ...pipeline.runtime.text import pluralize, printable
from ...pipeline.store.verify import Damage, Verification

MAX_LISTED = 20
"""Damaged objects, and views beyond the error bound, that are listed; the rest are counted."""

LARGEST_ERRORS_LISTED = 3
"""Views that are listed if all are within the error bound."""


def describe(verification: Verification) -> str:
    """What was checked, every damage, and the comparison with the teacher's output."""
    layout = verification.layout
    checked = "contents" if verification.deep else "sizes (contents: --deep)"
    repaired = ", repaired" if verification.repaired else ""
    return "\n".join(
        [
            f"{verification.location}: {pluralize(layout.views, 'view')} of "
            f"{pluralize(layout.samples, 'sample')} in {pluralize(len(layout.tasks()), 'shard')}",
            "manifest and canaries: match this run",
            f"{checked}: {verification.damage_summary}{repaired}",
            *_shorten([f"  {name}: is damaged" for name in verification.damaged_metadata]),
            *_shorten([printable(f"  {_one_line(verification, d)}") for d in verification.damages]),
            *_teacher_lines(verification),
            *([_ok_line(verification)] if verification.problem is None else []),
        ]
    )


def _ok_line(verification: Verification) -> str:
    """The last line about a store without a problem."""
    compared = (
        "every compared view is within the bound"
        if verification.compared_views
        else "no view was compared with a teacher"
    )
    return f"OK: complete and intact, and {compared}"


def _one_line(verification: Verification, damage: Damage) -> str:
    if damage.split:
        return f"{damage.split}/{damage.array}, shard {damage.shard}: {damage.what}"
    rows = verification.layout.rows(damage.shard)
    first, last = verification.ids[rows[0]], verification.ids[rows[-1]]
    return (
        f"{damage.array}, view {damage.view}, shard {damage.shard} ({first} to {last}): "
        f"{damage.what}"
    )


def _teacher_lines(verification: Verification) -> list[str]:
    compared, bound = verification.compared_views, verification.bound
    if compared is None:
        return [f"live teacher: {verification.not_compared}, so no view was compared with it"]
    if not compared:
        return ["live teacher: no view was compared with it"]
    largest_error = compared[0].error
    displacements_px = [
        view.displacement_px for view in compared if not math.isnan(view.displacement_px)
    ]
    mean_displacement_px = statistics.fmean(displacements_px) if displacements_px else 0.0
    listed = verification.wrong_views[:MAX_LISTED] or compared[:LARGEST_ERRORS_LISTED]
    return [
        "live teacher:",
        "  samples  views  largest error   bound  error / bound  mean displacement, px",
        f"  {len(compared):7}  {len({view.view for view in compared}):5}  {largest_error:13.4f}  "
        f"{bound:6.4f}  {largest_error / bound:13.2f}  {mean_displacement_px:21.3f}",
        *(
            printable(f"  view {view.view} of {view.sample}: {view.error / bound:.2f} of the bound")
            for view in listed
        ),
    ]


def _shorten(lines: list[str]) -> list[str]:
    not_listed = len(lines) - MAX_LISTED
    return lines if not_listed <= 0 else [*lines[:MAX_LISTED], f"  and {not_listed} more"]
