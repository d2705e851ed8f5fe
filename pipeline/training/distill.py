"""Trains a student: checks its heatmap store, and puts data and objective together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.corruption import has_labels
from ...data.sections import STORE_READER
from ..config.recipe import Recipe, fresh_views
from ..config.sections import Student
from ..models.model_dir import ModelDir
from ..store.dataset import load_stored_training, load_training_samples
from ..store.manifest import TeacherEntry, covered_mask, is_portable
from ..store.match import open_store, views_of
from ..workdir import WorkDir
from .dataset import DistillationViews, LabeledViews, TrainingData
from .objective import Objective
from .shuffle import choose_window, order_inputs
from .train import train_model

log = logging.getLogger("fpd")


def train_student(
    work: WorkDir,
    recipe: Recipe,
    student: Student,
    out: ModelDir,
    device: torch.device,
    teacher: TeacherEntry | None,
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a student in its folder, or resume its training.

    Args:
        work: the work directory, which has the store if the recipe names no other.
        student: its settings, which take precedence over those of `recipe`.
        teacher: what the store's manifest must state about the teacher; None: no store is used
            (alpha = 0).
        callbacks: names as given to `--callback` (`callbacks.make_callback`).

    Returns:
        The content of `record.json`.

    Raises:
        ValueError: the store does not match or is incomplete, the data set cannot be used, or the
            folder holds another run.
    """
    if student.alpha > 0:
        assert teacher is not None
        data, objective = _with_store(work, recipe, student, teacher, out.name)
    else:
        data = _labels_only(work, recipe, student)
        objective = Objective(
            recipe.targets, recipe.geometry.heatmap_px, student, loss=student.loss
        )
    return train_model(
        out=out,
        recipe=recipe,
        training=student,
        objective=objective,
        data=_with_fold(data, student),
        device=device,
        init_from=_weights_file(work, student.init_from),
        callbacks=callbacks,
    )


def _with_fold(data: TrainingData, student: Student) -> TrainingData:
    """The data of one fold, if the student is cross-validated."""
    if student.fold is None:
        return data
    left_out_N = data.samples.part(*student.fold)
    keep_N = ~left_out_N if data.keep_N is None else data.keep_N & ~left_out_N
    return replace(data, keep_N=keep_N, validation=data.samples.take(np.flatnonzero(left_out_N)))


def _labels_only(work: WorkDir, recipe: Recipe, student: Student) -> TrainingData:
    """New views in every epoch; where the samples are in a portable store, the stored views."""
    loaded = load_training_samples(work, recipe, with_unlabeled=False)
    samples, views = loaded["train"], recipe.store.views
    if recipe.data.reader != STORE_READER:
        return TrainingData(
            samples=samples,
            validation=loaded["validation"],
            dataset=fresh_views(recipe, samples, student.seed),
            views=None,
            inputs={"dataset": samples.fingerprint()},
        )
    store, manifest = open_store(work, recipe, samples, teacher=None)
    window = choose_window(recipe.loader, store, manifest)
    return TrainingData(
        samples=samples,
        validation=loaded["validation"],
        dataset=LabeledViews(views_of(recipe, samples, store)),
        views=views,
        inputs={
            "dataset": samples.fingerprint(),
            "stored_views": views,
            **order_inputs(window, store.layout),
        },
        flip=recipe.flip_averaged,
        keep_N=has_labels(samples),
        window=window,
    )


def _with_store(
    work: WorkDir,
    recipe: Recipe,
    student: Student,
    teacher: TeacherEntry,
    name: str,
) -> tuple[TrainingData, Objective]:
    """Views with cached heatmaps, and the loss on them (eq. 5)."""
    loaded = load_training_samples(work, recipe, with_unlabeled=True)
    store, manifest = open_store(work, recipe, loaded["train"], teacher)
    if is_portable(manifest) and recipe.data.reader != STORE_READER:
        # As it would train where there is no data set, validation crops included.
        work_options = work.command_options(recipe)
        loaded = load_stored_training(store.storage, manifest, work_options)
    samples = loaded["train"]
    window = choose_window(recipe.loader, store, manifest)
    covered_K = covered_mask(manifest)
    _warn_if_not_covered(covered_K, samples.skeleton.joints, student, name)
    data = TrainingData(
        samples=samples,
        validation=loaded["validation"],
        dataset=DistillationViews(views_of(recipe, samples, store), store),
        views=recipe.store.views,
        inputs={
            "dataset": samples.fingerprint(),
            "teacher": manifest["teacher"],
            "store": _target_settings(recipe),
            **order_inputs(window, store.layout),
        },
        flip=recipe.flip_averaged,
        window=window,
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
