"""Trains a student: checks its heatmap store, and puts data and objective together."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.datasets import load_training
from ...data.samples import SampleSet
from ..config.recipe import Recipe, fresh_views, stored_views
from ..config.sections import Student
from ..models.checkpoint import ModelDir
from ..store.manifest import TeacherEntry, covered_mask
from ..store.match import open_store
from ..workdir import WorkDir
from .dataset import DistillationViews, TrainingData
from .objective import Objective
from .train import train_model

log = logging.getLogger("fpd")


def train_student(
    work: WorkDir,
    recipe: Recipe,
    student: Student,
    out: ModelDir,
    device: torch.device,
    teacher: TeacherEntry | None,
) -> dict[str, Any]:
    """Train a student in its folder, or resume its training.

    Args:
        work: the work directory, which has the store if the recipe names no other.
        student: its settings, which take precedence over those of `recipe`.
        teacher: what the store's manifest must state about the teacher; None: no store is used
            (alpha = 0).

    Returns:
        The content of `record.json`.

    Raises:
        ValueError: the store does not match or is incomplete, the data set cannot be used, or the
            folder holds another run.
    """
    loaded = load_training(recipe.data, with_unlabeled=student.alpha > 0)
    samples, validation = loaded["train"], loaded["validation"]
    keep_N = None
    if student.fold is not None:
        left_out_N = samples.part(*student.fold)
        keep_N, validation = ~left_out_N, samples.take(np.flatnonzero(left_out_N))
    if student.alpha > 0:
        assert teacher is not None
        data, objective = _with_store(work, recipe, student, samples, validation, teacher, out.name)
    else:
        data = TrainingData(
            samples=samples,
            validation=validation,
            dataset=fresh_views(recipe, samples, student.seed),
            views=None,
            inputs={"dataset": samples.fingerprint()},
        )
        objective = Objective(
            recipe.targets, recipe.geometry.heatmap_px, student, loss=student.loss
        )
    return train_model(
        out=out,
        recipe=recipe,
        training=student,
        objective=objective,
        data=replace(data, keep_N=keep_N),
        device=device,
        init_from=_weights_file(work, student.init_from),
    )


def _with_store(
    work: WorkDir,
    recipe: Recipe,
    student: Student,
    samples: SampleSet,
    validation: SampleSet,
    teacher: TeacherEntry,
    name: str,
) -> tuple[TrainingData, Objective]:
    """Views with cached heatmaps, and the loss on them (eq. 5)."""
    store, manifest = open_store(work, recipe, samples, teacher)
    covered_K = covered_mask(manifest)
    _warn_if_not_covered(covered_K, samples.skeleton.joints, student, name)
    data = TrainingData(
        samples=samples,
        validation=validation,
        dataset=DistillationViews(stored_views(recipe, samples), store),
        views=recipe.store.views,
        inputs={
            "dataset": samples.fingerprint(),
            "teacher": manifest["teacher"],
            "store": _target_settings(recipe),
        },
        flip=recipe.flip_averaged,
    )
    objective = Objective(
        targets=recipe.targets,
        heatmap_px=recipe.geometry.heatmap_px,
        student=student,
        flip_indices=samples.skeleton.flip_indices if recipe.flip_averaged else None,
        loss=student.loss,
        covered_K=covered_K,
    )
    return data, objective


def _warn_if_not_covered(
    covered_K: tuple[bool, ...] | None, joints: tuple[str, ...], student: Student, name: str
) -> None:
    """Warn about joints that neither labels nor teacher supervise."""
    if covered_K is None or student.alpha < 1:
        return
    missing = [joint for joint, covered in zip(joints, covered_K, strict=True) if not covered]
    log.warning(
        "warning: %s trains on teacher heatmaps only (alpha = 1), and the teacher does not predict "
        "%s: outputs for these joints stay untrained; with a lower alpha, for example --set "
        "student.alpha=0.5, labels supervise them",
        name,
        ", ".join(missing),
    )


def _target_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that the stored heatmaps depend on, besides the teacher's."""
    store = recipe.store
    return {
        "views": store.views,
        "seed": store.seed,
        "max_error": store.max_error,
        "flip_averaged": recipe.flip_averaged,
    }


def init_path(work: WorkDir, name: str) -> Path:
    """The path that `student.init_from` names: below the work directory if it is a folder there."""
    below = work.root / name
    return below if below.is_dir() else Path(name)


def _weights_file(work: WorkDir, name: str | None) -> Path | None:
    """The weights file that `student.init_from` names.

    Raises:
        ValueError: there is no such file.
    """
    if name is None:
        return None
    path = init_path(work, name)
    if ModelDir(path).finished:
        return ModelDir(path).weights  # whether they are there is checked when they are read
    file = ModelDir(path).weights if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"--init-from {name}: expected a weights file or a model's folder, by its path or by "
            f"its path below {work.root}"
        )
    return file
