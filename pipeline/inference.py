"""A trained network's joints for every person of a set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..data.augmentation import Augmentation, invert, transform
from ..data.samples import SampleSet
from ..data.targets import decode
from ..data.views import Views
from .inputs import normalise
from .metrics import Pck, pck
from .recipe import Recipe
from .training.feed import make_loader, plain_batches

BATCH = 32


def predict(
    network: nn.Module, recipe: Recipe, samples: SampleSet, device: torch.device
) -> NDArray[np.float64]:
    """Joints of each person from its plain crop.

    Returns:
        float64 (N, K, 2), pixels of the original images.
    """
    views = Views(samples, recipe.geometry, Augmentation(), seed=0)
    loader = make_loader(views, plain_batches(samples, BATCH), recipe.loader, device)
    training = network.training
    network.eval()
    predicted = []
    with torch.inference_mode():
        for batch in loader:
            heatmaps = network(normalise(batch["crop"], device))[-1]
            joints = decode(heatmaps)[0].cpu().double().numpy()
            image_from_crop = invert(batch["affine"].numpy())
            predicted.append(transform(image_from_crop, recipe.geometry.to_crop(joints)))
    network.train(training)
    return np.concatenate(predicted)


def score(network: nn.Module, recipe: Recipe, samples: SampleSet, device: torch.device) -> Pck:
    """PCK of a network on a set."""
    predicted = predict(network, recipe, samples, device)
    return pck(predicted, samples.joints_NK2, samples.normaliser_N, samples.skeleton)
