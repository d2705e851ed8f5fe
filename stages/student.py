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
    check_canaries,
    check_complete,
    check_manifest,
    make_manifest,
    read_manifest,
    served_layout,
    store_files,
)
from ..pipeline.training.feed import (
    DistillationViews,
    fresh_views,
    stored_views,
)
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
    mirror_joints: tuple[int, ...] | None = None
    dataset: Any = fresh_views(recipe, samples, student.seed)
    if student.alpha > 0:
        store, manifest = open_store(work, recipe, samples)
        dataset = DistillationViews(stored_views(recipe, samples), store)
        inputs |= {"teacher": manifest["teacher"], "store": _what_decides_targets(recipe)}
        views = recipe.store.views
        if recipe.mirror_averaged:
            mirror_joints = samples.skeleton.mirror
    return train_model(
        out=work.student(name),
        recipe=recipe,
        training=student,
        objective=Objective(recipe.targets, recipe.geometry.heatmap_px, student, mirror_joints),
        dataset=dataset,
        people=people,
        views=views,
        mirror=mirror_joints is not None,
        inputs=inputs,
        device=device,
        init_from=_weights_file(init_from),
    )


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet
) -> tuple[StoreReader, dict[str, Any]]:
    """The store, if it holds just what this run needs.

    Raises:
        ValueError: it is absent, made for something else, incomplete, or of other pixels; the
            message names the command that mends it.
    """
    files = store_files(work, recipe)
    if not files.exists():
        raise ValueError(f"{files} is missing: run `fpd cache-heatmaps -w {work.named(recipe)}`")
    found = read_manifest(files)
    # Where the teacher lies beside the store, the store must be of that teacher.
    weights = work.teacher.weights
    teacher = found.get("teacher")
    teacher_sha256 = teacher.get("sha256", "none") if isinstance(teacher, dict) else "none"
    if weights.is_file():
        teacher_sha256 = sha256(weights)
    expected = make_manifest(recipe, samples, teacher_sha256)
    check_manifest(files, expected, found, work.named(recipe))
    layout = served_layout(expected, found, recipe.store.views)
    check_complete(files, layout, work.named(recipe))
    check_canaries(files, layout, stored_views(recipe, samples), found, work.named(recipe))
    return StoreReader(files, layout, work.named(recipe)), found


def _what_decides_targets(recipe: Recipe) -> dict[str, Any]:
    store = recipe.store
    return {
        "views": store.views,
        "seed": store.seed,
        "max_error": store.max_error,
        "mirror_averaged": recipe.mirror_averaged,
    }


def _weights_file(path: Path | None) -> Path | None:
    if path is None:
        return None
    file = path / "weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"--init-from {path}: expected a weights file or a model's folder")
    return file
