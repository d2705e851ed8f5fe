"""Fixtures of all tests: one thread, a recipe that trains in seconds, a finished work directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch
from torch.export import ExportedProgram

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, teacher

CPU = torch.device("cpu")

# 24 samples, of which 6 are held out: shards of 8, 8 and 2, and three steps an epoch.
TOY = {
    "data": {
        "reader": "synthetic",
        "validation": 0.26,
        "synthetic": {"train": 24, "test": 8},
        "label_corruption": {"missing": 0.1},
    },
    "geometry": {"crop_px": 64},
    "teacher": {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "model": {"stages": 1, "channels": 8, "stem": "ports"},
    },
    "store": {"views": 2, "shard_samples": 8, "batch_size": 8, "flip_averaged": False},
    "student": {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "model": {"stages": 1, "channels": 8, "stem": "ports"},
    },
    "loader": {"workers": 0},
    "monitor": {"contact_sheet_every": 0},
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread_in_every_process() -> Iterator[None]:
    """For this process and those that tests start: more threads than cores are slow."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # session fixtures run before `_one_thread`
    yield
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture(autouse=True)
def _one_thread(_one_thread_in_every_process: None) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@pytest.fixture(scope="session")
def toy_recipe() -> Recipe:
    """All four stages take a few seconds; change it with `apply_overrides(model_dump(), [...])`."""
    return apply_overrides(TOY, [])


@pytest.fixture(scope="session")
def toy_samples(toy_recipe: Recipe) -> SampleSet:
    """The 18 training samples of the toy recipe."""
    return load(toy_recipe.data, "train")


@pytest.fixture(scope="session")
def toy_work(tmp_path_factory: pytest.TempPathFactory, toy_recipe: Recipe) -> Path:
    """A work directory with a finished teacher and its heatmaps. Read-only: see `work`."""
    torch.set_num_threads(1)
    work = WorkDir(tmp_path_factory.mktemp("toy") / "work")
    work.create()
    write_sealed_json(work.root / "recipe.json", toy_recipe.model_dump(mode="json"))
    teacher.run(work, toy_recipe, CPU)
    heatmaps.run(work, toy_recipe, CPU)
    return work.root


@pytest.fixture(scope="session")
def portable_recipe(toy_recipe: Recipe) -> Recipe:
    """The toy recipe with a portable store."""
    return apply_overrides(toy_recipe.model_dump(mode="json"), ["store.portable=true"])


@pytest.fixture(scope="session")
def portable_toy_work(
    toy_work: Path, portable_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The toy work directory with a portable store. Read-only: see `portable_work`."""
    work = WorkDir(tmp_path_factory.mktemp("portable") / "work")
    shutil.copytree(toy_work / "teacher", work.teacher.path)
    write_sealed_json(work.kept_recipe, portable_recipe.model_dump(mode="json"))
    heatmaps.run(work, portable_recipe, CPU)
    return work.root


@pytest.fixture(scope="session")
def toy_program(toy_work: Path) -> ExportedProgram:
    """The toy teacher as PyTorch's exported program, which takes seconds to export."""
    from fpd.pipeline.models.checkpoint import load_model
    from fpd.pipeline.models.export.formats import export_program

    return export_program(load_model(WorkDir(toy_work).teacher, CPU))


@pytest.fixture(scope="session")
def toy_onnx(
    toy_work: Path,
    toy_recipe: Recipe,
    toy_program: ExportedProgram,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The toy teacher as an ONNX file, with its JSON and its model card beside it."""
    from fpd.pipeline.models.export import registry
    from fpd.stages import export

    out = tmp_path_factory.mktemp("exported") / "student.onnx"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry, "export_program", lambda _: toy_program)
        export.run(WorkDir(toy_work), toy_recipe, "teacher", out=out)
    return out


@pytest.fixture
def work(toy_work: Path, tmp_path: Path) -> WorkDir:
    """A copy of the toy work directory, to change."""
    return WorkDir(Path(shutil.copytree(toy_work, tmp_path / "work")))


@pytest.fixture
def portable_work(portable_toy_work: Path, tmp_path: Path) -> WorkDir:
    """A copy of the toy work directory with a portable store, to change."""
    return WorkDir(Path(shutil.copytree(portable_toy_work, tmp_path / "portable")))
