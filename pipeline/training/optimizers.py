"""Optimizers and learning-rate schedules, PyTorch's own, by the recipe's names."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer, RMSprop, lr_scheduler

from ..config.sections import Training


def make_optimizer(training: Training, network: nn.Module) -> Optimizer:
    """AdamW, or the RMSProp of the paper (section 4; alpha and eps as in Torch7: 0.99, 1e-8)."""
    rate = training.learning_rate
    if training.optimizer == "rmsprop":
        return RMSprop(network.parameters(), lr=rate, alpha=0.99, eps=1e-8)
    # Fused: the update of a small network is otherwise a tenth of its step (measured on a CPU).
    return AdamW(network.parameters(), lr=rate, weight_decay=training.weight_decay, fused=True)


def make_schedule(
    training: Training, optimizer: Optimizer, total_steps: int
) -> lr_scheduler.LRScheduler:
    """The learning rate over `total_steps` optimizer steps."""
    if training.lr_schedule == "one-cycle":
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=training.learning_rate,
            total_steps=max(total_steps, 2),
            pct_start=training.warmup_fraction,
            cycle_momentum=False,
        )
    if training.lr_schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps)
    return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
