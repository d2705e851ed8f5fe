"""Stage 3: train a student on labels and on the cached heatmaps, with no teacher in memory.

    fpd run student -w work/demo
    fpd run student -w work/demo --name labels-only --set student.alpha=0

In: the data set, `heatmaps.zarr` (not with alpha = 0). Out: a folder of the student's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..data.readers import load
from ..data.samples import SampleSet
from ..pipeline.recipe import Recipe
from ..pipeline.store import (
    StoreReader,
    check_complete,
    check_manifest,
    layout_of,
    make_manifest,
    read_manifest,
)
from ..pipeline.training.feed import DistillationViews, fresh_views, stored_views
from ..pipeline.training.objective import Objective
from ..pipeline.training.train import train_model
from ..pipeline.workdir import WorkDir, sha256


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    name: str = "student",
    init_from: Path | None = None,
) -> dict[str, Any]:
    """Train a student, or go on with it.

    Args:
        name: its folder, and the recipe's `students` entry that it takes its settings from.
        init_from: a weights file, or a folder that has one, to start from.

    Returns:
        Its `record.json`.

    Raises:
        ValueError: the store does not match or is incomplete, the data set cannot be used, or the
            folder holds another run.
    """
    student = recipe.student_named(name)
    people = {"train": load(recipe.data, "train"), "validation": load(recipe.data, "validation")}
    samples = people["train"]
    inputs: dict[str, Any] = {"dataset": samples.fingerprint()}
    views: int | None = None
    dataset: Any = fresh_views(recipe, samples, student.seed)
    if student.alpha > 0:
        store, manifest = open_store(work, recipe, samples)
        dataset = DistillationViews(stored_views(recipe, samples), store)
        inputs |= {"teacher": manifest["teacher"], "store": _what_decides_targets(recipe)}
        views = recipe.store.views
    return train_model(
        out=work.student(name),
        recipe=recipe,
        training=student,
        objective=Objective(
            recipe.targets, recipe.geometry.heatmap_px, student, recipe.store.max_error
        ),
        dataset=dataset,
        people=people,
        views=views,
        inputs=inputs,
        device=device,
        init_from=_weights_file(init_from),
    )


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet
) -> tuple[StoreReader, dict[str, Any]]:
    """The store, if it holds just what this run needs.

    Raises:
        ValueError: it is absent, made for something else, or incomplete; the message names the
            command that mends it.
    """
    if not work.store.exists():
        raise ValueError(f"{work.store} is missing: run `fpd cache-heatmaps -w {work.root}`")
    found = read_manifest(work.store)
    # Where the teacher lies beside the store, the store must be of that teacher.
    weights = work.teacher.weights
    teacher = found.get("teacher")
    teacher_sha256 = teacher.get("sha256", "none") if isinstance(teacher, dict) else "none"
    if weights.is_file():
        teacher_sha256 = sha256(weights)
    check_manifest(work.store, make_manifest(recipe, samples, teacher_sha256), found, work.root)
    layout = layout_of(recipe, samples)
    check_complete(work.store, layout, work.root)
    return StoreReader(work.store, layout), found


def _what_decides_targets(recipe: Recipe) -> dict[str, Any]:
    store = recipe.store
    return {"views": store.views, "seed": store.seed, "max_error": store.max_error}


def _weights_file(path: Path | None) -> Path | None:
    if path is None:
        return None
    file = path / "weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"--init-from {path}: expected a weights file or a model's folder")
    return file
