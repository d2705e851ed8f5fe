"""What `fpd cache-heatmaps --plan` and `--budget` print."""

from __future__ import annotations

from ...pipeline.caching.pilot import Pilot
from ...pipeline.caching.plan import Plan, Row
from ...pipeline.runtime.text import align, format_bytes, format_duration, pluralize


def explain_choice(plan: Plan, budget: int, views: int) -> str:
    """In one sentence, what a budget holds."""
    row, more = plan.row(views), plan.row(views + 1)
    if row.bytes > budget:
        why = "no more than are there already"
    elif views == plan.epochs:
        why = f"a student of {pluralize(views, 'epoch')} sees no more"
    else:
        why = f"{views + 1} would take {format_bytes(more.bytes)}"
    took = f"{pluralize(views, 'view')} in {format_bytes(row.bytes)}"
    return f"budget of {format_bytes(budget)}: {took}; {why}"


def describe(plan: Plan, chosen: int | None = None) -> str:
    """The plan for people: what the pilot measured, and a line for each number of views.

    Args:
        chosen: the number of views that a budget chose.
    """
    doubled = [1 << i for i in range(plan.epochs.bit_length())]  # 1, 2, 4, ..., up to epochs
    shown = {*doubled, plan.epochs, plan.recipe_views, chosen or plan.recipe_views}
    rows = [_cells(plan, plan.row(views), chosen) for views in sorted(shown)]
    table = align([["views", "store", "to write", "time", "pays from", ""], *rows])
    return "\n".join([*_pilot_lines(plan.pilot), _stock_line(plan), "", table, "", _notes(plan)])


def _pilot_lines(pilot: Pilot) -> list[str]:
    milliseconds = (pilot.read_s, pilot.teacher_s, pilot.encode_s, pilot.compress_s)
    read, teacher, encode, compress = (f"{1000 * value:.3g}" for value in milliseconds)
    errors = pilot.measured
    beside = (
        f" in each of {pluralize(pilot.workers, 'process', 'processes')} beside"
        if pilot.workers
        else ""
    )
    return [
        f"pilot of {pluralize(pilot.views, 'view')}: {pilot.sizes.view:,.0f} bytes a view (standard "
        f"deviation {pilot.spread_bytes:,.0f}); error at most {100 * errors['max_error']:.2g} % of "
        f"a peak, {errors['mean_displacement_px']:.3f} heatmap pixels in the mean",
        f"{1 / pilot.cache_s:.3g} views/s; a view takes {read} ms to read{beside}, {teacher} ms of "
        f"the teacher, {encode} ms to encode, {compress} ms to compress",
    ]


def _stock_line(plan: Plan) -> str:
    found = plan.stock.found
    samples = pluralize(plan.stock.layout.samples, "person", "people")
    there = f"{pluralize(found.samples(), 'view')} there in {format_bytes(plan.stock.bytes)}"
    free = "unknown" if plan.free_bytes is None else format_bytes(plan.free_bytes)
    return f"{samples}; {there}; free space: {free}"


def _cells(plan: Plan, row: Row, chosen: int | None) -> list[str]:
    marks = {
        "recipe": row.views == plan.recipe_views,
        "chosen": row.views == chosen,
        "more than is free": plan.free_bytes is not None and row.added_bytes > plan.free_bytes,
    }
    student, epoch = plan.paid_at(row)
    return [
        f"{row.views:,}",
        format_bytes(row.bytes),
        format_bytes(row.added_bytes),
        format_duration(row.seconds),
        f"epoch {epoch:,} of student {student:,}",
        ", ".join(mark for mark, holds in marks.items() if holds),
    ]


def _notes(plan: Plan) -> str:
    student, _ = plan.paid_at(plan.row(plan.recipe_views))
    return (
        f"pays: against a teacher in every batch, with students of "
        f"{pluralize(plan.epochs, 'epoch')} each; the recipe's "
        f"{pluralize(plan.recipe_views, 'view')}: after {pluralize(student, 'student')}"
    )
