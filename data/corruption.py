"""Training labels made worse on purpose, to learn what a teacher is worth where labels are poor.

Shape letters: N samples, K joints.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .samples import SampleSet
from .settings import Settings


class LabelCorruption(Settings):
    """How training labels are spoilt; held-out and test people keep theirs."""

    unlabeled: float = Field(
        0.0, ge=0, lt=1, description="share of people who lose all labels; boxes are left"
    )
    missing: float = Field(0.0, ge=0, lt=1, description="probability that a joint loses its label")
    noise: float = Field(
        0.0, ge=0, le=1, description="std of a label's displacement, in sides of the person's box"
    )
    swapped: float = Field(
        0.0, ge=0, le=1, description="probability that a person's left and right change places"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="another seed spoils other labels")


def corrupt_labels(people: SampleSet, dials: LabelCorruption) -> SampleSet:
    """The same people with worse labels.

    What happens to a person hangs on the seed and the person's id alone; turning a dial up spoils
    more of what it spoilt before, and nothing that it had not reached comes out differently.
    """
    if dials == LabelCorruption(seed=dials.seed):
        return people
    flip_indices = list(people.skeleton.flip_indices)
    joints_NK2 = people.joints_NK2.copy()
    for index in range(len(people)):
        generator = _generator(dials.seed, int(people.id_hash_N[index]))
        lost, swapped = generator.random(2)
        missing_K = generator.random(len(flip_indices)) < dials.missing
        moved_K2 = (
            generator.standard_normal((len(flip_indices), 2)) * dials.noise * people.side_N[index]
        )
        if swapped < dials.swapped:
            joints_NK2[index] = joints_NK2[index, flip_indices]
        joints_NK2[index] += moved_K2
        joints_NK2[index, missing_K | (lost < dials.unlabeled)] = np.nan
    return replace(people, joints_NK2=joints_NK2)


def labeled(people: SampleSet) -> NDArray[np.bool_]:
    """Who has any label, bool (N,)."""
    return np.asarray(~np.isnan(people.joints_NK2).any(-1).all(-1))


def _generator(seed: int, id_hash: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, id_hash], dtype=np.uint64)))
