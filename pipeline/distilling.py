"""A student and the store that it learns from: put together, checked, trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.readers import load_training
from ..data.samples import SampleSet
from .recipe import Recipe
from .sections import Student
from .store import (
    Files,
    StoreReader,
    check_canaries,
    check_complete,
    check_manifest,
    make_manifest,
    read_manifest,
    served_layout,
    store_files,
)
from .teachers import expected_entry, taught_mask
from .training.feed import DistillationViews, fresh_views, stored_views
from .training.objective import Objective
from .training.train import train_model
from .workdir import ModelDir, WorkDir

log = logging.getLogger("fpd")


def train_student(
    work: WorkDir, recipe: Recipe, student: Student, out: ModelDir, device: torch.device
) -> dict[str, Any]:
    """Train a student in its folder, or go on with it.

    Args:
        work: has the store, where the student takes any of it.
        student: its settings; those of `recipe` have no say.

    Returns:
        Its `record.json`.

    Raises:
        ValueError: the store does not match or is incomplete, the data set cannot be used, or the
            folder holds another run.
    """
    people = load_training(recipe.data, taught=student.alpha > 0)
    samples = people["train"]
    left_out = None if student.fold is None else samples.part(*student.fold)
    if left_out is not None:
        people["validation"] = samples.take(np.flatnonzero(left_out))
    inputs: dict[str, Any] = {"dataset": samples.fingerprint()}
    views: int | None = None
    mirror_joints: tuple[int, ...] | None = None
    taught: tuple[bool, ...] | None = None
    dataset: Any = fresh_views(recipe, samples, student.seed)
    if student.alpha > 0:
        store, manifest = open_store(work, recipe, samples)
        dataset = DistillationViews(stored_views(recipe, samples), store)
        inputs |= {"teacher": manifest["teacher"], "store": _what_decides_targets(recipe)}
        views = recipe.store.views
        taught = taught_mask(manifest)
        _warn_if_untaught(taught, samples.skeleton.joints, student, out.name)
        if recipe.mirror_averaged:
            mirror_joints = samples.skeleton.mirror
    return train_model(
        out=out,
        recipe=recipe,
        training=student,
        objective=Objective(
            *(recipe.targets, recipe.geometry.heatmap_px, student, mirror_joints),
            loss=student.loss,
            taught=taught,
        ),
        dataset=dataset,
        people=people,
        views=views,
        mirror=mirror_joints is not None,
        keep=None if left_out is None else ~left_out,
        inputs=inputs,
        device=device,
        init_from=_weights_file(work, student.init_from),
    )


def open_store(
    work: WorkDir, recipe: Recipe, samples: SampleSet
) -> tuple[StoreReader, dict[str, Any]]:
    """The store, if it holds just what this run needs.

    Raises:
        ValueError: it is absent, made for something else, incomplete, or of other pixels; the
            message names the command that mends it.
    """
    files = existing_store(work, recipe)
    found = read_manifest(files)
    # Where the teacher lies beside the store, the store must be of that teacher.
    expected = make_manifest(recipe, samples, expected_entry(work.teacher, recipe, found))
    check_manifest(files, expected, found, work.named(recipe))
    layout = served_layout(expected, found, recipe.store.views)
    check_complete(files, layout, work.named(recipe))
    check_canaries(files, layout, stored_views(recipe, samples), found, work.named(recipe))
    return StoreReader(files, layout, work.named(recipe)), found


def existing_store(work: WorkDir, recipe: Recipe) -> Files:
    """Where the recipe's store lies.

    Raises:
        ValueError: there is none.
    """
    files = store_files(work, recipe)
    if not files.exists():
        raise ValueError(f"{files} is missing: run `fpd cache-heatmaps -w {work.named(recipe)}`")
    return files


def _warn_if_untaught(
    taught: tuple[bool, ...] | None, joints: tuple[str, ...], student: Student, name: str
) -> None:
    if taught is None or student.alpha < 1:
        return
    nobody = [joint for joint, known in zip(joints, taught, strict=True) if not known]
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
        "mirror_averaged": recipe.mirror_averaged,
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
