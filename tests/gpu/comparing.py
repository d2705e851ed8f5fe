"""Inputs of the tests of a GPU, and how they compare its results with a CPU's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from fpd.data.heatmap_codec import encode
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views
from fpd.pipeline.models.hourglass import HourglassSettings

CPU = torch.device("cpu")
NETWORK = HourglassSettings(stages=2, channels=16, stem="ports")
JOINTS = 14


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


@contextmanager
def spare_memory(device: torch.device, spare_bytes: int) -> Iterator[None]:
    """Limit a GPU's memory to what is reserved and so many bytes more."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    limit = torch.cuda.memory_reserved(device) + spare_bytes
    torch.cuda.set_per_process_memory_fraction(limit / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def random_joints(views: int, size_px: int, seed: int = 0) -> Tensor:
    """Float32 (B, K, 2): inside the map, around its edges, and every fifth one not labeled."""
    generator = torch.Generator().manual_seed(seed)
    joints = torch.rand(views, JOINTS, 2, generator=generator) * (size_px + 4) - 2
    joints.view(-1, 2)[::5] = torch.nan
    return joints


def random_heatmaps(views: int, size_px: int, seed: int = 0) -> Tensor:
    """Float32 (B, K, H, W): smooth, noisy and empty maps, with peaks of up to 1.2."""
    generator = torch.Generator().manual_seed(seed)
    maps, _ = encode(random_joints(views, size_px, seed), size_px, 1.5)
    noise = torch.rand(maps.shape, generator=generator)
    share = torch.tensor([0.0, 0.02, 0.5]).repeat(views * JOINTS)[: views * JOINTS]
    maps = maps + share.view(views, JOINTS, 1, 1) * noise
    return maps * torch.rand(views, JOINTS, 1, 1, generator=generator) * 1.2


def label_batch(recipe: Recipe, samples: SampleSet, views: int) -> dict[str, Tensor]:
    """Collated views of the first samples."""
    dataset = fresh_views(recipe, samples, 0)
    batch: dict[str, Tensor] = default_collate([dataset[index, 0] for index in range(views)])
    return batch


def build_network(settings: HourglassSettings = NETWORK, *, smooth: bool = False) -> nn.Module:
    """A network on the CPU whose heads are no longer near zero, so that all weights matter.

    Args:
        smooth: with SiLU for ReLU. Its gradient is continuous; with ReLU, rounding decides which of
            the activations that are nearly 0 have one.
    """
    torch.manual_seed(0)
    network = settings.build(JOINTS)
    for head in network.score:
        assert isinstance(head, nn.Conv2d)
        nn.init.normal_(head.weight, std=0.1)
    if smooth:
        _replace_relu(network)
    return network


def _replace_relu(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a share of the expected norm."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


def share_of_equal_joints(
    found_NK2: NDArray[np.float64], expected_NK2: NDArray[np.float64]
) -> float:
    """Share of joints within 0.05 pixels of the image.

    The toy model's heatmaps are nearly flat, so that rounding may move a maximum.
    """
    return float((np.linalg.norm(found_NK2 - expected_NK2, axis=-1) < 0.05).mean())
