"""The training loop of teachers and students, which can be stopped and resumed at any step."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
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
from ..models.checkpoint import save_weights
from ..models.model_dir import ModelDir
from ..models.offset import fix_offset
from ..runtime.device import enough_workers
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.interrupt import Interrupted, Stop, stop_requested
from ..runtime.text import pluralize
from .checkpoint import Identity, TrainingState
from .monitor import Monitor
from .objective import Batch, Losses, Objective
from .progress import ProgressReporter, loading_is_slow
from .sampler import EpochSampler
from .step import replayed, train_step

CHECKPOINT_EVERY_S = 300.0

COLLECT_EVERY = 10
"""Steps between transfers of losses to the CPU, each of which waits for the device."""


class Diverged(ValueError):
    """The loss is not finite."""


@dataclass
class Run:
    """One training run.

    Attributes:
        stated_learning_rate: that of the settings; `training` has it for its batch size.
        state: the network and all else that changes; training continues from its progress.
        make_loader: makes a loader of `sampler`'s batches with `workers` processes.
        validation: scored after every epoch; may be empty.
        out: the folder of checkpoints, weights and metrics.
        log_mass: the log mass that heatmaps are shifted to when the network is scored (see
            `models.offset`); None: they are not shifted.
        network: `state.network`, wrapped so that processes exchange gradients, or replayed from
            CUDA graphs.
        loader: the batches of `sampler`.
        reporter: logs progress.
    """

    recipe: Recipe
    training: Training
    stated_learning_rate: float
    objective: Objective
    state: TrainingState
    make_loader: Callable[..., DataLoader[Any]]
    sampler: EpochSampler
    validation: SampleSet
    out: ModelDir
    identity: Identity
    log_mass: float | None
    device: torch.device
    monitor: Monitor
    group: ProcessGroup = SINGLE_PROCESS
    network: nn.Module = field(init=False)
    loader: DataLoader[Any] = field(init=False)
    reporter: ProgressReporter = field(init=False)

    def __post_init__(self) -> None:
        network = self.state.network
        if self.group.size == 1:
            self.network = replayed(network, self.training, self.device)
        else:
            self.network = self.group.wrap(
                network, self.device, synchronized=self.training.sync_batch_norm
            )
        self.loader = self.make_loader(workers=self.recipe.loader.workers)
        self.reporter = ProgressReporter(
            self.out.name, self.recipe, self.training, self.device, self.stated_learning_rate
        )

    def train(self) -> None:
        """Train from the progress of `state` to the last epoch, or until patience runs out.

        Raises:
            Interrupted: after a signal, with everything saved.
            Diverged: the loss became NaN or infinite; the last checkpoint is unaffected.
        """
        progress = self.state.progress
        self.reporter.log_start(progress, self.sampler.steps)
        with stop_requested() as stop:
            while progress.epoch < self.training.epochs and not self._out_of_patience():
                self._train_epoch(stop)
                self._finish_epoch(stop)
                self._save()
                signal = self._stop_signal(stop)
                if signal:
                    self._interrupt(signal)
        if progress.epoch < self.training.epochs:
            self.reporter.log_early_stop(progress)

    def _out_of_patience(self) -> bool:
        patience, progress = self.training.patience, self.state.progress
        return patience is not None and progress.epoch - max(progress.best_epoch, 0) >= patience

    def _train_epoch(self, stop: Stop) -> None:
        """Take the remaining steps of the current epoch."""
        progress, saved_at = self.state.progress, time.monotonic()
        self.sampler.set_epoch(progress.epoch, progress.step)
        self.state.network.train()
        uncollected: list[Tensor] = []
        silent = not self.group.is_first
        with self.reporter.bar(progress, self.sampler.steps, silent=silent) as bar:
            step_start = time.perf_counter()
            for batch in self.loader:
                batch_arrived = time.perf_counter()
                uncollected.append(self._step(batch))
                progress.step += 1
                signal, is_last = self._stop_signal(stop), progress.step == self.sampler.steps
                if len(uncollected) == COLLECT_EVERY or signal or is_last:
                    self._collect(uncollected)
                step_end = time.perf_counter()
                progress.add(seconds=step_end - step_start, data_wait_s=batch_arrived - step_start)
                step_start = step_end
                self.reporter.update(bar, progress)
                if signal:
                    self._interrupt(signal)
                if not uncollected and time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                    self._save()
                    saved_at = time.monotonic()

    def _step(self, batch: Batch) -> Tensor:
        """Take one optimizer step. Returns sums over views; see `train_step`."""
        views = len(batch["crop"])
        share = views / self.sampler.size(self.state.progress.step)
        with self.reporter.explain_out_of_memory(views):
            return train_step(
                state=self.state,
                network=self.network,
                objective=self.objective,
                training=self.training,
                batch=batch,
                loss_weight=share * self.group.size,
                device=self.device,
            )

    def _collect(self, step_sums: list[Tensor]) -> None:
        """Add the sums of the last steps, over all processes, to the epoch's; empties the list."""
        progress = self.state.progress
        second_half = progress.step > self.sampler.steps // 2
        losses_by_step = []
        for *values, images in self.group.sum(torch.stack(step_sums)).tolist():
            losses = dict(zip(Losses._fields, values, strict=True))
            self._check_finite(losses["loss"])
            progress.add(**losses, images=images)
            if second_half:
                progress.add(late_loss=losses["loss"], late_collapsed_loss=losses["collapsed_loss"])
            losses_by_step.append({name: value / images for name, value in losses.items()})
        self.monitor.after_steps(progress.epoch + 1, progress.step, losses_by_step)
        step_sums.clear()

    def _check_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        progress = self.state.progress
        setting = f"{self.reporter.section}.learning_rate"
        raise Diverged(
            f"the loss became {loss} in epoch {progress.epoch + 1} by step {progress.step} "
            f"(learning rate {self._learning_rate():.2g}): remove {self.out.path} and train again "
            f"with a lower learning rate, --set {setting}={self.stated_learning_rate / 3:.2g}"
        )

    def _finish_epoch(self, stop: Stop) -> None:
        """Score the network, record the epoch, and save the weights if they are the best so far."""
        progress = self.state.progress
        row, validation_score, pck = self._metrics(), None, None
        if len(self.validation):
            validation_score = self._score(stop)
            pck = row["validation_pck"] = validation_score.mean
        progress.history.append(row)
        if pck is None or pck > progress.best_pck:
            progress.best_pck = -1.0 if pck is None else pck
            progress.best_epoch = progress.epoch + 1
            if self.group.is_first:
                progress.weights_sha256 = save_weights(self.state.trained, self.out)
        self.reporter.log_epoch(row)
        self.monitor.after_epoch(progress.history, validation_score, self._scored_network())
        self.reporter.warn_if_collapsed(progress.sums, progress.epoch + 1)
        if loading_is_slow(row):
            self._load_faster(row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def _load_faster(self, row: dict[str, Any]) -> None:
        """After an epoch that waited for data: more loader processes, or advice.

        On a CPU, their cores would be taken from the network. Results do not depend on them.
        """
        workers = self.loader.num_workers
        enough = enough_workers(workers, row["data_wait_fraction"])
        is_automatic = self.recipe.loader.workers is None and self.device.type == "cuda"
        if is_automatic and enough > workers:
            self.reporter.log_more_workers(row, workers, enough)
            self.loader = self.make_loader(workers=enough)
        else:
            self.reporter.warn_of_slow_loading(row, workers)

    def _metrics(self) -> dict[str, Any]:
        """The epoch's row of `metrics.jsonl`, with the times and memory of the slowest process."""
        progress = self.state.progress
        sums, images = progress.sums, progress.sums["images"]
        seconds, data_wait_s, peak_mb = self.group.max(
            [sums["seconds"], sums["data_wait_s"], peak_memory_mb(self.device)]
        )
        terms = ("pose_loss", "kd_pose_loss") if getattr(self.training, "alpha", 0.0) > 0 else ()
        return {
            "epoch": progress.epoch + 1,
            **{name: sums[name] / images for name in ("loss", "collapsed_loss", *terms)},
            "learning_rate": self._learning_rate(),
            "seconds": seconds,
            "images_per_s": images / seconds,
            "data_wait_fraction": data_wait_s / seconds,
            "peak_memory_mb": peak_mb,
        }

    def _score(self, stop: Stop) -> Pck:
        self.group.broadcast_buffers(self.state.trained)
        try:
            return score(
                self._scored_network(),
                self.recipe,
                self.validation,
                self.device,
                self.group,
                stop,
            )
        except Interrupted as interrupted:
            # The epoch's steps are saved; the resumed run scores the network.
            self._interrupt(interrupted.signal)

    def _scored_network(self) -> nn.Module:
        """The network as `load_model` will load it from the saved weights."""
        return fix_offset(self.state.trained, self.log_mass)

    def _learning_rate(self) -> float:
        return float(self.state.optimizer.param_groups[0]["lr"])

    def _save(self) -> None:
        if self.group.is_first:
            self.state.save(self.out, self.identity)

    def _stop_signal(self, stop: Stop) -> int:
        """The number of the signal that any of the processes received, the same in all; 0: none."""
        return int(self.group.max([stop.signal])[0])

    def _interrupt(self, signal: int) -> NoReturn:
        """Save everything and end the run.

        Raises:
            Interrupted: always.
        """
        self._save()
        # The launcher may end the other processes when one has ended, and one is still writing.
        self.group.barrier()
        progress = self.state.progress
        raise Interrupted(
            f"{self.out.name} stopped after {progress.epoch} of {self.training.epochs} epochs and "
            f"{pluralize(progress.step, 'step')}; the same command continues from there",
            signal,
        )


def peak_memory_mb(device: torch.device) -> float:
    """This process's peak memory so far, MB: of the GPU if `device` is one, otherwise resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6  # CUDA graphs' memory included
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts KiB
