"""Chooses `batch_size = auto`: what fits a GPU's memory, in trial steps with the real network.

Sizes are the base (`base_batch_size`) times a power of two. A larger batch gets a higher learning
rate, by the square root of the ratio: the rule of Malladi et al., "On the SDEs and Scaling Rules
for Adaptive Gradient Algorithms" (NeurIPS 2022), for RMSProp and Adam.

The choice is part of a run's identity, in its checkpoint and its record: whoever resumes the run,
on whatever device, has the same batches.
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import default_collate

from ..config.sections import Training
from ..models.model_dir import ModelDir
from ..runtime.distributed import ProcessGroup
from ..runtime.memory import is_out_of_memory
from ..runtime.text import pluralize
from .checkpoint import Identity, TrainingState, saved_identity
from .dataset import TrainingData
from .objective import Batch, Objective
from .step import replayed, train_step

log = logging.getLogger("fpd")

MAX_GROWTH = 16
"""Largest multiple of the base: the learning rate is at most four times the stated one."""

MIN_STEPS = 20
"""Steps of an epoch that a larger batch leaves: a network learns by steps."""

FREE_SHARE = 0.1
"""Share of the GPU's memory that a trial must leave, for what trials do not have: the exchange of
gradients between processes, and validation."""

TRIAL_STEPS = 2
"""The optimizer's state is allocated in the first one."""

LOADED_VIEWS = 8
"""Views that are loaded for trials; batches repeat them."""


@dataclass(frozen=True)
class Trial:
    """What a trial step needs.

    Attributes:
        make_state: makes a network and its optimizer, as training starts with.
    """

    training: Training
    objective: Objective
    data: TrainingData
    device: torch.device
    make_state: Callable[[], TrainingState]

    def fits(self, views: int) -> bool:
        """Whether steps on this many views leave `FREE_SHARE` of the GPU's memory."""
        _release(self.device)  # the peak of an earlier stage in this process is not this trial's
        available = _available_bytes(self.device)
        try:
            self._run(views)
            used = _reserved_bytes(self.device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            _release(self.device)
        return used <= (1 - FREE_SHARE) * available

    def _run(self, views: int) -> None:
        state = self.make_state()
        state.network.train()
        network = replayed(state.network, self.training, self.device)
        batch = self._batch(views)
        for _ in range(TRIAL_STEPS):
            train_step(
                state=state,
                network=network,
                objective=self.objective,
                training=self.training,
                batch=batch,
                loss_weight=1.0,
                device=self.device,
            )

    def _batch(self, views: int) -> Batch:
        """A batch of a few of the training views, repeated."""
        sampler = self.data.sampler(views, self.training.seed)
        indices = sampler.keep_N.nonzero()[0][:LOADED_VIEWS].tolist()
        loaded = default_collate([self.data.dataset[key] for key in sampler.keys(indices)])
        rows = torch.arange(views) % len(indices)
        return {name: values[rows] for name, values in loaded.items()}


def settled(training: Training, out: ModelDir) -> Training:
    """The settings of a finished run, with its batch size where they have "auto".

    Raises:
        ValueError: its record has none.
    """
    if training.batch_size != "auto":
        return training
    return scaled(training, _batch_size_of(out, out.record()["identity"]))


def choose(
    training: Training,
    out: ModelDir,
    group: ProcessGroup,
    trial: Trial,
) -> Training:
    """The settings to train with: where they have "auto", a batch size, and its learning rate.

    It is that of the checkpoint if there is one, the same in all processes: what fits the smallest
    of their devices.

    Args:
        trial: what is tried on a GPU.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    if training.batch_size != "auto":
        return training
    assert training.base_batch_size is not None
    identity = saved_identity(out) if group.is_first else None
    before = 0 if identity is None else _batch_size_of(out, identity)
    batch_size = int(group.max([before])[0])
    if not batch_size:
        batch_size = _find(training.base_batch_size, trial, group)
    chosen = scaled(training, batch_size)
    log.info(
        "%s: batches of %s (batch_size = auto), learning rate %.3g (%.3g for batches of %d)",
        out.name,
        pluralize(batch_size, "view"),
        chosen.learning_rate,
        training.learning_rate,
        training.base_batch_size,
    )
    return chosen


def scaled(training: Training, batch_size: int) -> Training:
    """The same settings with a batch size, and the learning rate for it."""
    assert training.base_batch_size is not None
    factor = math.sqrt(batch_size / training.base_batch_size)
    update = {"batch_size": batch_size, "learning_rate": training.learning_rate * factor}
    return training.model_copy(update=update)


def largest_batch(base: int, most: int, fits: Callable[[int], bool]) -> int:
    """The largest base · 2^n up to `most` that fits; where the base does not, smaller ones.

    Returns:
        1 if nothing fits: training then says so.
    """
    if fits(base):
        while 2 * base <= most and fits(2 * base):
            base *= 2
        return base
    while base > 1:
        base //= 2
        if fits(base):
            break
    return base


def _find(base: int, trial: Trial, group: ProcessGroup) -> int:
    """The batch size of a new run, over all processes of the group."""
    if trial.device.type != "cuda":
        return base
    keep_N = trial.data.keep_N
    count = len(trial.data.samples) if keep_N is None else int(keep_N.sum())
    most = min(MAX_GROWTH * base, count // MIN_STEPS)

    def fits(views: int) -> bool:
        return trial.fits(-(-views // group.size))

    # Each process tries by itself: a device may be in use by others, too.
    return int(-group.max([-largest_batch(base, most, fits)])[0])


def _batch_size_of(out: ModelDir, identity: Mapping[str, Any] | Identity) -> int:
    try:
        value = identity["settings"]["training"]["batch_size"]
    except (KeyError, TypeError):
        value = None
    if type(value) is not int or value < 1:
        raise ValueError(
            f"{out.path}: expected the batch size of its run, found {value!r:.80}: restore it, or "
            f"remove {out.path} to start over"
        )
    return value


def _available_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process can have, with what it has reserved already."""
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def _reserved_bytes(device: torch.device) -> int:
    """The most that PyTorch reserved on a GPU since the last `_release`; 0 on a CPU."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


def _release(device: torch.device) -> None:
    """Give back the memory of a trial, so that neither the next one nor the run's peak has it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
