"""Check labels and images before training, so that no epoch fails at an unusable sample."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .io.images import MISSING_ADVICE
from .samples import ImageSource, SampleSet

MAX_LISTED_PROBLEMS = 5

# Annotators do place joints a little outside the image. Further outside than this multiple of the
# image's longer side, a joint is a mistake.
JOINT_SLACK = 1.0
MIN_BOX_PX = 4.0


class Problem(NamedTuple):
    """Why samples cannot be used.

    Attributes:
        sample: the id of the first such sample.
        message: what is wrong, with the sample's labels or with a file or folder of images.
        samples: their number; more than 1 where they share the file or folder.
        of_image: whether it is the file or folder that is wrong.
    """

    sample: str
    message: str
    samples: int
    of_image: bool

    def __str__(self) -> str:
        others = self.samples - 1
        more = f" ({others} more {'sample' if others == 1 else 'samples'})" if others else ""
        return f"{self.sample}: {self.message}{more}"


def check(samples: SampleSet) -> None:
    """Check all labels and, of each image, that it exists, its header and a JPEG's end.

    Raises:
        ValueError: samples cannot be used; the message counts them and names the first few.
    """
    problems = find_problems(samples)
    if problems:
        more = len(problems) - MAX_LISTED_PROBLEMS
        tail = f"; and {more} more (`fpd check-data` lists all)" if more > 0 else ""
        unusable = sum(problem.samples for problem in problems)
        raise ValueError(
            f"{samples.name}: {unusable} of {len(samples)} samples cannot be used: "
            + _listed(problems[:MAX_LISTED_PROBLEMS], tail)
        )


def _listed(problems: list[Problem], tail: str) -> str:
    """The problems as text; advice on missing images, which many may have in common, comes once."""
    texts = list(map(str, problems))
    if sum(MISSING_ADVICE in text for text in texts) > 1:
        texts = [text.replace(MISSING_ADVICE, "") for text in texts]
        tail += f"; an image that is missing{MISSING_ADVICE}"
    return "; ".join(texts) + tail


def find_problems(samples: SampleSet) -> list[Problem]:
    """The samples that cannot be used, in the set's order.

    Each sample counts in one problem. An image that several samples share is opened once; it, or a
    folder that is missing, is one problem.
    """
    problems_by_index = label_problems(samples)
    sizes = {int(image): _size(samples.images, int(image)) for image in np.unique(samples.image_N)}
    size_N2 = np.full((len(samples), 2), np.inf)  # inf where the image is unusable
    samples_by_message: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(samples.image_N):
        size = sizes[int(image)]
        if not isinstance(size, str):
            size_N2[index] = size
        elif index not in problems_by_index:
            samples_by_message[size].append(index)
    for index in _far_outside(samples, size_N2):
        problems_by_index.setdefault(index, _describe_outside(samples, index, size_N2[index]))
    problems = {
        index: Problem(samples.ids[index], message, 1, of_image=False)
        for index, message in problems_by_index.items()
    }
    for message, indices in samples_by_message.items():
        first = samples.ids[indices[0]]
        problems[indices[0]] = Problem(first, message, len(indices), of_image=True)
    return [problems[index] for index in sorted(problems)]


def label_problems(samples: SampleSet) -> dict[int, str]:
    """Problems with joints and boxes that show without the images, by sample index."""
    joints_NK2, side_N = samples.joints_NK2, samples.side_N
    half_nan_NK = np.isnan(joints_NK2).sum(-1) == 1
    not_finite_N = np.isinf(joints_NK2).any((1, 2)) | half_nan_NK.any(1)
    bad_center_N = ~np.isfinite(samples.center_N2).all(-1)
    bad_side_N = ~((side_N >= MIN_BOX_PX) & (side_N < np.inf))
    problems = {
        int(i): "a joint's coordinates are not finite" for i in np.flatnonzero(not_finite_N)
    }
    for index in map(int, np.flatnonzero(bad_center_N)):
        center = tuple(samples.center_N2[index].tolist())
        problems.setdefault(index, f"expected a box with a finite center, found {center}")
    for index in map(int, np.flatnonzero(bad_side_N)):
        message = f"expected a box of at least {MIN_BOX_PX:g} pixels, found side {side_N[index]:g}"
        problems.setdefault(index, message)
    return problems


def _size(images: ImageSource, image: int) -> tuple[int, int] | str:
    """Width and height, or why the image cannot be used."""
    try:
        return images.size(image)
    except ValueError as error:
        return str(error)


def _far_outside(samples: SampleSet, size_N2: NDArray[np.float64]) -> list[int]:
    size_N12 = size_N2[:, None]
    slack_N11 = JOINT_SLACK * size_N12.max(-1, keepdims=True)
    outside_NK2 = (samples.joints_NK2 < -slack_N11) | (samples.joints_NK2 > size_N12 + slack_N11)
    return [int(i) for i in np.flatnonzero(outside_NK2.any((1, 2)))]


def _describe_outside(samples: SampleSet, index: int, size_2: NDArray[np.float64]) -> str:
    slack = JOINT_SLACK * size_2.max()
    joints_K2 = samples.joints_NK2[index]
    outside_K = ((joints_K2 < -slack) | (joints_K2 > size_2 + slack)).any(-1)
    joint = int(np.flatnonzero(outside_K)[0])
    x, y = joints_K2[joint]
    return (
        f"{samples.skeleton.joints[joint]} at ({x:g}, {y:g}) is far outside its "
        f"{size_2[0]:g} x {size_2[1]:g} image"
    )
