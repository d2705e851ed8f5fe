"""The training loop of teachers and students: resumable at any step, honest about trouble."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ...data.samples import SampleSet
from ..inference import score
from ..inputs import normalise
from ..recipe import Recipe, Training
from ..workdir import ModelDir
from .checkpoint import Identity, TrainingState, save_weights
from .feed import EpochBatches
from .objective import Batch, Objective

log = logging.getLogger("fpd")

CHECKPOINT_EVERY_S = 300.0
COLLECT_EVERY = 10  # steps; collecting losses waits for the device

# A network whose loss is this near that of an all-zero answer gives just that answer. (A fresh one
# starts above, and is not to be warned of while it comes down.)
COLLAPSED = 0.03


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the run was saved and the same command continues it."""


class Diverged(ValueError):
    """The loss is not finite."""


@dataclass
class Run:
    """One training run: what is trained, on what, and where it is kept."""

    recipe: Recipe
    training: Training
    objective: Objective
    state: TrainingState
    loader: DataLoader[Any]
    batches: EpochBatches
    validation: SampleSet
    out: ModelDir
    identity: Identity
    device: torch.device

    def train(self) -> None:
        """Train to the last epoch, from wherever `state` stands.

        Raises:
            Interrupted: after a signal, with everything saved.
            Diverged: the loss became NaN or infinite; the last checkpoint stands.
        """
        progress = self.state.progress
        with stop_requested() as stop:
            while progress.epoch < self.training.epochs:
                self._epoch(stop)
                self._finish_epoch()
                self._save()
                if stop.is_set():
                    self._stop()

    def _epoch(self, stop: threading.Event) -> None:
        progress, saved_at = self.state.progress, time.monotonic()
        self.batches.set(progress.epoch, progress.step)
        self.state.network.train()
        losses: list[Tensor] = []
        with self._bar() as bar:
            started = time.perf_counter()
            for batch in self.loader:
                arrived = time.perf_counter()
                losses.append(self._step(batch))
                progress.step += 1
                stopping, last = stop.is_set(), progress.step == self.batches.steps
                if len(losses) == COLLECT_EVERY or stopping or last:
                    self._collect(losses)
                finished = time.perf_counter()
                progress.add(seconds=finished - started, waiting=arrived - started)
                started = finished
                self._show(bar)
                if stopping:
                    self._stop()
                if not losses and time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                    self._save()
                    saved_at = time.monotonic()

    def _step(self, batch: Batch) -> Tensor:
        """One optimiser step. Returns (loss, zero_loss, 1) x images, float32, on the device."""
        crop = normalise(batch["crop"], self.device)
        with self._autocast():
            stages = self.state.network(crop)
        loss, zero_loss = self.objective(stages, batch)
        self.state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.state.optimiser.step()
        self.state.schedule.step()
        return torch.stack([loss.detach(), zero_loss, torch.ones_like(zero_loss)]) * len(crop)

    def _collect(self, losses: list[Tensor]) -> None:
        """Add the losses of the last steps to the epoch's sums."""
        progress = self.state.progress
        late = progress.step > self.batches.steps // 2
        for loss, zero_loss, images in torch.stack(losses).tolist():
            self._check_finite(loss)
            progress.add(loss=loss, zero_loss=zero_loss, images=images)
            if late:
                progress.add(late_loss=loss, late_zero_loss=zero_loss)
        losses.clear()

    def _autocast(self) -> torch.autocast:
        wanted = self.training.precision
        on = wanted == "bfloat16" or (wanted == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _check_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        progress = self.state.progress
        raise Diverged(
            f"the loss became {loss} in epoch {progress.epoch + 1} by step "
            f"{progress.step} (learning rate {self._rate():.2g}): train again with a lower "
            f"one, --set {self._section()}.learning_rate={self.training.learning_rate / 3:.2g}, "
            f"after removing {self.out.path}"
        )

    def _finish_epoch(self) -> None:
        """Score the network, note the epoch, and keep its weights if they are the best so far."""
        progress = self.state.progress
        sums = progress.sums
        images = sums["images"]
        row: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "loss": sums["loss"] / images,
            "zero_loss": sums["zero_loss"] / images,
            "learning_rate": self._rate(),
            "seconds": sums["seconds"],
            "images_per_s": images / sums["seconds"],
            "waiting": sums["waiting"] / sums["seconds"],
        }
        pck = None
        if len(self.validation):
            pck = score(self.state.network, self.recipe, self.validation, self.device).mean
            row["validation_pck"] = pck
        progress.history.append(row)
        if pck is None or pck > progress.best_pck:
            progress.best_pck = -1.0 if pck is None else pck
            progress.best_epoch = progress.epoch + 1
            save_weights(self.state.network, self.out)
        self._tell(row)
        self._warn_if_collapsed(sums)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def _tell(self, row: dict[str, Any]) -> None:
        pck = row.get("validation_pck")
        log.info(
            "%s epoch %d/%d: loss %.4g%s, %.0f images/s",
            self.out.name,
            row["epoch"],
            self.training.epochs,
            row["loss"],
            "" if pck is None else f", validation PCK {100 * pck:.1f}",
            row["images_per_s"],
        )

    def _warn_if_collapsed(self, sums: dict[str, float]) -> None:
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
            self.state.progress.epoch + 1,
            share,
            self.recipe.targets.sigma_px * 2,
            self._section(),
            self.training.learning_rate * 3,
        )

    def _section(self) -> str:
        return self.recipe.section(self.out.name)

    def _rate(self) -> float:
        return float(self.state.optimiser.param_groups[0]["lr"])

    def _save(self) -> None:
        self.state.save(self.out, self.identity)

    def _stop(self) -> None:
        self._save()
        progress = self.state.progress
        raise Interrupted(
            f"{self.out.name} stopped after {progress.epoch} of {self.training.epochs} epochs and "
            f"{progress.step} steps; the same command continues from there"
        )

    def _bar(self) -> tqdm[Any]:
        progress = self.state.progress
        return tqdm(
            total=self.batches.steps,
            initial=progress.step,
            desc=f"{self.out.name} {progress.epoch + 1}/{self.training.epochs}",
            unit="step",
            leave=False,
            disable=None,  # quiet where there is no terminal
        )

    def _show(self, bar: tqdm[Any]) -> None:
        sums, pck = self.state.progress.sums, self.state.progress.best_pck
        bar.update()
        if "images" not in sums:
            return
        bar.set_postfix_str(
            f"loss {sums['loss'] / sums['images']:.4g}, "
            + (f"best PCK {100 * pck:.1f}, " if pck >= 0 else "")
            + f"{sums['images'] / sums['seconds']:.0f} images/s",
            refresh=False,
        )


@contextmanager
def stop_requested() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
