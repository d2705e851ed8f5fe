"""One optimizer step: forward pass, loss, backward pass, and updates."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ..config.sections import Training
from ..models.preprocessing import normalize
from ..runtime.cuda_graphs import ReplayedNetwork
from ..runtime.distributed import no_sync
from .checkpoint import TrainingState
from .objective import Batch, Losses, Objective


def train_step(
    state: TrainingState,
    network: nn.Module,
    objective: Objective,
    training: Training,
    batch: Batch,
    loss_weight: float,
    device: torch.device,
) -> Tensor:
    """Take one optimizer step on this process's share of the batch.

    Args:
        state: updated in place.
        network: `state.network`, wrapped so that processes exchange gradients, or `replayed`.
        loss_weight: factor on the mean loss of this share. Gradients are averaged over processes;
            the factor makes each view of the whole batch count equally. 1 if all shares have the
            same size.

    Returns:
        float32 (5,), on the device: sums over this share's views of each field of `Losses` (0 for
        those that are None), and the number of views.
    """
    state.optimizer.zero_grad(set_to_none=True)
    views = len(batch["crop"])
    parts = split(batch, min(training.grad_accum_steps, views))
    sums = torch.zeros(5, device=device)
    for number, part in enumerate(parts, 1):
        with nullcontext() if number == len(parts) else no_sync(network):
            crop = normalize(part["crop"], device)
            with autocast(training, device):
                stages = network(crop)
            losses = objective(stages, part)
            (losses.loss * (loss_weight * len(crop) / views)).backward()  # type: ignore[no-untyped-call]
        sums += _stacked(losses) * len(crop)
    if training.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(state.network.parameters(), training.clip_grad_norm)
    state.optimizer.step()
    state.lr_scheduler.step()
    if state.averaged is not None:
        state.averaged.update_parameters(state.network)
    return sums


def replayed(network: nn.Module, training: Training, device: torch.device) -> nn.Module:
    """The network as `train_step` is to run it in a single process: on a GPU, from CUDA graphs.

    Not where a step has several backward passes, which replaying does not accumulate, nor with
    `torch.compile`, nor in a thread: what another thread runs meanwhile would disturb a recording.
    """
    in_thread = threading.current_thread() is not threading.main_thread()
    if device.type != "cuda" or not training.cuda_graphs or in_thread:
        return network
    if training.grad_accum_steps > 1 or training.compile:
        return network
    return ReplayedNetwork(network)


def _stacked(losses: Losses) -> Tensor:
    """The four losses, 0 for those that are None, and 1; float32 (5,), without gradient."""
    one = torch.ones_like(losses.collapsed_loss)
    return torch.stack([0 * one if loss is None else loss.detach() for loss in (*losses, one)])


def split(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into parts whose sizes differ by at most one view."""
    if parts == 1:
        return [batch]
    columns = {key: values.tensor_split(parts) for key, values in batch.items()}
    return [{key: column[i] for key, column in columns.items()} for i in range(parts)]


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """The context in which the forward pass runs at the precision of the settings."""
    precision = training.precision
    use_bfloat16 = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16)
