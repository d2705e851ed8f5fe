"""The text that `fpd cache-heatmaps --plan` and `--budget` print."""

from __future__ import annotations

from ...pipeline.caching.pilot import Pilot
from ...pipeline.caching.plan import Plan, Row
from ...pipeline.runtime.text import align, format_bytes, format_duration, pluralize

HEADER = ["views", "heatmaps only", "portable", "to write", "time", "pays off in", ""]


def explain_choice(plan: Plan, budget_bytes: int, views: int) -> str:
    """Which number of views a budget allows, and why no more: one line."""
    chosen, next_larger = plan.row(views), plan.row(views + 1)
    if chosen.bytes > budget_bytes:
        reason = "the store has these already"
    elif views == plan.epochs:
        reason = f"a student of {pluralize(views, 'epoch')} sees no more"
    else:
        reason = f"{views + 1} would take {format_bytes(next_larger.bytes)}"
    return (
        f"budget of {format_bytes(budget_bytes)}: {pluralize(views, 'view')} in "
        f"{format_bytes(chosen.bytes)}; {reason}"
    )


def describe(plan: Plan, chosen_views: int | None = None) -> str:
    """What the pilot measured, and a table with a row for each of some numbers of views.

    Args:
        chosen_views: the number of views that a budget allows; its row is marked.
    """
    powers_of_two = [1 << i for i in range(plan.epochs.bit_length())]  # 1, 2, 4, ... up to epochs
    view_counts = {*powers_of_two, plan.epochs, plan.recipe_views}
    if chosen_views is not None:
        view_counts.add(chosen_views)
    rows = [_table_row(plan, plan.row(views), chosen_views) for views in sorted(view_counts)]
    return "\n".join(
        [
            *_pilot_lines(plan.pilot),
            _existing_line(plan),
            _loading_line(plan),
            "",
            align([HEADER, *rows]),
            "",
            _size_note(plan),
            _note(plan),
        ]
    )


def _pilot_lines(pilot: Pilot) -> list[str]:
    readers = ""
    if pilot.workers:
        readers = f" in each of {pluralize(pilot.workers, 'loader process', 'loader processes')}"
    error = pilot.encoding_error
    return [
        f"pilot of {pluralize(pilot.views, 'view')}: {pilot.sizes.view:,.0f} bytes a view "
        f"(standard deviation {pilot.spread_bytes:,.0f}); encoding error at most "
        f"{100 * error['max_error']:.2g} % of a peak, decoded joints displaced by "
        f"{error['mean_displacement_px']:.3f} heatmap pixels on average",
        f"{1 / pilot.cache_s:.3g} views/s; milliseconds a view: {1e3 * pilot.read_s:.3g} to read"
        f"{readers}, {1e3 * pilot.teacher_s:.3g} in the teacher, {1e3 * pilot.encode_s:.3g} to "
        f"encode, {1e3 * pilot.compress_s:.3g} to compress",
    ]


def _existing_line(plan: Plan) -> str:
    samples = pluralize(plan.status.layout.samples, "sample")
    existing_views = pluralize(plan.status.coverage.samples(), "view")
    free = "unknown" if plan.free_bytes is None else format_bytes(plan.free_bytes)
    existing = f"{existing_views} exist in {format_bytes(plan.status.bytes)}"
    return f"{samples}; {existing}; free space: {free}"


def _table_row(plan: Plan, row: Row, chosen_views: int | None) -> list[str]:
    marks = {
        "recipe": row.views == plan.recipe_views,
        "chosen": row.views == chosen_views,
        "more than is free": plan.free_bytes is not None and row.added_bytes > plan.free_bytes,
    }
    student, epoch = plan.break_even(row)
    return [
        f"{row.views:,}",
        format_bytes(row.heatmaps_bytes),
        format_bytes(row.portable_bytes),
        format_bytes(row.added_bytes),
        format_duration(row.seconds),
        f"epoch {epoch:,} of student {student:,}",
        ", ".join(mark for mark, applies in marks.items() if applies),
    ]


def _loading_line(plan: Plan) -> str:
    """The time in which a student's loader loads an epoch, from photographs and stored crops."""
    loading = plan.pilot.loading
    readers = pluralize(max(1, plan.pilot.workers), "process", "processes")
    ways = {"photographs": loading.photographs_s, "stored crops": loading.crops_s}
    return f"a student loads an epoch's views in {readers}: " + ", ".join(
        f"{format_duration(plan.epoch_s(seconds))} from {source} "
        f"({plan.samples / plan.epoch_s(seconds):,.0f} views/s)"
        for source, seconds in ways.items()
    )


def _size_note(plan: Plan) -> str:
    """What the columns of sizes are of, and the photographs' own size."""
    kind = "portable" if plan.is_portable else "heatmaps only"
    text = f"the recipe's store: {kind}; a portable one has all that a student needs"
    photographs = plan.photographs
    if photographs is None:
        return text
    splits = ", ".join(photographs.splits)
    return (
        f"{text}, instead of {pluralize(photographs.files, 'photograph')} of "
        f"{format_bytes(photographs.bytes)} ({splits})"
    )


def _note(plan: Plan) -> str:
    students, _ = plan.break_even(plan.row(plan.recipe_views))
    return (
        "pays off: compared with a teacher in every batch, for students of "
        f"{pluralize(plan.epochs, 'epoch')} each; the recipe's "
        f"{pluralize(plan.recipe_views, 'view')}: with student {students:,}"
    )
