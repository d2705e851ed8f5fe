"""A plan that was not measured, to compute with and to print: 10 samples in shards of 4."""

from __future__ import annotations

from dataclasses import replace

from fpd.pipeline.caching.loading import Loading
from fpd.pipeline.caching.pilot import Pilot, Sizes, SplitSizes
from fpd.pipeline.caching.plan import Plan
from fpd.pipeline.caching.space import StoreStatus
from fpd.pipeline.store import Coverage, Layout

PILOT = Pilot(
    views=48,
    sizes=Sizes(view=1000.0, padding=20.0, receipt=500.0),
    other_sizes=Sizes(view=9000.0, padding=30.0, receipt=600.0),
    split_sizes=SplitSizes(Sizes(8100.0, 50.0, 400.0), Sizes(100.0, 10.0, 300.0)),
    loading=Loading(photographs_s=0.006, crops_s=0.001),
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
PORTABLE_VIEW = 10 * 9000 + 2 * 30 + 3 * 600
SPLITS = (10 * 100 + 2 * 10 + 3 * 300) + (3 * 8100 + 50 + 400)

NOTHING = StoreStatus(Coverage(LAYOUT, LAYOUT.tasks(), []), bytes=0)

# The 10 training samples without crops, and 3 of the validation with crops.
PORTABLE = replace(LAYOUT, crop_px=64)
TRAIN = replace(LAYOUT, is_split=True)
VALIDATION = replace(PORTABLE, segments=(3,), is_split=True)

OTHER = StoreStatus(
    Coverage(PORTABLE, PORTABLE.tasks(), []),
    bytes=0,
    splits={
        "train": Coverage(TRAIN, TRAIN.tasks(), []),
        "validation": Coverage(VALIDATION, VALIDATION.tasks(), []),
    },
)

PLAN = Plan(
    PILOT,
    NOTHING,
    OTHER,
    recipe_views=3,
    epochs=6,
    free_bytes=4 * ONE_VIEW,
    metadata_bytes=7000,
    other_metadata_bytes=11_000,
    samples=10,
    is_portable=False,
    photographs=None,
)
