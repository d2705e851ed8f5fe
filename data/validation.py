"""A quick look at a data set before anything is trained on it: no epoch dies of a bad sample."""

from __future__ import annotations

import numpy as np

from .samples import Images, SampleSet

NAMED_PROBLEMS = 5

# Annotators do place joints a little beyond the edge; a whole image side beyond is a mistake.
JOINT_SLACK = 1.0
MIN_BOX_PX = 4.0


def check(samples: SampleSet) -> None:
    """Look at every label, and at every image's existence, header and end.

    Raises:
        ValueError: naming the first few samples that cannot be used, and how many there are.
    """
    found = problems(samples)
    if found:
        more = len(found) - NAMED_PROBLEMS
        tail = f"; and {more} more (`fpd check-data` lists all)" if more > 0 else ""
        raise ValueError(
            f"{samples.name}: {len(found)} of {len(samples)} samples cannot be used: "
            + "; ".join(found[:NAMED_PROBLEMS])
            + tail
        )


def problems(samples: SampleSet) -> list[str]:
    """What is wrong, one sentence a sample that cannot be used, in the set's order.

    An image that several people share is opened once.
    """
    found = _label_problems(samples)
    sizes = {int(image): _size(samples.images, int(image)) for image in np.unique(samples.image_N)}
    known_N2 = np.full((len(samples), 2), np.inf)
    for index, image in enumerate(samples.image_N):
        size = sizes[int(image)]
        if isinstance(size, str):
            found.setdefault(index, size)
        else:
            known_N2[index] = size
    for index in _far_outside(samples, known_N2):
        found.setdefault(index, _describe_outside(samples, index, known_N2[index]))
    return [f"{samples.ids[index]}: {found[index]}" for index in sorted(found)]


def _label_problems(samples: SampleSet) -> dict[int, str]:
    """By index: what is wrong with joints and boxes, without a look at images."""
    joints_NK2, side_N = samples.joints_NK2, samples.side_N
    half_nan_NK = np.isnan(joints_NK2).sum(-1) == 1
    infinite_N = np.isinf(joints_NK2).any((1, 2)) | half_nan_NK.any(1)
    nowhere_N = ~np.isfinite(samples.center_N2).all(-1)
    boxless_N = ~((side_N >= MIN_BOX_PX) & (side_N < np.inf))
    found = {int(i): "a joint's coordinates are not finite" for i in np.flatnonzero(infinite_N)}
    for index in map(int, np.flatnonzero(nowhere_N)):
        center = tuple(samples.center_N2[index].tolist())
        found.setdefault(index, f"expected a box with a finite center, found {center}")
    for index in map(int, np.flatnonzero(boxless_N)):
        side = f"expected a box of at least {MIN_BOX_PX:g} pixels, found side {side_N[index]:g}"
        found.setdefault(index, side)
    return found


def _size(images: Images, image: int) -> tuple[int, int] | str:
    """Width and height, or why there are none."""
    try:
        return images.size(image)
    except ValueError as error:
        return str(error)


def _far_outside(samples: SampleSet, size_N2: np.ndarray) -> list[int]:
    size_N12 = size_N2[:, None]
    slack_N11 = JOINT_SLACK * size_N12.max(-1, keepdims=True)
    outside_NK2 = (samples.joints_NK2 < -slack_N11) | (samples.joints_NK2 > size_N12 + slack_N11)
    return [int(i) for i in np.flatnonzero(outside_NK2.any((1, 2)))]


def _describe_outside(samples: SampleSet, index: int, size_2: np.ndarray) -> str:
    slack = JOINT_SLACK * size_2.max()
    joints_K2 = samples.joints_NK2[index]
    outside_K = ((joints_K2 < -slack) | (joints_K2 > size_2 + slack)).any(-1)
    joint = int(np.flatnonzero(outside_K)[0])
    x, y = joints_K2[joint]
    return (
        f"{samples.skeleton.joints[joint]} at ({x:g}, {y:g}) is far outside its "
        f"{size_2[0]:g} x {size_2[1]:g} image"
    )
