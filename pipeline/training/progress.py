"""Progress bar, epoch log lines, and warnings about collapse and slow data loading."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from typing import Any

import torch
from tqdm import tqdm

from ..config.recipe import Recipe
from ..config.sections import Student, Training
from ..runtime.device import enough_workers
from ..runtime.launch import usable_cores
from ..runtime.memory import explain_out_of_memory
from ..runtime.text import format_duration, pluralize
from .checkpoint import Progress

log = logging.getLogger("fpd")

COLLAPSED = 0.03
"""Relative difference between the loss and `collapsed_loss` up to which a network counts as
collapsed. (The loss of a new network starts above `collapsed_loss`.)"""

SLOW_LOADING = 0.1
"""`data_wait_fraction` above which faster loading is worth its processes."""

TOO_SHORT_S = 10.0
"""In epochs shorter than this, most of the wait is the start of the loader's processes."""


def loading_is_slow(row: dict[str, Any]) -> bool:
    """Whether an epoch spent so much of its time waiting for data that faster loading helps.

    Args:
        row: the epoch's row of `metrics.jsonl`.
    """
    return bool(row["data_wait_fraction"] > SLOW_LOADING and row["seconds"] >= TOO_SHORT_S)


class ProgressReporter:
    """The messages of one training run, under the name of its model."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        training: Training,
        device: torch.device,
        stated_learning_rate: float,
    ) -> None:
        """Args:
        stated_learning_rate: that of the settings; `training` has it for its batch size.
        """
        self.name = name
        self.recipe = recipe
        self.training = training
        self.device = device
        self.stated_learning_rate = stated_learning_rate
        self._warned_of_slow_loading = False
        self._epoch_ended_at = time.monotonic()

    def log_start(self, progress: Progress, steps: int) -> None:
        """Log from where a run continues that was stopped.

        Args:
            steps: of an epoch.
        """
        if not progress.epoch and not progress.step:
            return
        step = f", step {progress.step + 1}" if progress.step < steps else ", after its last step"
        log.info(
            "%s: continuing from epoch %d of %d%s",
            self.name,
            progress.epoch + 1,
            self.training.epochs,
            step if progress.step else "",
        )

    def bar(self, progress: Progress, steps: int, *, silent: bool) -> tqdm[Any]:
        """A progress bar for the rest of an epoch; shown on terminals only.

        Args:
            steps: of the whole epoch.
            silent: do not show it on terminals either.
        """
        return tqdm(
            total=steps,
            initial=progress.step,
            desc=f"{self.name} {progress.epoch + 1}/{self.training.epochs}",
            unit="step",
            leave=False,
            disable=True if silent else None,
        )

    def update(self, bar: tqdm[Any], progress: Progress) -> None:
        """Advance the bar by one step."""
        sums, pck = progress.sums, progress.best_pck
        bar.update()
        if "images" not in sums:
            return
        bar.set_postfix_str(
            f"loss {sums['loss'] / sums['images']:.4g}, "
            + (f"best PCK {100 * pck:.1f}, " if pck >= 0 else "")
            + f"{sums['images'] / sums['seconds']:.0f} images/s, "
            + f"{100 * sums['data_wait_s'] / sums['seconds']:.0f} % waiting for data"
            + self._left(self._run_seconds_left(progress, int(bar.total or 0))),
            refresh=False,
        )

    def explain_out_of_memory(self, views: int) -> AbstractContextManager[None]:
        """Turn an out-of-memory error in a step into a ValueError that names settings to change."""
        parts = self.training.grad_accum_steps
        return explain_out_of_memory(
            f"a step of {self.name} on {self.device}, of {pluralize(views, 'view')} in "
            f"{pluralize(parts, 'part')},",
            f"--set {self.section}.grad_accum_steps={2 * parts} passes them through the network in "
            f"smaller parts, or choose a lower --set {self.section}.batch_size",
        )

    def log_epoch(self, row: dict[str, Any]) -> None:
        """Log one line about an epoch, given its row of `metrics.jsonl`."""
        pck = row.get("validation_pck")
        now = time.monotonic()
        # The row has the steps' time, with that before a stop; the clock also has the scoring's.
        epoch_s = max(row["seconds"], now - self._epoch_ended_at)
        self._epoch_ended_at = now
        log.info(
            "%s epoch %d/%d: loss %.4g%s, %.0f images/s%s",
            self.name,
            row["epoch"],
            self.training.epochs,
            row["loss"],
            "" if pck is None else f", validation PCK {100 * pck:.1f}",
            row["images_per_s"],
            self._left((self.training.epochs - row["epoch"]) * epoch_s),
        )

    def _run_seconds_left(self, progress: Progress, steps: int) -> float:
        """The time of the run's remaining steps, at the epoch's pace so far."""
        epochs_left = self.training.epochs - progress.epoch
        return progress.sums["seconds"] / progress.step * (epochs_left * steps - progress.step)

    def _left(self, seconds: float) -> str:
        """The time left of the whole run, for the end of a line; patience may end it earlier."""
        if not seconds:
            return ""
        most = "" if self.training.patience is None else "at most "
        return f", {most}{format_duration(seconds)} left"

    def log_early_stop(self, progress: Progress) -> None:
        """Log why a run ends before its last epoch."""
        log.info(
            "%s: no better validation PCK since epoch %d: stopped after %d of %d epochs",
            self.name,
            progress.best_epoch,
            progress.epoch,
            self.training.epochs,
        )

    def warn_if_collapsed(self, sums: dict[str, float], epoch: int) -> None:
        """Warn if the network has collapsed.

        Args:
            sums: the epoch's; see `Progress`. Its second half decides, when the loss of a new
                network has come down.
            epoch: from 1.
        """
        prefix = "late_" if "late_loss" in sums else ""
        collapsed_loss = max(sums[f"{prefix}collapsed_loss"], 1e-12)
        ratio = sums[f"{prefix}loss"] / collapsed_loss
        if abs(ratio - 1) > COLLAPSED:
            return
        remedy = (
            f"change the learning rate (--set {self.section}.learning_rate="
            f"{self.stated_learning_rate * 3:g})"
        )
        if not isinstance(self.training, Student) or self.training.alpha < 1:  # has such targets
            wider = self.recipe.targets.sigma_px * 2
            remedy = f"widen the target (--set targets.sigma_px={wider:g}) or {remedy}"
        log.warning(
            "warning: in epoch %d the loss is %.2f of collapsed_loss, that of heatmaps that ignore "
            "the image. If this lasts, the network has collapsed: %s",
            epoch,
            ratio,
            remedy,
        )

    def log_more_workers(self, row: dict[str, Any], workers: int, more: int) -> None:
        """Log that the next epochs have `more` loader processes than this one's `workers`."""
        log.info(
            "%s: %.0f %% of epoch %d was spent waiting for data: %d loader processes instead of %d",
            self.name,
            100 * row["data_wait_fraction"],
            row["epoch"],
            more,
            workers,
        )

    def warn_of_slow_loading(self, row: dict[str, Any], workers: int) -> None:
        """Warn once that an epoch spent much of its time waiting for data, and name a remedy.

        Args:
            row: the epoch's row of `metrics.jsonl`.
            workers: its number of loader processes.
        """
        if self._warned_of_slow_loading:
            return
        self._warned_of_slow_loading = True
        enough, cores = enough_workers(workers, row["data_wait_fraction"]), usable_cores()
        advice = (
            f"give this process more than its {pluralize(cores, 'core')}, or use smaller images"
        )
        if workers < enough:
            advice = f"use more loader processes (--set loader.workers={enough}), or {advice}"
        log.warning(
            "warning: %.0f %% of epoch %d was spent waiting for data (loader.workers = %d): %s; "
            "see docs/performance.md",
            100 * row["data_wait_fraction"],
            row["epoch"],
            workers,
            advice,
        )

    @property
    def section(self) -> str:
        """The section of the recipe that holds the model's settings."""
        return self.recipe.section(self.name)
