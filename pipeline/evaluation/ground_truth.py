"""What predictions are scored against: MPII's and LSP's own label files, told apart by content.

Shape letters: N people that are scored, K joints, M people that there are predictions for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...data.io.arrays import arrays, listing
from ...data.readers import lsp, mpii
from ...data.samples import normalizer_lengths
from ...data.skeletons import LSP, MPII, Skeleton


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The people to score.

    Attributes:
        people: who they are, for the reader of a report.
        joints_NK2: float64 (x, y) in pixels as the file has them; NaN where a joint is missing.
        normalizer_N: each person's unit of length, pixels; 0 where there is none.
        first_pixel: the coordinate that the file gives to the center of the top-left pixel.
        rows: for each M that is accepted, which of M predictions belong to the people scored.
    """

    skeleton: Skeleton
    people: str
    joints_NK2: NDArray[np.float64]
    normalizer_N: NDArray[np.float64]
    first_pixel: int
    rows: dict[int, NDArray[np.int64]]


def read_ground_truth(path: Path) -> GroundTruth:
    """The labels of MPII's `gt_valid.mat` or LSP's `joints.mat`.

    Raises:
        ValueError: it is neither, or damaged.
    """
    found = arrays(path)
    if path.suffix.lower() == ".mat":
        if set(mpii.GROUND_TRUTH_SHAPES) <= set(found):
            return _mpii(path)
        if "joints" in found:
            return _lsp(path)
    raise ValueError(
        f"{path}: expected MPII's gt_valid.mat ({', '.join(mpii.GROUND_TRUTH_SHAPES)}) or LSP's "
        f"joints.mat (joints), found {listing(found)}"
    )


def _mpii(path: Path) -> GroundTruth:
    joints_NK2, head_N = mpii.read_ground_truth(path)
    count = len(joints_NK2)
    rows = {count: np.arange(count)}
    return GroundTruth(MPII, f"all {count} of MPII's file", joints_NK2, head_N, 1, rows)


def _lsp(path: Path) -> GroundTruth:
    """Of LSP as published, the test photographs that are not also training photographs, as the
    reader has them; of a file with another number of people, all.
    """
    joints_NK2 = lsp.read_joints(path, rows="coordinates").transpose(2, 1, 0)[..., :2]
    count = len(joints_NK2)
    people, scored = f"all {count} of the file", np.arange(count)
    rows = {count: scored}
    if count == lsp.IMAGES:
        without = ", ".join(map(str, lsp.TEST_IMAGES_SEEN_IN_TRAINING))
        people = (
            f"LSP's images {lsp.TRAIN_IMAGES + 1} to {lsp.IMAGES} without {without}, which are "
            "training images too"
        )
        scored = lsp.images_of("test", lsp.IMAGES) - 1
        rows = {
            lsp.IMAGES: scored,
            lsp.IMAGES - lsp.TRAIN_IMAGES: scored - lsp.TRAIN_IMAGES,
            len(scored): np.arange(len(scored)),
        }
    scored_K2 = joints_NK2[scored]
    return GroundTruth(LSP, people, scored_K2, normalizer_lengths(scored_K2, LSP), 1, rows)
