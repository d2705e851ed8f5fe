"""Stage 3: train a student on labels and cached heatmaps, without the teacher.

    fpd run student -w work/demo
    fpd run student -w work/demo --name labels-only --set student.alpha=0

Reads the data set and `heatmaps.zarr` (not with alpha = 0: labels alone). Writes a folder of the
student's name, with the same files as `teacher/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..pipeline.config.recipe import Recipe
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.store import read_manifest
from ..pipeline.store.match import existing_store
from ..pipeline.teachers import expected_entry
from ..pipeline.training.callbacks import check_callbacks
from ..pipeline.training.distill import train_student
from ..pipeline.workdir import WorkDir


def run(
    work: WorkDir,
    recipe: Recipe,
    device: torch.device,
    *,
    name: str = "student",
    init_from: Path | None = None,
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a student, or resume its training.

    Args:
        name: of its folder; where the recipe's `students` table has an entry of this name, its
            settings override those of the `student` section.
        init_from: a weights file, or a folder that contains one, to start from; None: what the
            settings have in `student.init_from`.
        callbacks: as given to `--callback` (`training.callbacks`); some run the user's code.

    Returns:
        The content of its `record.json`.

    Raises:
        ValueError: the store does not match this run or is incomplete, the data set cannot be
            used, the folder holds a run of other settings, or another process is training it.
        Interrupted: after SIGINT or SIGTERM; the same command resumes.
    """
    settings = recipe.student_named(name)
    if init_from is not None:
        settings = settings.model_copy(update={"init_from": str(init_from.absolute())})
    check_callbacks(callbacks)
    out = work.student(name)
    with writer_lock(out.path):
        teacher_entry = None  # what the store's manifest must state of the teacher
        if settings.alpha > 0:
            manifest = read_manifest(existing_store(work, recipe))
            teacher_entry = expected_entry(work.teacher, recipe, manifest)
        return train_student(work, recipe, settings, out, device, teacher_entry, callbacks)
