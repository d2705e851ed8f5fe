"""Checks before training starts: labels, validation samples, batch sizes."""

from __future__ import annotations

import logging

import numpy as np

from ...data.samples import SampleSet
from ..config.recipe import Recipe
from ..config.sections import Student, Training
from ..evaluation.pck import pck
from ..models.model_dir import ModelDir
from ..runtime.text import pluralize, printable
from .sampler import EpochSampler

log = logging.getLogger("fpd")


def describe_data(samples: SampleSet, validation: SampleSet, out: ModelDir) -> None:
    """Log who is trained on, who was left out and why, and at the start the pairs of a flip."""
    for tally in samples.tallies:
        for line in (str(tally), *tally.notes):
            log.info("%s: %s", out.name, printable(line))
    log.info(
        "%s: %s to train on, %d held out to select weights",
        out.name,
        pluralize(len(samples), "sample"),
        len(validation),
    )
    if not out.state.is_file():
        log.info("%s: %s", out.name, printable(samples.skeleton.describe_pairs()))


def check_labels(samples: SampleSet, training: Training, recipe: Recipe, out: ModelDir) -> None:
    """Refuse training samples without a single label, unless the loss has no label term.

    Raises:
        ValueError: naming the setting to change, or where to get a teacher from.
    """
    if not np.isnan(samples.joints_NK2).any(-1).all():
        return
    found = f"{samples.name}: none of {len(samples)} training samples has a labeled joint: "
    if not isinstance(training, Student) or training.alpha == 0:
        raise ValueError(
            f"{found}without a teacher, a network learns from labels only. Train a teacher on "
            f"labeled samples, copy its folder to {out.path.parent / 'teacher'}, and run "
            f"`fpd cache-heatmaps -w {out.path.parent}`"
        )
    if training.alpha < 1:
        raise ValueError(
            f"{found}expected alpha = 1, which trains on teacher heatmaps only, got "
            f"{training.alpha}: --set {recipe.section(out.name)}.alpha=1"
        )


def check_validation(validation: SampleSet, training: Training) -> None:
    """Refuse, before the first epoch rather than after it, what cannot be scored.

    Raises:
        ValueError: no label can be scored, or patience is set without validation samples.
    """
    if len(validation):
        # Raises an error where nothing can be scored.
        pck(
            validation.joints_NK2,
            validation.joints_NK2,
            validation.normalizer_N,
            validation.skeleton,
        )
    elif training.patience is None:
        log.info("no validation samples: no PCK, and the weights of the last epoch are kept")
    else:
        raise ValueError(
            "patience counts epochs without a better validation PCK, and there are no validation "
            "samples: expected data.validation above 0"
        )


def check_batch_size(
    sampler: EpochSampler, training: Training, recipe: Recipe, out: ModelDir
) -> None:
    """Refuse batches that are too small for batch statistics, or have fewer views than parts.

    Raises:
        ValueError: naming the setting to raise.
    """
    needed = training.model.min_batch_size(recipe.geometry.crop_px)
    processes, parts = sampler.group.size, training.grad_accum_steps
    # Synchronized batch statistics are taken over one part of each process's share together.
    separate = parts if training.sync_batch_norm else parts * processes
    least = max(needed * separate, processes * parts)
    if sampler.min_batch_size < least:
        reason = "the network ends in a single pixel" if needed > 1 else "one for each part"
        per_process = pluralize(parts, "part")
        shared = f", shared by {processes} processes in {per_process} each" * (least > needed)
        raise ValueError(
            f"expected at least {pluralize(least, 'view')} in every training step of {out.name}"
            f"{shared} ({reason}), found {sampler.min_batch_size}: choose another "
            f"--set {recipe.section(out.name)}.batch_size, or a larger geometry.crop_px"
        )
