"""Batch normalization over the views of all processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

TIMM_CHILDREN = ["drop", "act"]
"""Children of timm's BatchNormAct2d, which it applies after the normalization, in this order."""


def synchronize(network: nn.Module, device: torch.device) -> None:
    """Make a network's batch normalizations, in place, use the statistics of all processes.

    On a GPU they become PyTorch's own `SyncBatchNorm`, which supports no other device. The names of
    weights and buffers stay the same.

    Raises:
        ValueError: a subclass of `nn.BatchNorm2d` other than timm's cannot be converted.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _synchronized(module, device))


def _synchronized(module: nn.BatchNorm2d, device: torch.device) -> nn.Module:
    children = [name for name, _ in module.named_children()]
    if type(module) is not nn.BatchNorm2d and children != TIMM_CHILDREN:
        raise ValueError(
            f"{type(module).__name__} has no synchronized form here: with "
            "--set student.sync_batch_norm=false (or teacher.), each process uses its own views"
        )
    if device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    else:
        synced = _CpuSyncBatchNorm.of(module)
    for name in children:  # both forms keep the children, and neither calls them
        synced.register_forward_hook(partial(_apply_child, name))
    return synced


def _apply_child(name: str, module: nn.Module, _: Any, output: Tensor) -> Tensor:
    applied: Tensor = module.get_submodule(name)(output)
    return applied


class _CpuSyncBatchNorm(nn.BatchNorm2d):
    """Synchronized batch normalization for CPUs, with gradients through the exchange."""

    @classmethod
    def of(cls, module: nn.BatchNorm2d) -> _CpuSyncBatchNorm:
        synced = cls(module.num_features, eps=module.eps, momentum=module.momentum)
        synced.__dict__.update(module.__dict__)  # shares the parameters
        return synced

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.to(self.weight.dtype)  # a convolution under autocast returns bfloat16
        own_count = values.new_full((1,), values.numel() / self.num_features)
        sums = _sum(torch.cat([values.sum((0, 2, 3)), own_count]))
        count = sums[-1].detach()
        centered = values - (sums[:-1] / count)[:, None, None]
        # From the centered values: the difference of two large sums would lose precision.
        variance = _sum(centered.square().sum((0, 2, 3))) / count
        self._track(sums[:-1].detach() / count, variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalized: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1


class _Sum(torch.autograd.Function):
    """Sum over all processes. Every process's loss depends on it, so its gradient is summed too."""

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
