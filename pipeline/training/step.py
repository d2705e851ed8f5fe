"""One optimizer step on one batch: forward, loss, backward, and what follows from the gradient."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..config.sections import Training
from ..models.preprocessing import normalize
from ..runtime.distributed import without_exchange
from .checkpoint import TrainingState
from .objective import Batch, Losses, Objective


def train_step(
    state: TrainingState,
    network: nn.Module,
    objective: Objective,
    training: Training,
    batch: Batch,
    weight: float,
    device: torch.device,
) -> Tensor:
    """Take one step, on this process's share of the batch.

    Args:
        network: that of `state`, as it is called: with its gradients exchanged between processes.
        weight: what a view of this share counts for in the exchanged gradient, times the views of
            the share: 1 where all shares are of one size.

    Returns:
        (`Losses`, 0 for those that are None, and 1) x views of this share, float32 (5,), on the
        device.
    """
    state.optimizer.zero_grad(set_to_none=True)
    views = len(batch["crop"])
    parts = split(batch, min(training.grad_accum_steps, views))
    total = torch.zeros(5, device=device)
    for number, part in enumerate(parts, 1):
        with nullcontext() if number == len(parts) else without_exchange(network):
            crop = normalize(part["crop"], device)
            with autocast(training, device):
                stages = network(crop)
            losses = objective(stages, part)
            (losses.loss * (weight * len(crop) / views)).backward()  # type: ignore[no-untyped-call]
        total += _noted(losses) * len(crop)
    if training.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(state.network.parameters(), training.clip_grad_norm)
    state.optimizer.step()
    state.schedule.step()
    if state.averaged is not None:
        state.averaged.update_parameters(state.network)
    return total


def _noted(losses: Losses) -> Tensor:
    one = torch.ones_like(losses.collapsed_loss)
    return torch.stack([0 * one if loss is None else loss.detach() for loss in (*losses, one)])


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch in as many parts, their sizes differing by one view at most."""
    if parts == 1:
        return [batch]
    columns = {key: values.tensor_split(parts) for key, values in batch.items()}
    return [{key: column[i] for key, column in columns.items()} for i in range(parts)]


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """The precision of the forward pass."""
    wanted = training.precision
    on = wanted == "bfloat16" or (wanted == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=on)
