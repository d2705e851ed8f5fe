"""From crops to a network's input: the formula in float64, and the memory format."""

from __future__ import annotations

import numpy as np
import torch

from fpd.pipeline.models.preprocessing import normalize

CPU = torch.device("cpu")


def test_pixels_are_normalized_per_channel() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    crop[0, 0, 0], crop[0, 0, 1] = 0, 255
    mean = np.array([0.485, 0.456, 0.406])  # ImageNet's, RGB, as torchvision states them
    std = np.array([0.229, 0.224, 0.225])
    expected = ((crop.astype(np.float64) / 255 - mean) / std).transpose(0, 3, 1, 2)
    inputs = normalize(torch.from_numpy(crop), CPU)
    assert inputs.dtype == torch.float32
    np.testing.assert_allclose(inputs.numpy(), expected, atol=2e-6, rtol=1e-6)


def test_the_memory_format_is_channels_last() -> None:
    inputs = normalize(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), CPU)
    assert inputs.shape == (2, 3, 4, 4)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_the_crop_is_not_modified() -> None:
    crop = torch.full((1, 2, 2, 3), 200, dtype=torch.uint8)
    normalize(crop, CPU)
    assert (crop == 200).all()
