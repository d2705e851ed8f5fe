"""Training labels degraded on purpose, to measure how much a teacher helps with poor labels.

Shape letters: N samples, K joints.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .samples import SampleSet
from .sections import LabelCorruption


def corrupt_labels(samples: SampleSet, corruption: LabelCorruption) -> SampleSet:
    """The same samples with degraded labels.

    A sample's corruption depends only on the seed and the sample's id. With a larger probability
    or share, the labels corrupted before are corrupted in the same way, and further ones are added.
    """
    if corruption == LabelCorruption(seed=corruption.seed):
        return samples
    flip_indices = list(samples.skeleton.flip_indices)
    joints_NK2 = samples.joints_NK2.copy()
    for index in range(len(samples)):
        generator = _generator(corruption.seed, int(samples.id_hash_N[index]))
        u_unlabeled, u_swapped = generator.random(2)
        missing_K = generator.random(len(flip_indices)) < corruption.missing
        normal_K2 = generator.standard_normal((len(flip_indices), 2))
        if u_swapped < corruption.swapped:
            joints_NK2[index] = joints_NK2[index, flip_indices]
        joints_NK2[index] += normal_K2 * corruption.noise * samples.side_N[index]
        joints_NK2[index, missing_K | (u_unlabeled < corruption.unlabeled)] = np.nan
    return replace(samples, joints_NK2=joints_NK2)


def has_labels(samples: SampleSet) -> NDArray[np.bool_]:
    """Mask of the samples with at least one labeled joint, bool (N,)."""
    return np.asarray(~np.isnan(samples.joints_NK2).any(-1).all(-1))


def _generator(seed: int, id_hash: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, id_hash], dtype=np.uint64)))
