"""How many shards are mixed at a time: by setting, by storage, and by the size of the cache."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import Loader
from fpd.pipeline.store import Layout, StoreReader, open_storage
from fpd.pipeline.training.sampler import ShardWindow
from fpd.pipeline.training.shuffle import AUTO_SHARDS, choose_window, order_inputs
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student

# 4 views of 390 shards, and 10 for samples that were added.
LAYOUT = Layout(4, (389 * 512 + 7, 10 * 512), 16, 64, 512)
URL = "memory://store/run.zarr"
MB = 10**6
CPU = torch.device("cpu")


def choose(
    location: str = URL, layout: Layout = LAYOUT, shard_bytes: int = MB, **settings: Any
) -> int | None:
    """The number of shards; None: the whole epoch's."""
    total = layout.views * layout.shards
    manifest = {"audit": {"bytes": total * shard_bytes, "shards": total}}
    reader = StoreReader(open_storage(location), layout)
    window = choose_window(Loader(**settings), reader, manifest)
    return None if window is None else window.shards


def test_a_local_store_is_shuffled_as_a_whole(tmp_path: Path) -> None:
    assert choose(str(tmp_path)) is None
    large = replace(LAYOUT, views=20)  # 8,000 shards, of which 6,000 can be kept open
    assert choose(str(tmp_path), large) == AUTO_SHARDS
    assert choose(str(tmp_path), shuffle_shards=5) == 5


def test_a_remote_store_is_shuffled_within_a_few_shards() -> None:
    assert choose() == AUTO_SHARDS
    assert choose(shuffle_shards=5) == 5
    assert choose(shuffle_shards="all") is None


def test_two_windows_fit_the_cache(tmp_path: Path) -> None:
    assert choose(shard_bytes=40 * MB) == 3  # in 256 MiB of memory
    disk = {"cache_dir": str(tmp_path), "cache_size": "1GB"}
    assert choose(shard_bytes=40 * MB, **disk) == 12
    assert choose(shard_bytes=10 * MB, **disk) == AUTO_SHARDS
    assert choose(shard_bytes=3000 * MB, **disk) == 1


def test_as_many_shards_as_there_are_is_the_whole_epoch() -> None:
    assert choose(shuffle_shards=LAYOUT.views * LAYOUT.shards) is None
    assert choose(layout=replace(LAYOUT, views=1, segments=(16 * 512,))) is None


def test_a_store_without_an_audit_is_of_unknown_size() -> None:
    reader = StoreReader(open_storage(URL), LAYOUT)
    for audit in (None, {}, {"bytes": "1", "shards": 1}, {"bytes": 10**400, "shards": 1}):
        window = choose_window(Loader(), reader, {"audit": audit})
        assert window is not None and window.shards == AUTO_SHARDS


def test_an_order_that_exceeds_the_cache_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fpd"):
        choose(shuffle_shards=100)
        assert not caplog.text
        choose(shuffle_shards="all")
    assert "mixes 1.6 GB of shards, and the cache holds 268.4 MB" in caplog.text


def test_samples_are_in_the_shards_that_the_store_has_them_in() -> None:
    reader = StoreReader(open_storage(URL), LAYOUT)
    window = choose_window(Loader(), reader, {})
    assert window is not None
    indices = np.random.default_rng(0).integers(LAYOUT.samples, size=1000)
    expected = [LAYOUT.locate(int(index))[0] for index in indices]
    assert window.shard_N[indices].tolist() == expected
    assert len(window.shard_N) == LAYOUT.samples


def test_the_identity_states_an_order_other_than_the_whole_epoch() -> None:
    assert order_inputs(None, LAYOUT) == {}
    window = ShardWindow(np.zeros(3, np.int32), 7)
    assert order_inputs(window, LAYOUT)["order"] == {
        "shuffle_shards": 7,
        "shard_samples": 512,
        "segments": list(LAYOUT.segments),
    }


def test_training_in_another_order_is_another_run(work: WorkDir, toy_recipe: Recipe) -> None:
    def run(*overrides: str, name: str) -> dict[str, Any]:
        recipe = apply_overrides(
            toy_recipe.model_dump(mode="json"), ["student.epochs=1", *overrides]
        )
        return student.run(work, recipe, CPU, name=name)

    whole = run(name="whole")
    one = run("loader.shuffle_shards=1", name="one")
    assert "order" not in whole["identity"]["inputs"]
    assert one["identity"]["inputs"]["order"]["shuffle_shards"] == 1
    assert whole["result"]["weights_sha256"] != one["result"]["weights_sha256"]
    with pytest.raises(ValueError, match=r"holds a run with other settings or inputs.*order"):
        run("loader.shuffle_shards=2", name="one")
    # All six shards at once are the whole epoch.
    assert run("loader.shuffle_shards=6", name="whole") == whole
