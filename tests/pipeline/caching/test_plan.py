"""Plans: time, sizes and the break-even point, computed from a pilot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fpd.commands.summaries.plan import explain_choice
from fpd.pipeline.caching.plan import break_even_epochs
from fpd.pipeline.caching.space import MissingParts, StoreStatus
from fpd.pipeline.store import Coverage

from .plans import LAYOUT, NOTHING, ONE_VIEW, OTHER, PILOT, PLAN, PORTABLE_VIEW, SPLITS


@pytest.mark.parametrize(
    ("workers", "changes", "seconds"),
    [
        (2, {}, 0.025),  # teacher and encoder; reading (0.02) and writing (0.01) overlap with them
        (1, {}, 0.04),  # one process reads more slowly than the teacher runs
        (0, {}, 0.065),  # reading alternates with the teacher's passes
        (0, {"compress_s": 0.07}, 0.07),
        (0, {"on_cpu": True}, 0.075),
    ],
)
def test_the_slowest_of_the_overlapping_steps_is_the_time_of_a_view(
    workers: int, changes: dict[str, Any], seconds: float
) -> None:
    assert replace(PILOT, workers=workers, **changes).cache_s == pytest.approx(seconds)


def test_the_cache_pays_once_online_passes_have_taken_as_long() -> None:
    # Four views of 0.025 s are 0.1 s a sample: five epochs of 0.02 s.
    assert break_even_epochs(4, cache_s=0.025, teacher_s=0.02) == pytest.approx(5)
    assert PLAN.row(4).break_even_epochs == pytest.approx(5)
    assert PLAN.break_even(PLAN.row(4)) == (1, 5)
    assert PLAN.break_even(PLAN.row(5)) == (2, 1)  # after 6.25 epochs, 6 of them student 1's
    assert replace(PLAN, epochs=2).break_even(PLAN.row(4)) == (3, 1)


def test_rounding_does_not_put_the_break_even_off_by_an_epoch() -> None:
    epochs = break_even_epochs(3, cache_s=0.1, teacher_s=0.3)
    assert epochs > 1  # as floats have it
    assert PLAN.break_even(replace(PLAN.row(3), break_even_epochs=epochs)) == (1, 1)


def test_a_row_counts_views_padding_receipts_and_metadata() -> None:
    row = PLAN.row(2)
    assert row.bytes == row.added_bytes == 7000 + 2 * ONE_VIEW
    assert row.seconds == pytest.approx(2 * 10 * 0.025)


def test_both_kinds_of_stores_are_counted_whichever_the_recipe_asks_for() -> None:
    row = PLAN.row(2)
    assert row.heatmaps_bytes == row.bytes
    assert row.portable_bytes == 11_000 + 2 * PORTABLE_VIEW + SPLITS
    pilot = replace(PILOT, sizes=PILOT.other_sizes, other_sizes=PILOT.sizes)
    portable = replace(PLAN, pilot=pilot, status=OTHER, other_status=NOTHING, is_portable=True)
    row = portable.row(2)
    assert row.portable_bytes == row.bytes == row.added_bytes == 7000 + 2 * PORTABLE_VIEW + SPLITS
    assert row.heatmaps_bytes == 11_000 + 2 * ONE_VIEW


def test_a_budget_pays_for_the_samples_of_a_portable_store_too() -> None:
    pilot = replace(PILOT, sizes=PILOT.other_sizes, other_sizes=PILOT.sizes)
    portable = replace(PLAN, pilot=pilot, status=OTHER, other_status=NOTHING, is_portable=True)
    needed = 7000 + 2 * PORTABLE_VIEW + SPLITS
    assert portable.choose(needed) == 2
    assert portable.choose(needed - 1) == 1


def test_an_epoch_takes_each_sample_once_shared_among_the_loader_processes() -> None:
    assert PLAN.epoch_s(0.006) == pytest.approx(10 * 0.006 / 2)
    assert replace(PLAN, pilot=replace(PILOT, workers=0)).epoch_s(0.006) == pytest.approx(0.06)


def test_existing_shards_are_not_counted_again() -> None:
    layout = replace(LAYOUT, views=2)
    status = StoreStatus(Coverage(layout, [(1, 2)], []), bytes=12_345)
    plan = replace(PLAN, status=status, metadata_bytes=0)
    assert plan.row(1).added_bytes == 0
    assert plan.row(2).added_bytes == 2 * 1000 + 2 * 20 + 500  # the last shard, of two samples
    assert plan.row(3).added_bytes == plan.row(2).added_bytes + ONE_VIEW
    assert plan.row(3).bytes == 12_345 + plan.row(3).added_bytes
    assert plan.row(3).seconds == pytest.approx(12 * 0.025)


def test_views_of_other_runs_are_not_counted() -> None:
    status = StoreStatus(Coverage(replace(LAYOUT, views=2), [(0, 0), (1, 2)], []), bytes=1)
    assert status.missing(4, only_views={1, 3}) == MissingParts(samples=2 + 10, shards=1 + 3)


def test_a_budget_allows_as_many_views_as_fit() -> None:
    assert PLAN.choose(7000 + 3 * ONE_VIEW) == 3
    assert PLAN.choose(7000 + 3 * ONE_VIEW - 1) == 2


def test_no_more_views_are_chosen_than_a_student_has_epochs() -> None:
    assert PLAN.choose(10**12) == 6
    assert "a student of 6 epochs sees no more" in explain_choice(PLAN, 10**12, 6)


def test_no_fewer_views_are_chosen_than_exist() -> None:
    layout = replace(LAYOUT, views=3)
    plan = replace(PLAN, status=StoreStatus(Coverage(layout, [(2, 1)], []), bytes=50_000))
    assert plan.choose(5) == 2
    assert "the store has these already" in explain_choice(plan, 5, 2)


def test_a_budget_below_one_view_is_refused_with_the_size_of_one() -> None:
    with pytest.raises(ValueError, match=r"all 10 samples, 18\.5 kB; got 9\.0 kB: raise --budget"):
        PLAN.choose(9000)
