"""Parts of a data set: samples up to a limit, those whose images are there, and held-out images.

What is selected depends on names and files alone: caching and training select the same samples.

Shape letters: N samples, I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .io.images import ImageFolder
from .samples import SampleSet, Tally, id_hash


def limited(samples: SampleSet, limit: int | float | None) -> SampleSet:
    """Some of the samples, in their order: those whose ids have the lowest hashes.

    A smaller limit selects a part of what a larger one does. The hashes are not those that decide
    which samples are held out, so that a share of them is held out as well.

    Args:
        limit: a number of samples, or a share below 1 (one sample at least); None: all.
    """
    if limit is None:
        return samples
    count = max(1, round(limit * len(samples))) if isinstance(limit, float) else limit
    if count >= len(samples):
        return samples
    hash_N = np.array([id_hash(f"limit/{name}") for name in samples.ids], np.uint64)
    kept_N = np.zeros(len(samples), np.bool_)
    kept_N[np.argsort(hash_N, kind="stable")[:count]] = True
    return _take(samples, kept_N, f"over data.limit = {limit:g}")


def without_missing_images(samples: SampleSet) -> SampleSet:
    """The samples whose image is a file that exists; all of them if images are no files."""
    if not isinstance(samples.images, ImageFolder):
        return samples
    used = np.unique(samples.image_N)
    missing = [image for image in used if not _is_file(samples.images, int(image))]
    return _take(samples, ~np.isin(samples.image_N, missing), "whose image is missing")


def _is_file(images: ImageFolder, index: int) -> bool:
    try:
        return images.path(index).is_file()
    except OSError:  # a name that no file can have
        return False


def held_out_images(names: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Mask of the images to hold out: those whose names' hashes are in the lowest share.

    Of few images, where that is none, the one with the lowest. One at least is not held out.

    Returns:
        bool (I,).
    """
    hashes = np.array([id_hash(name) for name in names], np.uint64)
    if len(hashes) < 2:
        return np.zeros(len(hashes), np.bool_)
    is_held_out = hashes < np.uint64(share * 2.0**64)
    is_held_out[hashes.argmin()] = True
    is_held_out[hashes.argmax()] = False
    return is_held_out


def _take(samples: SampleSet, kept_N: NDArray[np.bool_], reason: str) -> SampleSet:
    """The samples of a mask, with a tally of the others."""
    left_out = int((~kept_N).sum())
    if not left_out:
        return samples
    tally = Tally(f"the samples of {samples.name}", len(samples), ((reason, left_out),))
    kept = samples.take(np.flatnonzero(kept_N))
    return replace(kept, tallies=(*samples.tallies, tally))
