"""The training loop of teachers and students: resumable at any step, honest about trouble."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...data.samples import SampleSet
from ..config.recipe import Recipe
from ..config.sections import Training
from ..evaluation.inference import score
from ..evaluation.pck import Pck
from ..models.checkpoint import ModelDir, save_weights
from ..models.offset import fix_offset
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.interrupt import Interrupted, Stop, stop_requested
from ..runtime.text import pluralize
from .checkpoint import Identity, TrainingState
from .monitor import Monitor
from .objective import Batch, Losses, Objective
from .progress import ProgressReporter
from .sampler import EpochSampler
from .step import train_step

CHECKPOINT_EVERY_S = 300.0
COLLECT_EVERY = 10  # steps; collecting losses waits for the device


class Diverged(ValueError):
    """The loss is not finite."""


@dataclass
class Run:
    """One training run: what is trained, on what, and where it is kept.

    Attributes:
        log_mass: what heatmaps are shifted to when the network is scored; see `models.offset`.
        network: that of `state`, as it is called in training.
    """

    recipe: Recipe
    training: Training
    objective: Objective
    state: TrainingState
    loader: DataLoader[Any]
    batches: EpochSampler
    validation: SampleSet
    out: ModelDir
    identity: Identity
    log_mass: float | None
    device: torch.device
    monitor: Monitor
    group: ProcessGroup = SINGLE_PROCESS
    network: nn.Module = field(init=False)
    tell: ProgressReporter = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.group.wrap(
            self.state.network, self.device, synchronized=self.training.sync_batch_norm
        )
        self.tell = ProgressReporter(self.out.name, self.recipe, self.training, self.device)

    def train(self) -> None:
        """Train to the last epoch, from wherever `state` stands.

        Raises:
            Interrupted: after a signal, with everything saved.
            Diverged: the loss became NaN or infinite; the last checkpoint stands.
        """
        progress = self.state.progress
        with stop_requested() as stop:
            while progress.epoch < self.training.epochs and not self._out_of_patience():
                self._epoch(stop)
                self._finish_epoch(stop)
                self._save()
                self._stop_if(stop)
        if progress.epoch < self.training.epochs:
            self.tell.stopped_early(progress)

    def _out_of_patience(self) -> bool:
        patience, progress = self.training.patience, self.state.progress
        return patience is not None and progress.epoch - max(progress.best_epoch, 0) >= patience

    def _epoch(self, stop: Stop) -> None:
        progress, saved_at = self.state.progress, time.monotonic()
        self.batches.set_epoch(progress.epoch, progress.step)
        self.state.network.train()
        losses: list[Tensor] = []
        with self.tell.bar(progress, self.batches.steps, silent=not self.group.is_first) as bar:
            started = time.perf_counter()
            for batch in self.loader:
                arrived = time.perf_counter()
                losses.append(self._step(batch))
                progress.step += 1
                number, last = self._asked_to(stop), progress.step == self.batches.steps
                if len(losses) == COLLECT_EVERY or number or last:
                    self._collect(losses)
                finished = time.perf_counter()
                progress.add(seconds=finished - started, data_wait_s=arrived - started)
                started = finished
                self.tell.show(bar, progress)
                if number:
                    self._stop(number)
                if not losses and time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                    self._save()
                    saved_at = time.monotonic()

    def _step(self, batch: Batch) -> Tensor:
        """One optimizer step; see `train_step`."""
        share = len(batch["crop"]) / self.batches.size(self.state.progress.step)
        with self.tell.explain_out_of_memory(len(batch["crop"])):
            return train_step(
                self.state,
                self.network,
                self.objective,
                self.training,
                batch,
                share * self.group.size,
                self.device,
            )

    def _collect(self, losses: list[Tensor]) -> None:
        """Add the losses of the last steps, of all processes, to the epoch's sums."""
        progress = self.state.progress
        late = progress.step > self.batches.steps // 2
        for *noted, images in self.group.sum(torch.stack(losses)).tolist():
            loss, collapsed_loss = noted[:2]
            self._check_finite(loss)
            progress.add(**dict(zip(Losses._fields, noted, strict=True)), images=images)
            if late:
                progress.add(late_loss=loss, late_collapsed_loss=collapsed_loss)
        losses.clear()

    def _check_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        progress = self.state.progress
        raise Diverged(
            f"the loss became {loss} in epoch {progress.epoch + 1} by step "
            f"{progress.step} (learning rate {self._rate():.2g}): train again with a lower "
            f"one, --set {self.tell.section}.learning_rate={self.training.learning_rate / 3:.2g}, "
            f"after removing {self.out.path}"
        )

    def _finish_epoch(self, stop: Stop) -> None:
        """Score the network, note the epoch, and keep its weights if they are the best so far."""
        progress = self.state.progress
        row, scored, pck = self._row(), None, None
        if len(self.validation):
            scored = self._score(stop)
            pck = row["validation_pck"] = scored.mean
        progress.history.append(row)
        if pck is None or pck > progress.best_pck:
            progress.best_pck = -1.0 if pck is None else pck
            progress.best_epoch = progress.epoch + 1
            if self.group.is_first:
                save_weights(self.state.trained, self.out)
        self.tell.epoch(row)
        self.monitor.epoch(progress.history, scored, self._asked())
        self.tell.warn_if_collapsed(progress.sums, progress.epoch + 1)
        self.tell.warn_if_starved(row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def _row(self) -> dict[str, Any]:
        """What `metrics.jsonl` says of the epoch, of the slowest process where there are more."""
        progress = self.state.progress
        sums, images = progress.sums, progress.sums["images"]
        seconds, waiting, peak = self.group.highest(
            [sums["seconds"], sums["data_wait_s"], peak_memory_mb(self.device)]
        )
        return {
            "epoch": progress.epoch + 1,
            "loss": sums["loss"] / images,
            "collapsed_loss": sums["collapsed_loss"] / images,
            **self._parts(sums),
            "learning_rate": self._rate(),
            "seconds": seconds,
            "images_per_s": images / seconds,
            "data_wait_fraction": waiting / seconds,
            "peak_memory_mb": peak,
        }

    def _score(self, stop: Stop) -> Pck:
        self.group.same_buffers(self.state.trained)
        try:
            return score(self._asked(), self.recipe, self.validation, self.device, self.group, stop)
        except Interrupted as asked:  # the epoch's steps are done; the next run scores it
            self._stop(asked.signal)

    def _parts(self, sums: dict[str, float]) -> dict[str, float]:
        """The two losses that a distilled student's is mixed of."""
        alpha = getattr(self.training, "alpha", 0.0)
        names = ("pose_loss", "kd_pose_loss") if alpha > 0 else ()
        return {name: sums[name] / sums["images"] for name in names}

    def _asked(self) -> nn.Module:
        """The network as it is asked: what `load_model` makes of its weights."""
        return fix_offset(self.state.trained, self.log_mass)

    def _rate(self) -> float:
        return float(self.state.optimizer.param_groups[0]["lr"])

    def _save(self) -> None:
        if self.group.is_first:
            self.state.save(self.out, self.identity)

    def _asked_to(self, stop: Stop) -> int:
        """The signal, if any, that asked any of the processes to stop: all of them do then."""
        return int(self.group.highest([stop.signal])[0])

    def _stop_if(self, stop: Stop) -> None:
        number = self._asked_to(stop)
        if number:
            self._stop(number)

    def _stop(self, number: int) -> NoReturn:
        self._save()
        self.group.wait()  # whoever ends first may end the others, who may still be writing
        progress = self.state.progress
        raise Interrupted(
            f"{self.out.name} stopped after {progress.epoch} of {self.training.epochs} epochs and "
            f"{pluralize(progress.step, 'step')}; the same command continues from there",
            number,
        )


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has had so far, MB: the GPU's where it trains there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts KiB
