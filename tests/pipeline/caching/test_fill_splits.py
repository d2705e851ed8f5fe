"""Filling the splits of a portable store: only what is missing, always the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fpd.data.samples import SampleSet
from fpd.pipeline.caching import fill_splits as module
from fpd.pipeline.caching.fill_splits import fill_splits, samples_by_split
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.interrupt import Interrupted
from fpd.pipeline.store import coverage, open_storage, read_manifest
from fpd.pipeline.store.splits import stored_parts
from fpd.pipeline.workdir import WorkDir


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def times(path: Path) -> dict[str, int]:
    return {str(f.relative_to(path)): f.stat().st_mtime_ns for f in path.rglob("*") if f.is_file()}


def fill(work: WorkDir, recipe: Recipe, samples: SampleSet) -> None:
    fill_splits(open_storage(work.store), recipe, samples_by_split(recipe, samples), "w")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"train": 18, "validation": 6, "test": 8}),
        (['store.splits=["test"]'], {"train": 18, "test": 8}),
        (["store.splits=[]"], {"train": 18}),
        (["data.validation=0"], {"train": 18, "test": 8}),
    ],
)
def test_splits_are_those_that_are_asked_for_and_exist(
    portable_recipe: Recipe, toy_samples: SampleSet, overrides: list[str], expected: dict[str, int]
) -> None:
    splits = samples_by_split(changed(portable_recipe, *overrides), toy_samples)
    assert {name: len(samples) for name, samples in splits.items()} == expected


def test_nothing_is_written_twice(
    portable_work: WorkDir, portable_recipe: Recipe, toy_samples: SampleSet
) -> None:
    before = times(portable_work.store)
    fill(portable_work, portable_recipe, toy_samples)
    assert times(portable_work.store) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_shards_and_groups_are_written_as_before(
    portable_work: WorkDir, portable_recipe: Recipe, toy_samples: SampleSet, workers: int
) -> None:
    undisturbed = content(portable_work.store)
    shutil.rmtree(portable_work.store / "validation")
    (portable_work.store / "train/ids/receipts/0/1.json").unlink()
    (portable_work.store / "test/crops/c/0/0/0").write_bytes(b"")
    fill(portable_work, changed(portable_recipe, f"loader.workers={workers}"), toy_samples)
    assert content(portable_work.store) == undisturbed


def test_shards_before_a_signal_are_kept(
    portable_work: WorkDir,
    portable_recipe: Recipe,
    toy_samples: SampleSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = content(portable_work.store)
    for split in ("train", "validation", "test"):
        shutil.rmtree(portable_work.store / split)
    as_usual = module.write_columns

    def interrupted(*arguments: object) -> object:
        written = as_usual(*arguments)  # type: ignore[arg-type]
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_columns", interrupted)
        with pytest.raises(Interrupted):
            fill(portable_work, portable_recipe, toy_samples)
    storage = open_storage(portable_work.store)
    (train, layout), *_ = stored_parts(storage, read_manifest(storage))
    assert coverage(train, layout).missing == [(0, 1), (0, 2)]
    fill(portable_work, portable_recipe, toy_samples)
    assert content(portable_work.store) == undisturbed


def test_a_data_set_without_test_samples_names_the_setting(
    portable_recipe: Recipe, toy_samples: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object, split: str) -> SampleSet:
        if split == "test":
            raise ValueError("data set 'lsp' has no samples in its test split")
        return toy_samples

    monkeypatch.setattr(module, "load", load)
    with pytest.raises(ValueError, match=r"""without test samples: .*splits=\["validation"\]"""):
        samples_by_split(portable_recipe, toy_samples)
