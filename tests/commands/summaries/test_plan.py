"""What `fpd cache-heatmaps --plan` prints."""

from __future__ import annotations

import re
from dataclasses import replace

from fpd.commands.summaries.plan import describe
from fpd.pipeline.caching.pilot import Pilot, Sizes
from fpd.pipeline.caching.plan import Plan
from fpd.pipeline.caching.space import StoreStatus
from fpd.pipeline.store import Coverage, Layout

PILOT = Pilot(
    views=48,
    sizes=Sizes(view=1000.0, padding=20.0, receipt=500.0),
    spread_bytes=100.0,
    encoding_error={"max_error": 0.1, "mean_displacement_px": 0.02},
    read_s=0.04,
    teacher_s=0.02,
    encode_s=0.005,
    compress_s=0.01,
    workers=2,
    on_cpu=False,
)


# 10 samples in shards of 4: two full ones, and one of 2 with 2 rows of padding.
LAYOUT = Layout(views=1, segments=(10,), joints=14, heatmap_px=16, shard_samples=4)


ONE_VIEW = 10 * 1000 + 2 * 20 + 3 * 500


NOTHING = StoreStatus(Coverage(LAYOUT, LAYOUT.tasks(), []), bytes=0)


PLAN = Plan(PILOT, NOTHING, recipe_views=3, epochs=6, free_bytes=4 * ONE_VIEW, metadata_bytes=7000)


def test_the_table_doubles_up_to_the_epochs_and_marks_its_rows() -> None:
    rows = {
        line.split()[0]: line
        for line in describe(PLAN, 5).splitlines()
        if re.match(r"[0-9]+ +[0-9.]+ kB", line)
    }
    assert list(rows) == ["1", "2", "3", "4", "5", "6"]
    assert rows["3"].endswith("recipe")
    assert rows["4"].endswith("more than is free")  # the metadata takes some too
    assert rows["5"].endswith("chosen, more than is free")
    assert "epoch 5 of student 1" in rows["4"]
    assert "epoch 1 of student 2" in rows["5"]
    assert "18.5 kB" in rows["1"]


def test_the_plan_has_what_the_pilot_measured() -> None:
    text = describe(replace(PLAN, free_bytes=None))
    for fact in (
        *("pilot of 48 views: 1,000 bytes a view (standard deviation 100)", "10 % of a peak"),
        *("40 views/s", "40 to read in each of 2 loader processes", "20 in the teacher"),
        *("5 to encode", "10 to compress", "free space: unknown", "10 samples"),
        "the recipe's 3 views: with student 1",
    ):
        assert fact in text
