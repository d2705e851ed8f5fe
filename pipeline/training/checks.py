"""Refusals before training starts: labels, validation samples, batch sizes."""

from __future__ import annotations

import logging

import numpy as np

from ...data.samples import SampleSet
from ..config.recipe import Recipe
from ..config.sections import Student, Training
from ..evaluation.pck import pck
from ..models.checkpoint import ModelDir
from ..runtime.text import pluralize
from .sampler import EpochSampler

log = logging.getLogger("fpd")


def check_labels(samples: SampleSet, training: Training, recipe: Recipe, out: ModelDir) -> None:
    """Refuse people without a single label, but for a student that takes the teacher's word alone.

    Raises:
        ValueError: naming what to set, or where to have a teacher from.
    """
    if not np.isnan(samples.joints_NK2).any(-1).all():
        return
    nobody = f"{samples.name}: none of {len(samples)} training people has a labeled joint: "
    if not isinstance(training, Student) or training.alpha == 0:
        raise ValueError(
            f"{nobody}a network without a teacher learns from labels alone. Train a teacher on "
            f"labeled people, copy its folder to {out.path.parent / 'teacher'}, and run "
            f"`fpd cache-heatmaps -w {out.path.parent}`"
        )
    if training.alpha < 1:
        raise ValueError(
            f"{nobody}expected alpha = 1, so that the teacher alone teaches, got {training.alpha}: "
            f"--set {recipe.section(out.name)}.alpha=1"
        )


def check_validation(validation: SampleSet, training: Training) -> None:
    """Refuse, before the first epoch rather than after it, what cannot be scored.

    Raises:
        ValueError: no label can be scored, or patience is asked for and there is nobody to score.
    """
    if len(validation):
        score_labels(validation)
    elif training.patience is None:
        log.info("no validation people: no PCK, and the weights of the last epoch are kept")
    else:
        raise ValueError(
            "patience counts epochs without a better validation PCK, and there are no validation "
            "people: expected data.validation above 0"
        )


def score_labels(people: SampleSet) -> None:
    """Score a set's labels against themselves.

    Raises:
        ValueError: none of them can be scored.
    """
    pck(people.joints_NK2, people.joints_NK2, people.normalizer_N, people.skeleton)


def check_batches(batches: EpochSampler, training: Training, recipe: Recipe, out: ModelDir) -> None:
    """Refuse batches that the network cannot take statistics of.

    Raises:
        ValueError: naming the setting to raise.
    """
    needed = training.model.min_batch_size(recipe.geometry.crop_px)
    processes, parts = batches.group.size, training.grad_accum_steps
    # Synchronized statistics are of a part of every process's share, taken together.
    apart = parts if training.sync_batch_norm else parts * processes
    least = max(needed * apart, processes * parts)
    if batches.min_batch_size < least:
        reason = "the network ends in a single pixel" if needed > 1 else "one for each part"
        split = pluralize(parts, "part")
        shared = f", shared by {processes} processes in {split} each" * (least > needed)
        raise ValueError(
            f"expected at least {pluralize(least, 'view')} in every training step of {out.name}"
            f"{shared} ({reason}), found {batches.min_batch_size}: another "
            f"--set {recipe.section(out.name)}.batch_size, or a larger geometry.crop_px"
        )
