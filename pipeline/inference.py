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
from .stopping import Interrupted, Stop
from .training.feed import in_batches, make_loader, plain_keys
from .training.group import ALONE, Group

BATCH = 32


def predict(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: Group = ALONE,
    stop: Stop | None = None,
) -> NDArray[np.float64]:
    """Joints of each person from its plain crop.

    Args:
        group: the processes that share the work; each gets the whole result.
        stop: looked at after every batch.

    Returns:
        float64 (N, K, 2), pixels of the original images.

    Raises:
        Interrupted: in all processes, where `stop` was set in any.
    """
    views = Views(samples, recipe.geometry, Augmentation(), seed=0)
    keys = group.share(plain_keys(samples))
    loader = make_loader(views, in_batches(keys, BATCH), recipe.loader, device)
    predicted = torch.zeros(samples.joints_NK2.shape, dtype=torch.float64)
    training = network.training
    network.eval()
    with torch.inference_mode():
        for batch in loader:
            heatmaps = network(normalise(batch["crop"], device))[-1]
            joints = decode(heatmaps)[0].cpu().double().numpy()
            image_from_crop = invert(batch["affine"].numpy())
            in_image = transform(image_from_crop, recipe.geometry.to_crop(joints))
            predicted[batch["index"]] = torch.from_numpy(in_image)
            if stop is not None and stop.is_set():
                break
    network.train(training)
    number = int(group.highest([0 if stop is None else stop.signal])[0])
    if number:
        raise Interrupted("scoring stopped", number)
    return np.asarray(group.sum(predicted).numpy())


def score(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: Group = ALONE,
    stop: Stop | None = None,
    tau: float | None = None,
) -> Pck:
    """PCK of a network on a set; see `predict`, and `metrics.pck` for `tau`."""
    predicted = predict(network, recipe, samples, device, group, stop)
    return pck(predicted, samples.joints_NK2, samples.normaliser_N, samples.skeleton, tau)
