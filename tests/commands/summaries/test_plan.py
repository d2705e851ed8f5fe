"""What `fpd cache-heatmaps --plan` prints."""

from __future__ import annotations

import re
from dataclasses import replace

from fpd.commands.summaries.plan import describe
from fpd.pipeline.caching.photographs import Photographs

from ...pipeline.caching.plans import PILOT, PLAN, PORTABLE_VIEW, SPLITS


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
    portable = 11_000 + PORTABLE_VIEW + SPLITS
    assert rows["1"].split()[1:5] == ["18.5", "kB", f"{portable / 1000:.1f}", "kB"]


def test_the_plan_has_both_ways_to_load_an_epoch() -> None:
    plan = replace(PLAN, samples=20_000)
    line = next(line for line in describe(plan).splitlines() if "epoch's views" in line)
    assert line.endswith(
        "in 2 processes: 1 min from photographs (333 views/s), 10 s from stored crops (2,000 "
        "views/s)"
    )
    one = describe(replace(plan, pilot=replace(PILOT, workers=0)))
    assert "in 1 process: 2 min from photographs (167 views/s)" in one


def test_the_plan_has_the_size_of_the_photographs() -> None:
    assert "photograph" not in describe(PLAN).splitlines()[-2]
    photographs = Photographs(files=1000, bytes=12_900_000, splits=("train", "test"))
    text = describe(replace(PLAN, photographs=photographs, is_portable=True))
    assert "the recipe's store: portable" in text
    assert "instead of 1,000 photographs of 12.9 MB (train, test)" in text


def test_the_plan_has_what_the_pilot_measured() -> None:
    text = describe(replace(PLAN, free_bytes=None))
    for fact in (
        *("pilot of 48 views: 1,000 bytes a view (standard deviation 100)", "10 % of a peak"),
        *("40 views/s", "40 to read in each of 2 loader processes", "20 in the teacher"),
        *("5 to encode", "10 to compress", "free space: unknown", "10 samples"),
        "the recipe's 3 views: with student 1",
    ):
        assert fact in text
