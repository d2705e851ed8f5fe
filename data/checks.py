"""A quick look at a data set before anything is trained on it: no epoch dies of a bad sample."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .samples import SampleSet

NAMED_PROBLEMS = 5

# Annotators do place joints a little beyond the edge; a whole image side beyond is a mistake.
JOINT_SLACK = 1.0
MIN_BOX_PX = 4.0


def check(samples: SampleSet) -> None:
    """Look at every label, and at every image's existence and header.

    Raises:
        ValueError: naming the first few samples that cannot be used, and how many there are.
    """
    problems = list(_problems(samples))
    if problems:
        more = len(problems) - NAMED_PROBLEMS
        tail = f"; and {more} more" if more > 0 else ""
        raise ValueError(
            f"{samples.name}: {len(problems)} of {len(samples)} samples cannot be used: "
            + "; ".join(problems[:NAMED_PROBLEMS])
            + tail
        )


def _problems(samples: SampleSet) -> Iterator[str]:
    for index in range(len(samples)):
        problem = _problem(samples, index)
        if problem:
            yield f"{samples.ids[index]}: {problem}"


def _problem(samples: SampleSet, index: int) -> str | None:
    sample = samples[index]
    if np.isinf(sample.joints_K2).any() or (np.isnan(sample.joints_K2).sum(-1) == 1).any():
        return "a joint's coordinates are not finite"
    if not np.isfinite(sample.centre_2).all():
        return f"expected a box with a finite centre, found {tuple(sample.centre_2.tolist())}"
    if not MIN_BOX_PX <= sample.side_px < np.inf:
        return f"expected a box of at least {MIN_BOX_PX:g} pixels, found side {sample.side_px:g}"
    try:
        size_2 = np.array(samples.images.size(sample.image))
    except ValueError as error:
        return str(error)
    slack = JOINT_SLACK * size_2.max()
    outside = (sample.joints_K2 < -slack) | (sample.joints_K2 > size_2 + slack)
    if outside.any():
        joint = int(np.flatnonzero(outside.any(-1))[0])
        x, y = sample.joints_K2[joint]
        name = samples.skeleton.joints[joint]
        return f"{name} at ({x:g}, {y:g}) is far outside its {size_2[0]} x {size_2[1]} image"
    return None
