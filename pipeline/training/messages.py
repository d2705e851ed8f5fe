"""What a training run tells whoever watches: how it goes, and what to do when it goes badly."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from tqdm import tqdm

from ..device import loader_workers, usable_cores
from ..memory import room_for
from ..recipe import Recipe
from ..sections import Training
from ..sizes import counted
from .checkpoint import Progress

log = logging.getLogger("fpd")

# A network whose loss is this near that of an all-zero answer gives just that answer. (A fresh one
# starts above, and is not to be warned of while it comes down.)
COLLAPSED = 0.03

STARVED = 0.1
"""Share of an epoch spent waiting for data from which on it is worth mending."""

TOO_SHORT_S = 10.0
"""Of an epoch this short, waiting is mostly its readers' start."""


class Messenger:
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
            + f"waiting {100 * sums['waiting'] / sums['seconds']:.0f} %",
            refresh=False,
        )

    def room_for_step(self, views: int) -> AbstractContextManager[None]:
        """Say what takes less memory, where a step's views take too much."""
        parts = self.training.accumulate
        return room_for(
            f"a step of {self.name} on {self.device}, of {counted(views, 'view')} in "
            f"{counted(parts, 'part')},",
            f"--set {self.section}.accumulate={2 * parts} takes them through the network in "
            f"smaller parts, and a lower --set {self.section}.batch takes fewer",
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
        share = loss / max(sums["late_zero_loss" if late else "zero_loss"], 1e-12)
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
        if self._told_starved or row["waiting"] <= STARVED or row["seconds"] < TOO_SHORT_S:
            return
        self._told_starved = True
        workers, cores = loader_workers(self.recipe.loader, self.device), usable_cores()
        advice = f"give this process more cores than its {cores}, or keep smaller images"
        if workers < cores:
            advice = f"read with more processes (--set loader.workers={workers + 1}), or {advice}"
        log.warning(
            "warning: %.0f %% of epoch %d was spent waiting for data (%d reading beside it): %s; "
            "docs/performance.md has what reading takes",
            100 * row["waiting"],
            row["epoch"],
            workers,
            advice,
        )

    @property
    def section(self) -> str:
        """The part of the recipe that the model has its settings from."""
        return self.recipe.section(self.name)
