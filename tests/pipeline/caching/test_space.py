"""The check of free space before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fpd.pipeline.caching import space
from fpd.pipeline.caching.space import free_bytes
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.store import open_storage
from fpd.pipeline.store.schema import receipt_name
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps

CPU = torch.device("cpu")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def without_store(work: WorkDir) -> WorkDir:
    shutil.rmtree(work.store)
    work.store.with_name(".heatmaps.zarr.lock").unlink(missing_ok=True)
    return work


def disk_with(free: int | None) -> Any:
    return lambda _: free


def changed(recipe: Recipe, *changes: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), changes)


@pytest.mark.parametrize("overwrite", [False, True])
def test_too_little_free_space_is_refused_before_anything_is_written(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    recipe = toy_recipe if overwrite else changed(toy_recipe, "store.views=50")
    before = contents(work.store)
    size = sum(len(content or b"") for content in before.values())
    monkeypatch.setattr(space, "free_bytes", disk_with(-size if overwrite else 10_000))
    with pytest.raises(
        ValueError, match=r"expected [0-9.]+ kB of free space for .*, found"
    ) as error:
        heatmaps.run(work, recipe, CPU, overwrite=overwrite)
    for remedy in ("--plan", "--budget", "store.max_error", "--store"):
        assert remedy in str(error.value)
    assert contents(work.store) == before


def test_a_new_store_that_does_not_fit_is_refused_after_one_batch(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(10_000))
    with pytest.raises(ValueError, match="of free space"):
        heatmaps.run(work, toy_recipe, CPU)
    assert not work.store.exists()


@pytest.mark.parametrize("exists", [True, False])
def test_what_fits_by_its_measured_size_is_written(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """Though the bound that is computed without running the teacher is larger than the disk."""
    if exists:
        open_storage(work.store).delete(receipt_name(1, 1))
    else:
        without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(6000 if exists else 30_000))
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == (1 if exists else 6)


def test_with_ample_space_the_teacher_is_not_run_first(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(10**9))
    monkeypatch.setattr(space, "encode_all", None)
    assert heatmaps.run(work, toy_recipe, CPU)["written"] == 6


def test_free_space_is_that_of_the_nearest_existing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []

    def usage(path: Path) -> SimpleNamespace:
        paths.append(path)
        return SimpleNamespace(free=123)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert free_bytes(open_storage(tmp_path / "not" / "yet" / "heatmaps.zarr")) == 123
    assert paths == [tmp_path]


def test_free_space_of_remote_storage_is_unknown() -> None:
    assert free_bytes(open_storage("memory://somewhere/heatmaps.zarr")) is None


def test_the_samples_of_a_portable_store_take_space_as_well(
    portable_work: WorkDir, portable_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All heatmaps exist, and the group of the test samples is missing."""
    group = portable_work.store / "test"
    size = sum(path.stat().st_size for path in group.rglob("*") if path.is_file())
    shutil.rmtree(group)
    before = contents(portable_work.store)
    monkeypatch.setattr(space, "free_bytes", disk_with(size // 2))
    with pytest.raises(ValueError, match="of free space"):
        heatmaps.run(portable_work, portable_recipe, CPU)
    assert contents(portable_work.store) == before
    monkeypatch.setattr(space, "free_bytes", disk_with(2 * size))
    assert heatmaps.run(portable_work, portable_recipe, CPU)["written"] == 0
    assert group.exists()


def test_a_new_portable_store_needs_more_space_than_its_heatmaps(
    work: WorkDir, portable_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(len(content or b"") for content in contents(work.store).values())
    without_store(work)
    monkeypatch.setattr(space, "free_bytes", disk_with(2 * size))
    with pytest.raises(ValueError, match="of free space"):
        heatmaps.run(work, portable_recipe, CPU)
    assert not work.store.exists()
