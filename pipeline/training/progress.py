"""What a training run tells whoever watches: how it goes, and what to do when it goes badly."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from tqdm import tqdm

from ..config.recipe import Recipe
from ..config.sections import Training
from ..runtime.device import loader_workers, usable_cores
from ..runtime.memory import explain_out_of_memory
from ..runtime.text import pluralize
from .checkpoint import Progress

log = logging.getLogger("fpd")

# A network whose loss is this near that of an all-zero answer gives just that answer. (A fresh one
# starts above, and is not to be warned of while it comes down.)
COLLAPSED = 0.03

STARVED = 0.1
"""Share of an epoch spent waiting for data from which on it is worth mending."""

TOO_SHORT_S = 10.0
"""Of an epoch this short, waiting is mostly its readers' start."""


class ProgressReporter:
    """The messages of one run, under its model's name."""

    def __init__(self, name: str, recipe: Recipe, training: Training, device: torch.device) -> None:
        self.name = name
        self.recipe = recipe
        self.training = training
        self.device = device
        self._told_starved = False

    def bar(self, progress: Progress, steps: int, *, silent: bool) -> tqdm[Any]:
        """A progress bar for the rest of an epoch, where there is a terminal."""
        return tqdm(
            total=steps,
            initial=progress.step,
            desc=f"{self.name} {progress.epoch + 1}/{self.training.epochs}",
            unit="step",
            leave=False,
            disable=True if silent else None,
        )

    def show(self, bar: tqdm[Any], progress: Progress) -> None:
        """Move the bar on by a step."""
        sums, pck = progress.sums, progress.best_pck
        bar.update()
        if "images" not in sums:
            return
        bar.set_postfix_str(
            f"loss {sums['loss'] / sums['images']:.4g}, "
            + (f"best PCK {100 * pck:.1f}, " if pck >= 0 else "")
            + f"{sums['images'] / sums['seconds']:.0f} images/s, "
            + f"waiting {100 * sums['data_wait_s'] / sums['seconds']:.0f} %",
            refresh=False,
        )

    def explain_out_of_memory(self, views: int) -> AbstractContextManager[None]:
        """Say what takes less memory, where a step's views take too much."""
        parts = self.training.grad_accum_steps
        return explain_out_of_memory(
            f"a step of {self.name} on {self.device}, of {pluralize(views, 'view')} in "
            f"{pluralize(parts, 'part')},",
            f"--set {self.section}.grad_accum_steps={2 * parts} takes them through the network in "
            f"smaller parts, and a lower --set {self.section}.batch_size takes fewer",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """How an epoch went, by its row of `metrics.jsonl`."""
        pck = row.get("validation_pck")
        log.info(
            "%s epoch %d/%d: loss %.4g%s, %.0f images/s",
            self.name,
            row["epoch"],
            self.training.epochs,
            row["loss"],
            "" if pck is None else f", validation PCK {100 * pck:.1f}",
            row["images_per_s"],
        )

    def stopped_early(self, progress: Progress) -> None:
        """Why a run ends before its last epoch."""
        log.info(
            "%s: no better validation PCK since epoch %d: stopped after %d of %d epochs",
            self.name,
            progress.best_epoch,
            progress.epoch,
            self.training.epochs,
        )

    def warn_if_collapsed(self, sums: dict[str, float], epoch: int) -> None:
        """Judge by the epoch's second half, when a fresh network's first noise has died down."""
        late = "late_loss" in sums
        loss = sums["late_loss" if late else "loss"]
        share = loss / max(sums["late_collapsed_loss" if late else "collapsed_loss"], 1e-12)
        if abs(share - 1) > COLLAPSED:
            return
        log.warning(
            "warning: in epoch %d the network answers next to zero everywhere (its loss is %.2f of "
            "that answer's). If this lasts, it has collapsed: widen the target (--set "
            "targets.sigma_px=%g) or change the learning rate (--set %s.learning_rate=%g)",
            epoch,
            share,
            self.recipe.targets.sigma_px * 2,
            self.section,
            self.training.learning_rate * 3,
        )

    def warn_if_starved(self, row: dict[str, Any]) -> None:
        """Say once that training waits for its readers, and what would help."""
        if (
            self._told_starved
            or row["data_wait_fraction"] <= STARVED
            or row["seconds"] < TOO_SHORT_S
        ):
            return
        self._told_starved = True
        workers, cores = loader_workers(self.recipe.loader.workers, self.device), usable_cores()
        advice = f"give this process more cores than its {cores}, or keep smaller images"
        if workers < cores:
            advice = f"read with more processes (--set loader.workers={workers + 1}), or {advice}"
        log.warning(
            "warning: %.0f %% of epoch %d was spent waiting for data (%d reading beside it): %s; "
            "docs/performance.md has what reading takes",
            100 * row["data_wait_fraction"],
            row["epoch"],
            workers,
            advice,
        )

    @property
    def section(self) -> str:
        """The part of the recipe that the model has its settings from."""
        return self.recipe.section(self.name)
