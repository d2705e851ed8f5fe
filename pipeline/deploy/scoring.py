"""A deployed model's PCK: the same people, crops and score as `inference.score`, asked by file."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.augmentation import Augmentation, invert, transform
from ...data.samples import SampleSet
from ...data.views import PLAIN, Views
from ..inference import BATCH
from ..metrics import Pck, pck
from ..recipe import Recipe
from ..training.feed import in_batches, make_loader
from .deployable import Answerer


def score(answer: Answerer, recipe: Recipe, samples: SampleSet) -> Pck:
    """PCK on a set, one pass a person.

    Args:
        recipe: with the model's geometry.
    """
    views = Views(samples, recipe.geometry, Augmentation(), 0)
    keys = [[(i, PLAIN) for i in part] for part in in_batches(range(len(samples)), BATCH)]
    found: list[NDArray[np.float64]] = []
    for batch in make_loader(views, keys, recipe.loader, torch.device("cpu")):
        in_crop = answer(batch["crop"].numpy()).joints.astype(np.float64)
        found.append(transform(invert(batch["affine"].numpy()), in_crop))
    return pck(np.concatenate(found), samples.joints_NK2, samples.normaliser_N, samples.skeleton)
