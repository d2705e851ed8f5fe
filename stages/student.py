"""Stage 3: train a student on labels and on the cached heatmaps, with no teacher in memory.

    fpd run student -w work/demo
    fpd run student -w work/demo --name labels-only --set student.alpha=0

In: the data set, `heatmaps.zarr` (not with alpha = 0). Out: a folder of the student's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..pipeline.config.recipe import Recipe
from ..pipeline.store import read_manifest
from ..pipeline.store.match import existing_store
from ..pipeline.teachers import expected_entry
from ..pipeline.training.distill import train_student
from ..pipeline.workdir import WorkDir


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
        init_from: a weights file, or a folder that has one, to start from; none given: as the
            settings have it.

    Returns:
        Its `record.json`.

    Raises:
        ValueError: the store does not match or is incomplete, the data set cannot be used, or the
            folder holds another run.
    """
    student = recipe.student_named(name)
    if init_from is not None:
        student = student.model_copy(update={"init_from": str(init_from.absolute())})
    teacher = None
    if student.alpha > 0:
        manifest = read_manifest(existing_store(work, recipe))
        teacher = expected_entry(work.teacher, recipe, manifest)
    return train_student(work, recipe, student, work.student(name), device, teacher)
