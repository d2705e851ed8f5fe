"""A student and the store that it learns from: put together, checked, trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.datasets import load_training
from ..config.recipe import Recipe, fresh_views, stored_views
from ..config.sections import Student
from ..models.checkpoint import ModelDir
from ..store.manifest import TeacherEntry, covered_mask
from ..store.match import open_store
from ..workdir import WorkDir
from .dataset import DistillationViews
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
    """Train a student in its folder, or go on with it.

    Args:
        work: has the store, where the student takes any of it.
        student: its settings, which take precedence over those of `recipe`.
        teacher: what the store's manifest must state of its teacher; None: no store is used
            (alpha = 0).

    Returns:
        Its `record.json`.

    Raises:
        ValueError: the store does not match or is incomplete, the data set cannot be used, or the
            folder holds another run.
    """
    people = load_training(recipe.data, with_unlabeled=student.alpha > 0)
    samples = people["train"]
    left_out = None if student.fold is None else samples.part(*student.fold)
    if left_out is not None:
        people["validation"] = samples.take(np.flatnonzero(left_out))
    inputs: dict[str, Any] = {"dataset": samples.fingerprint()}
    views: int | None = None
    flip_indices: tuple[int, ...] | None = None
    covered_K: tuple[bool, ...] | None = None
    dataset: Any = fresh_views(recipe, samples, student.seed)
    if student.alpha > 0:
        assert teacher is not None
        store, manifest = open_store(work, recipe, samples, teacher)
        dataset = DistillationViews(stored_views(recipe, samples), store)
        inputs |= {"teacher": manifest["teacher"], "store": _what_decides_targets(recipe)}
        views = recipe.store.views
        covered_K = covered_mask(manifest)
        _warn_if_untaught(covered_K, samples.skeleton.joints, student, out.name)
        if recipe.flip_averaged:
            flip_indices = samples.skeleton.flip_indices
    return train_model(
        out=out,
        recipe=recipe,
        training=student,
        objective=Objective(
            recipe.targets,
            recipe.geometry.heatmap_px,
            student,
            flip_indices,
            loss=student.loss,
            covered_K=covered_K,
        ),
        dataset=dataset,
        people=people,
        views=views,
        flip=flip_indices is not None,
        keep=None if left_out is None else ~left_out,
        inputs=inputs,
        device=device,
        init_from=_weights_file(work, student.init_from),
    )


def _warn_if_untaught(
    covered_K: tuple[bool, ...] | None, joints: tuple[str, ...], student: Student, name: str
) -> None:
    if covered_K is None or student.alpha < 1:
        return
    nobody = [joint for joint, known in zip(joints, covered_K, strict=True) if not known]
    log.warning(
        "warning: %s learns from the teacher alone (alpha = 1), which does not know its %s: those "
        "maps stay as they are drawn; --set student.alpha=0.5 has labels teach them",
        name,
        ", ".join(nobody),
    )


def _what_decides_targets(recipe: Recipe) -> dict[str, Any]:
    store = recipe.store
    return {
        "views": store.views,
        "seed": store.seed,
        "max_error": store.max_error,
        "flip_averaged": recipe.flip_averaged,
    }


def start_path(work: WorkDir, name: str) -> Path:
    """What `student.init_from` names: a model's folder below the work directory, or a path."""
    below = work.root / name
    return below if below.is_dir() else Path(name)


def _weights_file(work: WorkDir, name: str | None) -> Path | None:
    """The weights to start from."""
    if name is None:
        return None
    path = start_path(work, name)
    file = path / "weights.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"--init-from {name}: expected a weights file, or a model's folder, by its path or by "
            f"that below {work.root}"
        )
    return file
