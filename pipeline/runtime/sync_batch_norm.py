"""Batch normalization with the statistics of all processes' views."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

TIMMS = ["drop", "act"]
"""What timm's BatchNormAct2d does after the normalization, in this order, within one module."""


def synchronize(network: nn.Module, device: torch.device) -> None:
    """Have a network's batch normalizations, in place, take the statistics of the whole batch.

    On a GPU these are PyTorch's own `SyncBatchNorm`, which knows no other device. Names of weights
    and buffers stay.

    Raises:
        ValueError: there is a kind of batch normalization that is not known here.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _synchronized(module, device))


def _synchronized(module: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    after = [name for name, _ in module.named_children()]
    if type(module) is not nn.BatchNorm2d and after != TIMMS:
        raise ValueError(
            f"no synchronized form of {type(module).__name__} is known: "
            "--set student.sync_batch_norm=false (or teacher.) has each process use its own views"
        )
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    else:
        synced = _CpuSyncBatchNorm.of(module)
    for name in after:  # which both have still, and neither calls
        synced.register_forward_hook(partial(_then, name))
    return synced


def _then(name: str, module: nn.Module, _: Any, output: Tensor) -> Tensor:
    after: Tensor = module.get_submodule(name)(output)
    return after


class _CpuSyncBatchNorm(nn.BatchNorm2d):
    """The same on CPUs: mean and variance over the views of all processes.

    The gradient passes through the exchange.
    """

    @classmethod
    def of(cls, module: nn.BatchNorm2d) -> _CpuSyncBatchNorm:
        synced = cls(module.num_features, eps=module.eps, momentum=module.momentum)
        synced.__dict__.update(module.__dict__)  # the same parameters, not copies of them
        return synced

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.to(self.weight.dtype)  # not in the half precision of its convolution
        here = values.new_full((1,), values.numel() / self.num_features)
        sums = _sum(torch.cat([values.sum((0, 2, 3)), here]))
        count = sums[-1].detach()
        centerd = values - (sums[:-1] / count)[:, None, None]
        # From the centerd values: the difference of two large sums would lose the digits.
        variance = _sum(centerd.square().sum((0, 2, 3))) / count
        self._track(sums[:-1].detach() / count, variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalized: Tensor = centerd * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, every process's loss depending on it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total
