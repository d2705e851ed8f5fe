"""A job for the shards of the toy store, and the store's layout."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fpd.data.samples import SampleSet
from fpd.pipeline.caching.worker import Job, make_job
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.runtime.dask_cluster import Workers
from fpd.pipeline.store import Layout, open_storage, read_manifest, stored_layout
from fpd.pipeline.workdir import WorkDir


@pytest.fixture
def job(work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet) -> Job:
    storage = open_storage(work.store)
    workers = Workers(count=1, device="cpu")
    made = make_job(work, toy_recipe, storage, read_manifest(storage), workers, allow_code=False)
    return replace(made, share_gpus=False)


@pytest.fixture
def layout(work: WorkDir) -> Layout:
    return stored_layout(open_storage(work.store))
