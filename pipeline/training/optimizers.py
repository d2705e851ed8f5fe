"""PyTorch's optimizers and learning-rate schedulers by the names used in recipes."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from ..config.sections import Training


def make_optimizer(training: Training, network: nn.Module) -> Optimizer:
    """AdamW, or the paper's RMSProp (section 4; alpha and eps as in Torch7: 0.99 and 1e-8)."""
    if training.optimizer == "rmsprop":
        return RMSprop(network.parameters(), lr=training.learning_rate, alpha=0.99, eps=1e-8)
    return AdamW(
        network.parameters(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        # For small networks, the unfused update is a tenth of a step (measured on a CPU).
        fused=True,
    )


def make_lr_scheduler(training: Training, optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """The scheduler of `training.lr_schedule` over `total_steps` optimizer steps."""
    if training.lr_schedule == "one-cycle":
        return OneCycleLR(
            optimizer,
            max_lr=training.learning_rate,
            total_steps=max(total_steps, 2),
            pct_start=training.warmup_fraction,
            cycle_momentum=False,
        )
    if training.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=total_steps)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)
